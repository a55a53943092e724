"""`fovea serve --processes N`: one listening socket, N processes that answer, and this one that watches over them.

The supervisor prepares the data folder, binds the port, and forks; it answers nothing itself. A process that dies is
replaced, one that dies young after a pause. SIGTERM and Ctrl-C end all of them, each after what it has in hand.
"""

import ctypes
import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

log = logging.getLogger("fovea")

PR_SET_PDEATHSIG = 1
YOUNG_SECONDS = 10.0  # one that lived shorter is replaced after PAUSE_SECONDS, so that no start burns a core
PAUSE_SECONDS = 1.0
GRACE_SECONDS = 60.0  # longer than a process gives its requests

Run = Callable[[socket.socket, int, Callable[[], None]], None]
"""Serves on the socket as the n-th process until SIGTERM; calls the function once it answers."""


@dataclass
class _Child:
    process: Any
    ready: Connection
    started_at: float


class Supervisor:
    def __init__(self, listener: socket.socket, processes: int, run: Run, welcome: Callable[[], None]) -> None:
        self._listener = listener
        self._run = run
        self._welcome = welcome
        self._context = multiprocessing.get_context("fork")
        self._stopping = False
        self._children: list[_Child | None] = [None] * processes
        self._due = [0.0] * processes  # when each place is to be filled

    def run(self) -> int:
        """Until it is told to stop: 0, or 3 when a process could not start before any had answered."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        welcomed = False
        while not self._stopping:
            self._fill()
            alive = [child for child in self._children if child]
            silent = [child.ready for child in alive if not child.ready.closed]
            wait([child.process.sentinel for child in alive] + silent, timeout=0.5)
            if not welcomed and self._answers():
                self._welcome()
                welcomed = True
            if self._bury() and not welcomed:
                self._stop_children()
                return 3
        self._stop_children()
        return 0

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _fill(self) -> None:
        for place, child in enumerate(self._children):
            if child is None and time.monotonic() >= self._due[place] and not self._stopping:
                self._children[place] = self._start(place)

    def _start(self, place: int) -> _Child:
        ready, says = self._context.Pipe(duplex=False)
        process = self._context.Process(target=self._child, args=(place, says, os.getpid()))
        process.start()
        says.close()
        return _Child(process, ready, time.monotonic())

    def _child(self, place: int, says: Connection, parent: int) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        _end_with(parent)
        self._run(self._listener, place, lambda: says.send(True))

    def _answers(self) -> bool:
        """Has a process said that it answers? What it said is taken, so that it is not waited for again."""
        said = False
        for child in self._children:
            if child and not child.ready.closed and child.ready.poll():
                said = _took(child.ready) or said
        return said

    def _bury(self) -> bool:
        """Frees the places of the dead; whether there were any."""
        died = False
        for place, child in enumerate(self._children):
            if child is None or child.process.is_alive():
                continue
            child.process.join()
            died = True
            self._children[place] = None
            if self._stopping:
                continue
            lived = time.monotonic() - child.started_at
            self._due[place] = time.monotonic() + (PAUSE_SECONDS if lived < YOUNG_SECONDS else 0.0)
            log.error("service process %d ended with %s; replaced", child.process.pid, child.process.exitcode)
        return died

    def _stop_children(self) -> None:
        self._listener.close()
        running = [child.process for child in self._children if child]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for process in running:
            process.join(max(deadline - time.monotonic(), 0.0))
            if process.is_alive():
                process.kill()
                process.join()


def _took(ready: Connection) -> bool:
    try:
        said = bool(ready.recv())
    except EOFError:
        said = False
    ready.close()
    return said


def _end_with(parent: int) -> None:
    """Without its supervisor a process drains and ends, so that the next start finds the port (Linux: prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(0)
