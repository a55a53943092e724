"""Room on the disk: what is refused before it is full, and what it says when it is."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import InsufficientStorage
from service.settings import Settings

FULL = (errno.ENOSPC, errno.EDQUOT)


def free(settings: Settings) -> int:
    """Bytes, where the data folder is or will be."""
    there = next(folder for folder in (settings.data, *settings.data.parents) if folder.exists())
    return shutil.disk_usage(there).free


def is_low(settings: Settings, coming: int = 0) -> bool:
    """Would less than the reserve be left, with so many bytes more?"""
    return free(settings) < settings.disk_reserve_bytes + coming


def check(settings: Settings, what: str, coming: int = 0) -> None:
    """Raises InsufficientStorage when it would."""
    if is_low(settings, coming):
        raise full(what)


@contextmanager
def written(what: str) -> Iterator[None]:
    """Raises InsufficientStorage where a file that is written inside finds no room."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise full(what) from error
        raise


def full(what: str) -> InsufficientStorage:
    return InsufficientStorage("disk_full", f"the disk is too full for {what}", hint="free some space")
