"""How processes that serve together count for Prometheus: in files of one folder, which each maps into its memory.

`prometheus_client` looks for that folder once, when it is imported; so this must know nothing of it.
https://prometheus.github.io/client_python/multiprocess/
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
MEMORY = Path("/dev/shm")  # noqa: S108 - the folder in it has a random name


def alone() -> None:
    """Forgets the folder of whoever started this process: it would count for them."""
    os.environ.pop(VARIABLE, None)


@contextmanager
def counting() -> Iterator[None]:
    """A folder for what is imported and forked within.

    In memory where that can be: a process dies of a page in such a file that a full disk has no room for.
    """
    memory = MEMORY if MEMORY.is_dir() else None
    for left in memory.glob("fovea-*-*") if memory else ():
        owner = left.name.split("-")[1]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):  # killed
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"fovea-{os.getpid()}-", dir=memory) as folder:
        os.environ[VARIABLE] = folder
        yield


def counted() -> bool:
    return VARIABLE in os.environ
