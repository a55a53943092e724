"""What every command shares: whom it talks to, and how it shows an answer. Names are printed as they are."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from service.client import Fovea, FoveaError
from service.settings import Settings

Existing = Annotated[Path, typer.Argument(exists=True)]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
out = Console(soft_wrap=True, markup=False, highlight=False)  # a class may be called [red]


def connect() -> Fovea:
    """FOVEA_URL and FOVEA_API_KEY, else the service of this data folder with its admin key."""
    settings = Settings()
    url = os.environ.get("FOVEA_URL") or settings.url()
    key = os.environ.get("FOVEA_API_KEY") or settings.admin_key
    if key is None and os.access(settings.admin_key_file, os.R_OK):
        key = settings.admin_key_file.read_text().strip()
    return Fovea(url, key)


def show(answer: Any, as_json: bool, columns: tuple[str, ...] = ()) -> None:
    """A table of the columns, or JSON."""
    if as_json or not columns:
        sys.stdout.write(json.dumps(answer, indent=2, ensure_ascii=False) + "\n")
        return
    table = Table(*columns, box=None)
    for row in answer:
        table.add_row(*(str(row.get(column, "")) for column in columns))
    out.print(table)


def finished(fovea: Fovea, begun: dict[str, Any], advance: Callable[[int, int], None]) -> dict[str, Any]:
    """Follows the job to its end; the job. Raises FoveaError when it did not succeed."""
    job = begun
    for job in fovea.follow(begun["id"]):
        if job["progress"]:
            advance(job["progress"]["step"], job["progress"]["steps"])
    if job["status"] != "succeeded":
        raise ended(job)
    return job


def ended(job: dict[str, Any]) -> FoveaError:
    """Of a job that did not succeed."""
    error = job["error"] or {"code": job["status"], "message": "the job was cancelled"}
    return FoveaError(0, {**error, "detail": error["message"]})


class bar:
    """A progress bar on standard error, gone when standard error is no terminal."""

    def __init__(self, label: str, *columns: Any) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            *columns,
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(label, total=None)

    def __enter__(self) -> tuple[Callable[[int, int], None], Callable[[str], None]]:
        self._progress.start()
        return self._advance, lambda label: self._progress.update(self._task, description=label)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _advance(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)
