"""A copy of everything that cannot be made again, taken while the service runs, and put back where nothing is.

The database is copied as of one moment (VACUUM INTO), then the files that it names. Those are named by their SHA-256
and never change, so a copy is checked as it is read; one that was removed since that moment means another moment.
Packed caches and logs are left out, and uploads under way.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import pysqlite3
from pydantic import BaseModel, Field, ValidationError
from sqlalchemy import delete, func, select

import service
from service.datasets.versions import archive_path
from service.db import Base, Database
from service.db.tables import DatasetVersion, PredictionItem, Upload
from service.errors import Conflict, InternalError, InvalidValue
from service.files import sync_folder
from service.ids import now, rfc3339
from service.predictions import picture_path
from service.settings import Settings

FORMAT = 1
DATABASE, MANIFEST, RESTORING = "fovea.db", "manifest.json", "restoring"
MOMENTS = 5  # that are tried, should files go while they are copied
CHUNK = 2**20  # bytes


class Manifest(BaseModel):
    """What a backup says of itself."""

    format: Annotated[int, Field(ge=1)] = FORMAT
    fovea: str  # the version that made it
    made_at: str
    bytes: int
    rows: dict[str, int]  # by table
    files: dict[str, str]  # SHA-256 by path


Advance = Callable[[int, int], None]
"""Told after each file: how many are done, and of how many."""


class _Gone(Exception):
    """A file that the snapshot names was removed."""


def write(settings: Settings, target: Path, advance: Advance = lambda *_: None) -> Manifest:
    """Backs the data folder up into a new folder, which is there only when it is whole. Returns its manifest.

    Raises InvalidValue when the target exists or the database is PostgreSQL's, InternalError when a file is damaged.
    """
    source = _sqlite(settings)
    if target.exists():
        raise InvalidValue("target_exists", f"{target} exists", hint="name a folder that is not there yet")
    with _aside(target.with_name(f"{target.name}.part")) as part:
        for moment in range(MOMENTS):
            try:
                manifest = _copy(settings, source, part, advance)
                break
            except _Gone as error:
                if moment + 1 == MOMENTS:
                    raise InternalError("file_missing", f"{error} is not there, but the database names it") from error
        (part / MANIFEST).write_text(manifest.model_dump_json(indent=2), "utf-8")
        part.rename(target)
        sync_folder(target.parent)
    return manifest


def restore(settings: Settings, source: Path, advance: Advance = lambda *_: None) -> Manifest:
    """Puts a backup into the data folder, which must be empty or not there; it is filled only when all is right.

    Raises InvalidValue for what is no backup, a damaged one, or one of a newer Fovea's format, Conflict when there are
    data already.
    """
    _sqlite(settings, must_exist=False)
    manifest = _manifest(source)
    if settings.data.exists() and any(path.name != RESTORING for path in settings.data.iterdir()):
        raise Conflict("data_exist", f"{settings.data} is not empty", hint="set FOVEA_DATA to a folder that is")
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _aside(settings.data / RESTORING) as part:  # within it, for it may be a volume of its own
        for count, (name, sha256) in enumerate(manifest.files.items(), 1):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise InvalidValue("backup_damaged", f"a backup has no file {name}")
            try:
                found = _copy_file(source / name, part / name)
            except _Gone as error:
                raise InvalidValue("backup_damaged", f"{name} is missing in {source}") from error
            if found != sha256:
                raise InvalidValue("backup_damaged", f"{name} is not what was backed up")
            advance(count, len(manifest.files))
        for path in sorted(part.iterdir(), key=lambda path: path.name == DATABASE):  # which makes it whole
            path.rename(settings.data / path.name)
        part.rmdir()
        sync_folder(settings.data)
    return manifest


def _copy(settings: Settings, source: Path, part: Path, advance: Advance) -> Manifest:
    """One moment of the database, and its files. What an earlier moment has copied is used again."""
    snapshot = part / DATABASE
    snapshot.unlink(missing_ok=True)
    with closing(pysqlite3.connect(source)) as connection:
        connection.execute("VACUUM INTO ?", (str(snapshot),))
    named, rows = _named(settings, snapshot)
    files = {DATABASE: _sha256(snapshot)}
    for count, (path, sha256) in enumerate(named.items(), 1):
        name = path.relative_to(settings.data)
        files[str(name)] = found = _sha256(part / name) if (part / name).exists() else _copy_file(path, part / name)
        if sha256 is not None and found != sha256:
            raise InternalError("file_damaged", f"{path} does not match its SHA-256", hint="bring back the right one")
        advance(count, len(named))
    for path in [path for path in part.rglob("*") if path.is_file() and str(path.relative_to(part)) not in files]:
        path.unlink()  # of an earlier moment
    sizes = sum((part / name).stat().st_size for name in files)
    return Manifest(fovea=service.__version__, made_at=rfc3339(now()), bytes=sizes, rows=rows, files=files)


def _named(settings: Settings, snapshot: Path) -> tuple[dict[Path, str | None], dict[str, int]]:
    """The files that it names with their SHA-256, and its rows by table. Uploads under way are taken out of it."""
    database = Database(f"sqlite:///{snapshot}")
    try:
        with database.write() as session:
            session.execute(delete(Upload))
            archives = session.scalars(select(DatasetVersion.archive_sha256).distinct())
            pictures = session.scalars(select(PredictionItem.image).where(PredictionItem.image.is_not(None)).distinct())
            named: dict[Path, str | None] = {archive_path(settings, sha256): sha256 for sha256 in archives}
            named |= {picture_path(settings, sha256): sha256 for sha256 in pictures if sha256 is not None}
            tables = Base.metadata.sorted_tables
            rows = {table.name: session.scalar(select(func.count()).select_from(table)) or 0 for table in tables}
    finally:
        database.dispose()
    with closing(pysqlite3.connect(snapshot)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")  # all of it in one file, which can be copied
    if settings.admin_key_file.exists():
        named[settings.admin_key_file] = None
    return named, rows


def _copy_file(path: Path, copy: Path) -> str:
    """Copies with the mode; the SHA-256 of what was read. Raises _Gone when it is not there."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    try:
        with path.open("rb") as source, copy.open("wb") as target:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                target.write(chunk)
            target.flush()
            os.fsync(target.fileno())
    except FileNotFoundError as error:
        copy.unlink(missing_ok=True)
        raise _Gone(path.name) from error
    shutil.copymode(path, copy)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _aside(part: Path) -> Iterator[Path]:
    """A new folder for what is not whole yet, gone if it never is."""
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True, mode=0o700)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _manifest(source: Path) -> Manifest:
    try:
        manifest = Manifest.model_validate_json((source / MANIFEST).read_bytes())
        manifest.files[DATABASE]
    except (OSError, ValidationError, KeyError) as error:
        hint = "name the folder that `fovea backup` made"
        raise InvalidValue("not_a_backup", f"{source} is no backup", hint=hint) from error
    if manifest.format > FORMAT:
        raise InvalidValue("newer_backup", f"{source} was made by Fovea {manifest.fovea}", hint="update Fovea")
    return manifest


def _sqlite(settings: Settings, *, must_exist: bool = True) -> Path:
    """The database file."""
    if not settings.database.startswith("sqlite:///"):
        hint = f"pg_dump the database, then copy {settings.archives} and {settings.predictions}"
        raise InvalidValue("not_sqlite", "the database is PostgreSQL's, which has its own backups", hint=hint)
    path = Path(settings.database.removeprefix("sqlite:///"))
    if must_exist and not path.exists():
        raise InvalidValue("no_data", f"there is no database in {settings.data}", hint="set FOVEA_DATA")
    return path
