"""`fovea up`: service and worker as two processes, started and stopped together.

One that dies by itself is started again, one that died young after a pause; only one that ends at its very start again
and again ends `fovea up`: its port is taken or its settings are wrong, and its own messages say which.
"""

import signal
import subprocess
import sys
import time
from types import FrameType

from service.prefork import PAUSE_SECONDS, YOUNG_SECONDS

GRACE_SECONDS = 75.0  # longer than the worker gives its child to write a checkpoint
STARTS = 3  # that may fail in a row


class _Child:
    """A process that is kept alive. Killed by force it may be started as often as it takes: that was not its doing."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._failed = 0  # starts in a row
        self._due = 0.0  # when it is to be started again
        self._start()

    @property
    def hopeless(self) -> bool:
        return self._failed >= STARTS

    def keep(self) -> None:
        """Starts it again where it is dead and due."""
        if self._process is None:
            if time.monotonic() >= self._due:
                self._start()
        elif (code := self._process.poll()) is not None:
            self._bury(code)

    def terminate(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def wait(self) -> None:
        """Until it has ended; by force after GRACE_SECONDS."""
        if self._process is None:
            return
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        # a group of its own: a Ctrl-C in the terminal reaches `fovea up` only, which then asks once
        self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
            [sys.executable, "-m", self.name], start_new_session=True
        )
        self._started_at = time.monotonic()

    def _bury(self, code: int) -> None:
        self._process = None
        young = time.monotonic() - self._started_at < YOUNG_SECONDS
        self._failed = self._failed + 1 if young and code != -signal.SIGKILL else 0
        self._due = time.monotonic() + (PAUSE_SECONDS if young else 0.0)
        then = "see its messages above" if self.hopeless else "it is started again"
        sys.stderr.write(f"fovea up: {self.name} ended by itself ({_end(code)}); {then}\n")


def up() -> int:
    """Runs until SIGTERM or Ctrl-C: 0, or 1 when one of the two cannot start."""
    stopping = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    children = [_Child(name) for name in ("service", "workers")]
    while not stopping and not any(child.hopeless for child in children):
        time.sleep(0.1)
        for child in children:
            child.keep()
    for child in children:
        child.terminate()
    for child in children:
        child.wait()
    return 0 if stopping else 1


def _end(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
