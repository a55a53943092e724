"""Processes that wait for a job, so that no job waits for its process.

One has imported torch, which takes seconds; one has not, for the jobs that do without it. An upload's import thus
leaves the other to the training that follows it.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress

ENVIRONMENT = {  # of a job's process, where the user's says nothing else
    # glibc would give a step's memory back to the system and fault it in again at the next: up to 44 % slower
    "MALLOC_MMAP_MAX_": "0",  # a threshold would leave out what is larger than 32 MiB
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # large pages, where the system gives them to those that ask
    # a thread that waits for the others keeps its core: beside other work that is the one the others wait for
    "GOMP_SPINCOUNT": "20000",
}
Child = subprocess.Popen[bytes]


class Standby:
    def __init__(self) -> None:
        self._waiting: dict[str, Child] = {}

    def prepare(self) -> None:
        """Starts what does not wait yet, or has died of waiting."""
        for kind in ("light", "heavy"):
            if (child := self._waiting.get(kind)) is not None and child.poll() is not None:
                _hang_up(self._waiting.pop(kind))
            if kind not in self._waiting:
                self._waiting[kind] = _start(kind)

    def take(self, job_type: str) -> Child:
        """The process for a job of that type; it is the caller's from now on."""
        kind = "light" if job_type == "import" else "heavy"  # all others learn, or ask networks
        return self._waiting.pop(kind, None) or _start(kind)

    def close(self) -> None:
        for child in self._waiting.values():
            kill(child)


def kill(child: Child) -> None:
    """The child and the decoders it started: they share a process group."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    _hang_up(child)


def _hang_up(child: Child) -> None:
    if child.stdin is not None:
        child.stdin.close()


def _start(kind: str) -> Child:
    return subprocess.Popen(
        [sys.executable, "-m", "workers.run_job", kind],
        stdin=subprocess.PIPE,
        start_new_session=True,
        env={**ENVIRONMENT, **os.environ},
    )
