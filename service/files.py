"""Files that are whole or not there: written aside, synced, linked into place, and the link synced too."""

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


def put(source: Path, target: Path) -> None:
    """Gives a synced file its place, durably, before the row that names it is committed. What is there stays.

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
