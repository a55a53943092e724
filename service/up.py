"""`fovea up`: service and worker as two processes, started and stopped together."""

import signal
import subprocess
import sys
import time
from types import FrameType

GRACE_SECONDS = 75.0  # longer than the worker gives its child to write a checkpoint


def up() -> int:
    """Runs until SIGTERM or Ctrl-C, or until one of the two dies; the exit code."""
    stopping = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    # groups of their own: a Ctrl-C in the terminal reaches this process only, which then asks once
    children = {
        name: subprocess.Popen([sys.executable, "-m", name], start_new_session=True) for name in ("service", "workers")
    }
    while not stopping and all(child.poll() is None for child in children.values()):
        time.sleep(0.1)
    dead = [name for name, child in children.items() if child.poll() is not None]
    for child in children.values():
        child.terminate()
    for child in children.values():
        _wait(child)
    if dead and not stopping:
        sys.stderr.write(f"fovea up: {dead[0]} ended by itself; see its messages above\n")
        return 1
    return 0


def _wait(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
