"""`fovea serve --processes N`: one listening socket, N processes that answer, and this one that watches over them.

The supervisor prepares the data folder, binds the port, forks, and hands each new connection to the process that has
the fewest; it reads and answers nothing itself. A process that dies is replaced, one that dies young after a pause.
SIGTERM and Ctrl-C end all of them, each after what it has in hand.
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
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.sharedctypes import RawArray
from types import FrameType
from typing import Any

from service.connections import BACKLOG

log = logging.getLogger("fovea")

PR_SET_PDEATHSIG = 1
YOUNG_SECONDS = 10.0  # one that lived shorter is replaced after PAUSE_SECONDS, so that no start burns a core
PAUSE_SECONDS = 1.0
GRACE_SECONDS = 60.0  # longer than a process gives its requests

Run = Callable[[int, "Share"], None]
"""Serves as the n-th process until SIGTERM."""


class Share:
    """A process's end: the connections that it is given, and how many of them have ended."""

    def __init__(self, channel: socket.socket, ended: Any, place: int) -> None:
        self._channel = channel
        self._ended = ended
        self._place = place

    def fileno(self) -> int:
        return self._channel.fileno()

    def take(self) -> socket.socket | None:
        """None when nothing came."""
        try:
            _, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1)
        except BlockingIOError:
            return None
        return socket.socket(fileno=descriptors[0]) if descriptors else None

    def end(self) -> None:
        self._ended[self._place] += 1

    def close(self) -> None:
        """What comes yet is closed without an answer: its clients ask another process."""
        while taken := self.take():
            taken.close()

    def say_ready(self) -> None:
        self._channel.send(b"!")


@dataclass
class _Child:
    process: Any
    channel: socket.socket
    ready: bool = False
    started_at: float = field(default_factory=time.monotonic)


class Supervisor:
    def __init__(self, listener: socket.socket, processes: int, run: Run, welcome: Callable[[], None]) -> None:
        self._listener = listener
        self._run = run
        self._welcome = welcome
        self._context = multiprocessing.get_context("fork")
        self._stopping = False
        self._children: list[_Child | None] = [None] * processes
        self._due = [0.0] * processes  # when each place is to be filled
        self._given = [0] * processes  # connections
        self._ended = RawArray("l", processes)  # of them; each counted by its process alone

    def run(self) -> int:
        """Until it is told to stop: 0, or 3 when a process could not start before any had answered."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self._listener.listen(BACKLOG)
        self._listener.setblocking(False)
        welcomed = False
        while not self._stopping:
            self._fill()
            alive = [child for child in self._children if child]
            answering = any(child.ready for child in alive)
            if answering and not welcomed:
                self._welcome()
                welcomed = True
            silent = [child.channel for child in alive if not child.ready]
            come = [self._listener] if answering else []
            happened = wait([child.process.sentinel for child in alive] + silent + come, timeout=0.5)
            for child in alive:
                child.ready = child.ready or (child.channel in happened and _said(child.channel))
            if self._listener in happened:
                self._give()
            if self._bury() and not welcomed:
                self._stop_children()
                return 3
        self._stop_children()
        return 0

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _give(self) -> None:
        """Hands what has come to the processes with the fewest connections."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                for place in sorted(range(len(self._children)), key=lambda one: self._given[one] - self._ended[one]):
                    child = self._children[place]
                    if child and child.ready and _sent(child.channel, connection):
                        self._given[place] += 1
                        break

    def _fill(self) -> None:
        for place, child in enumerate(self._children):
            if child is None and time.monotonic() >= self._due[place] and not self._stopping:
                self._children[place] = self._start(place)

    def _start(self, place: int) -> _Child:
        self._given[place] = self._ended[place] = 0
        mine, its = socket.socketpair()
        for end in (mine, its):
            end.setblocking(False)
        process = self._context.Process(target=self._child, args=(place, its, os.getpid()))
        process.start()
        its.close()
        return _Child(process, mine)

    def _child(self, place: int, channel: socket.socket, parent: int) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        _end_with(parent)
        self._listener.close()
        self._run(place, Share(channel, self._ended, place))

    def _bury(self) -> bool:
        """Frees the places of the dead; whether there were any."""
        died = False
        for place, child in enumerate(self._children):
            if child is None or child.process.is_alive():
                continue
            child.process.join()
            child.channel.close()
            died = True
            self._children[place] = None
            if not self._stopping:
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


def _said(channel: socket.socket) -> bool:
    try:
        return channel.recv(1) == b"!"
    except OSError:
        return False


def _sent(channel: socket.socket, connection: socket.socket) -> bool:
    """False when the process is gone, or does not take what it was given before."""
    try:
        socket.send_fds(channel, [b"c"], [connection.fileno()])
    except OSError:
        return False
    return True


def _end_with(parent: int) -> None:
    """Without its supervisor a process drains and ends, so that the next start finds the port (Linux: prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(0)
