"""Processes that wait for a job, so that no job waits for its process.

One has imported torch, which takes seconds, and forks for each job that needs it; one has not, for the jobs that do
without it. An upload's import thus leaves the other to the training that follows it.
"""

import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import IO, Any, Protocol

log = logging.getLogger("fovea.worker")

ENVIRONMENT = {  # of a job's process, where the user's says nothing else
    # glibc would give a step's memory back to the system and fault it in again at the next: up to 44 % slower
    "MALLOC_MMAP_MAX_": "0",  # a threshold would leave out what is larger than 32 MiB
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # large pages, where the system gives them to those that ask
    # a thread that waits for the others keeps its core: beside other work that is the one the others wait for
    "GOMP_SPINCOUNT": "20000",
}
FORKS = sys.platform == "linux"  # elsewhere what a process has imported need not bear it
Process = subprocess.Popen[bytes]
WITHOUT_TORCH = ("import",)  # all other jobs learn, or ask networks


class Child(Protocol):
    """A job's process: what it has come to, and how to reach it."""

    @property
    def pid(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""

    def send_signal(self, number: int) -> None: ...
    def kill(self) -> None:
        """It and the decoders it started: they share a process group."""


class Standby:
    def __init__(self) -> None:
        self._waiting: dict[str, Process] = {}

    def prepare(self) -> None:
        """Starts what does not wait yet, or has died of waiting."""
        for kind in ("light", self._heavy):
            if (waiting := self._waiting.get(kind)) is not None and waiting.poll() is not None:
                _hang_up(self._waiting.pop(kind))
            if kind not in self._waiting:
                self._waiting[kind] = _start(kind)

    def give(self, job_type: str, order: dict[str, Any]) -> Child:
        """The process that runs this job."""
        self.prepare()
        if FORKS and job_type not in WITHOUT_TORCH:
            return Forked(self._waiting[self._heavy], order)
        return Started(self._waiting.pop("light" if job_type in WITHOUT_TORCH else self._heavy), order)

    def close(self) -> None:
        for waiting in self._waiting.values():
            _kill(waiting)

    @property
    def _heavy(self) -> str:
        return "forking" if FORKS else "heavy"


class Started:
    """A process that waited for this one job."""

    def __init__(self, process: Process, order: dict[str, Any]) -> None:
        self._process = process
        _send(process, order)
        _hang_up(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        return self._process.wait(timeout)

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        _kill(self._process)


class Forked:
    """A child of the process that forks (see `forking`), which tells of it."""

    def __init__(self, source: Process, order: dict[str, Any]) -> None:
        self.returncode: int | None = None
        self.pid: int | None = None  # not known before the source has imported all it should
        self._source = source
        self._signals: list[int] = []
        _send(source, order)

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            if not select.select([self._reports], [], [], left)[0]:
                raise subprocess.TimeoutExpired("job", timeout or 0)
            self._heard(self._reports.readline())
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.pid is None:
            self._signals.append(number)
        elif self.poll() is None:
            _signal(self.pid, number)

    def kill(self) -> None:
        if self.poll() is not None:
            return
        if self.pid is None:  # not forked yet: the source is replaced
            _kill(self._source)
            self.returncode = -signal.SIGKILL
        else:
            _kill_group(self.pid)
            self.wait()

    @property
    def _reports(self) -> IO[bytes]:
        assert self._source.stdout is not None
        return self._source.stdout

    def _heard(self, line: bytes) -> None:
        if not line:  # the source died, and with it what it forked
            self.returncode = -signal.SIGKILL
            return
        told = json.loads(line)
        if "pid" in told:
            self.pid = told["pid"]
            for number in self._signals:
                _signal(told["pid"], number)
        else:
            self.returncode = told["returncode"]


def _start(kind: str) -> Process:
    return subprocess.Popen(
        [sys.executable, "-m", "workers.run_job", kind],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if kind == "forking" else None,
        start_new_session=True,
        env={**ENVIRONMENT, **os.environ},
    )


def _send(process: Process, order: dict[str, Any]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(order).encode() + b"\n")
    except BrokenPipeError:
        log.warning("the process that was to run the job is dead")


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):  # it has ended; that it has is told next
        os.kill(pid, number)


def _kill(process: Process) -> None:
    _kill_group(process.pid)
    process.wait()
    _hang_up(process)


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _hang_up(process: Process) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
