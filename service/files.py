"""Files that are whole or not there: written aside, synced, linked into place, and the link synced too."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from service import disk
from service.ids import new_id


def write_aside(folder: Path, data: bytes) -> Path:
    """The bytes, on the disk, under a name of no meaning; the caller puts or removes the file.

    Raises InsufficientStorage, leaving nothing behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / new_id("up")
    try:
        with disk.written("another file"), path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def mend(source: Path, target: Path, sha256: str) -> None:
    """Gives a synced file the place of one that should be the same and is damaged; `sha256` is of both.

    Reads what is there, so it comes before the transaction that calls `put`. No row need be changed for it.
    """
    try:
        with target.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                return
    except FileNotFoundError:
        return
    aside = source.with_name(new_id("up"))
    os.link(source, aside)
    aside.rename(target)
    sync_folder(target.parent)


def put(source: Path, target: Path) -> None:
    """Gives a synced file its place, durably, before the row that names it is committed. What is there stays:
    see `mend`.

    The caller removes the old name after the commit, so that a death in between loses nothing.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):  # somebody else was quicker with the same bytes
        os.link(source, target)
    for folder in (target.parent, target.parent.parent):
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """What was renamed, linked or made in it stays so."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
