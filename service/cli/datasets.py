"""`fovea datasets`: upload, grow, edit, list, look, find wrong labels, remove."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import TransferSpeedColumn

from service.cli.changes import read_changes, write_changes
from service.cli.console import AsJson, Existing, bar, connect, finished, out, show
from service.client import Fovea, FoveaError

datasets = typer.Typer(no_args_is_help=True, help="Upload and list labelled pictures.")


@datasets.command("push")
def push(source: Existing, name: Annotated[str, typer.Option()], as_json: AsJson = False) -> None:
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


@datasets.command("edit")
def edit(
    name: str,
    changes: Annotated[
        Path, typer.Option(exists=True, help="CSV with the columns image,action,value; image is a SHA-256 or a path")
    ],
    version: Annotated[int | None, typer.Option(help="the newest when left out")] = None,
    as_json: AsJson = False,
) -> None:
    """Make the next version by a list of changes: relabel (value: the label), move (the split), remove."""
    with connect() as fovea:
        number = version or fovea.get(f"/v1/datasets/{name}")["versions"]
        made = fovea.edit_dataset(name, number, read_changes(changes, fovea, name, number))
    _show_version(name, made, as_json)


@datasets.command("suspects")
def suspects(
    name: str,
    version: Annotated[int | None, typer.Option(help="the newest when left out")] = None,
    model: Annotated[str | None, typer.Option(help="a model of the same classes that has a say")] = None,
    limit: Annotated[int, typer.Option(min=1, help="the likeliest")] = 50,
    changes: Annotated[Path | None, typer.Option(help="write what is suggested as changes for `edit`")] = None,
    as_json: AsJson = False,
) -> None:
    """Look for pictures whose label is probably wrong, and list them, the likeliest first."""
    with connect() as fovea, bar("looking") as (advance, _):
        number = version or fovea.get(f"/v1/datasets/{name}")["versions"]
        found = list(islice(_suspects(fovea, name, number, model, advance), limit))
    if changes is not None:
        write_changes(changes, found)
    show(found, as_json, ("path", "label", "suggested", "reason", "message"))


def _suspects(
    fovea: Fovea, name: str, number: int, model: str | None, advance: Callable[[int, int], None]
) -> Iterator[dict[str, Any]]:
    """Those of the kept analysis; of a new one when there is none."""
    filters = {"limit": 200, **({"model": model} if model else {})}
    try:
        yield from fovea.suspects(name, number, **filters)
        return
    except FoveaError as error:
        if error.code != "not_analysed":
            raise
    finished(fovea, fovea.analyse(f"{name}@{number}", model), advance)
    yield from fovea.suspects(name, number, **filters)


def _imported(fovea: Fovea, pushed: dict[str, Any], advance: Callable[[int, int], None]) -> dict[str, Any]:
    """The version once its job has ended. Raises FoveaError when that failed."""
    finished(fovea, pushed["job"], advance)
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
