"""`fovea datasets`: upload, grow, list, look, remove."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import TransferSpeedColumn

from service.cli.console import AsJson, bar, connect, out, show
from service.client import Fovea, FoveaError

datasets = typer.Typer(no_args_is_help=True, help="Upload and list labelled pictures.")


@datasets.command("push")
def push(source: Path, name: Annotated[str, typer.Option()], as_json: AsJson = False) -> None:
    """Upload a folder or zip of labelled pictures and wait for its import."""
    with connect() as fovea, bar("uploading", TransferSpeedColumn()) as (advance, label):
        pushed = fovea.push_dataset(source, name, advance)
        label("importing")
        version = _imported(fovea, pushed, advance)
    _show_version(name, version, as_json)


@datasets.command("grow")
def grow(
    name: str,
    model: Annotated[str | None, typer.Option(help="only what this model was asked")] = None,
    as_json: AsJson = False,
) -> None:
    """Add the labelled predictions as the next version, and wait for its import."""
    with connect() as fovea, bar("importing") as (advance, _):
        version = _imported(fovea, fovea.grow(name, model=model), advance)
    _show_version(name, version, as_json)


def _imported(fovea: Fovea, pushed: dict[str, Any], advance: Callable[[int, int], None]) -> dict[str, Any]:
    """The version once its job has ended. Raises FoveaError when that failed."""
    for job in fovea.follow(pushed["job"]["id"]):
        if job["progress"]:
            advance(job["progress"]["step"], job["progress"]["steps"])
    if job["status"] != "succeeded":
        raise FoveaError(0, {**(job["error"] or {}), "detail": (job["error"] or {}).get("message", job["status"])})
    return fovea.get(f"/v1/datasets/{pushed['name']}/versions/{pushed['version']}")


def _show_version(name: str, version: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show(version, as_json=True)
        return
    report = version["report"]
    out.print(f"{name}@{version['number']}: {report['accepted']} pictures, {len(report['rejected'])} rejected")
    show(version["classes"], False, ("name", "count"))


@datasets.command("ls")
def list_datasets(as_json: AsJson = False) -> None:
    with connect() as fovea:
        show(list(fovea.rows("/v1/datasets")), as_json, ("name", "versions", "created_at"))


@datasets.command("show")
def show_dataset(
    name: str, version: Annotated[int | None, typer.Option(help="the newest when left out")] = None
) -> None:
    """A version with its import report, as JSON."""
    with connect() as fovea:
        number = version or fovea.get(f"/v1/datasets/{name}")["versions"]
        show(fovea.get(f"/v1/datasets/{name}/versions/{number}"), as_json=True)


@datasets.command("rm")
def remove_dataset(name: str) -> None:
    """Remove a dataset and its pictures; models trained from it stay."""
    with connect() as fovea:
        fovea.delete(f"/v1/datasets/{name}")
