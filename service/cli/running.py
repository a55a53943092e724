"""`fovea up`, `serve`, `work`, `link`, `demo`, `backup`, `restore`, `doctor`: the service and its installation."""

import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service import disk
from service.cli.console import AsJson, bar, connect, out, show
from service.settings import Settings

if TYPE_CHECKING:
    from service.backup import Manifest

SECRETS = {"admin_key", "database_url"}  # the second may hold a password


def up() -> None:
    """Run the service and a worker together, until Ctrl-C."""
    from service.up import up as run

    raise typer.Exit(run())


def serve(
    processes: Annotated[int | None, typer.Option(min=1, help="answer with so many processes on one port")] = None,
) -> None:
    """Run the HTTP service."""
    from service.__main__ import main as run

    if processes is not None:
        os.environ["FOVEA_PROCESSES"] = str(processes)
    run()


def work() -> None:
    """Run a worker."""
    os.execv(sys.executable, [sys.executable, "-m", "workers"])  # noqa: S606 - replaces this process, without a shell


def link() -> None:
    """Print a link that signs a browser in to the page: once, within 15 minutes."""
    with connect() as fovea:
        sys.stdout.write(f"{fovea.url}{fovea.sign_in_path()}\n")


def demo(exit: Annotated[bool, typer.Option("--exit", help="stop the service at the end")] = False) -> None:
    """Learn handwritten digits and name one."""
    from service.demo import demo as run

    run(leave_running=not exit)


def backup(
    target: Annotated[Path, typer.Argument(help="a folder that is not there yet")], as_json: AsJson = False
) -> None:
    """Copy all that cannot be made again, while the service runs; with its keys, so keep it safe."""
    from service.backup import write

    with bar("copying") as (advance, _):
        manifest = write(Settings(), target, advance)
    _tell(manifest, f"backed up into {target}", as_json=as_json)


def restore(source: Annotated[Path, typer.Argument(help="what `fovea backup` made")], as_json: AsJson = False) -> None:
    """Put a backup into an empty data folder (FOVEA_DATA); then start the service."""
    from service.backup import restore as run

    settings = Settings()
    with bar("restoring") as (advance, _):
        manifest = run(settings, source, advance)
    _tell(manifest, f"restored into {settings.data}", as_json=as_json)


def _tell(manifest: "Manifest", done: str, *, as_json: bool) -> None:
    if as_json:
        show(manifest.model_dump(exclude={"files"}), as_json=True)
    else:
        out.print(f"{done}: {len(manifest.files)} files, {manifest.bytes / 2**20:.1f} MiB, {manifest.made_at}")


def doctor(as_json: AsJson = False) -> None:
    """Settings, versions and disk of this installation."""
    import pysqlite3

    settings = Settings()
    free = disk.free(settings)
    facts = {
        "python": platform.python_version(),
        "sqlite": pysqlite3.sqlite_version,
        "disk_free_bytes": free,
        "settings": settings.model_dump(mode="json", exclude=SECRETS),
    }
    if as_json:
        show(facts, as_json=True)
        return
    out.print(f"Python {facts['python']}, SQLite {facts['sqlite']}, {free / 2**30:.1f} GiB free")
    for field, value in settings.model_dump(mode="json", exclude=SECRETS).items():
        out.print(f"FOVEA_{field.upper()} = {value}  ({Settings.model_fields[field].description})")
