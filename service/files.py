"""Files that are whole or not there: written aside, synced, renamed into place, and the rename synced too."""

import os
from pathlib import Path

from service.ids import new_id


def write_aside(folder: Path, data: bytes) -> Path:
    """The bytes, on the disk, under a name of no meaning; the caller puts or removes the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / new_id("up")
    try:
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def put(source: Path, target: Path) -> None:
    """Puts a synced file in its place, durably, before the row that names it is committed. What is there stays."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
    for folder in (target.parent, target.parent.parent):
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
