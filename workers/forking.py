"""A process that has torch imported and forks one for each job: it begins at once, however many came before it.

It has done nothing but import, and export a network by one thread, and it never touches a graphics card: OpenMP's
threads and what CUDA has begun do not outlive a fork.

On stdin comes a line for each job, one at a time; on stdout go lines of JSON: the job's pid, and how it ended.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from typing import TextIO

PR_SET_PDEATHSIG = 1
COULD_NOT_WRITE = os.EX_TEMPFAIL  # how a job's process ends that is not to blame: the job is taken up again


def serve(warm_up: Callable[[], None], work: Callable[[str], int]) -> None:
    """Forks for each line; the child does its work and ends. Returns at the end of the lines.

    SIGTERM is for the jobs, and may reach one before it can heed it: who calls this has blocked it, a job lets it in.
    A first job that is there already is not kept waiting by `warm_up`; those after it find it done.
    """
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what anything prints is no report
    is_cold = bool(select.select([sys.stdin], [], [], 0)[0])
    if not is_cold:
        warm_up()
    while line := sys.stdin.readline():
        pid = _fork(line, work, reports)
        _tell(reports, pid=pid)
        _, status = os.waitpid(pid, 0)
        _tell(reports, returncode=os.waitstatus_to_exitcode(status))
        if is_cold:
            warm_up()
            is_cold = False


def die_with_parent() -> None:
    """A child whose parent was killed has no heartbeat; it must not train on (Linux: prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _fork(line: str, work: Callable[[str], int], reports: TextIO) -> int:
    """In a process group of its own, as both sides see to: neither knows who runs first."""
    source = os.getpid()
    if pid := os.fork():
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)
        return pid
    status = 1
    try:
        os.setpgid(0, 0)
        die_with_parent()
        os.close(reports.fileno())
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        if os.getppid() == source:
            status = work(line)
    except BaseException:  # noqa: BLE001 - nothing may go back into the loop, not even SystemExit
        traceback.print_exc()
    finally:
        os._exit(status)


def _tell(reports: TextIO, **what: int) -> None:
    with contextlib.suppress(BrokenPipeError):
        reports.write(json.dumps(what) + "\n")
