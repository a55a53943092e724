"""uvicorn's server over connections that come from somewhere: the listening socket, or a supervisor that shares it.

All that wait are taken whenever the loop turns. uvloop's own listener takes one a turn, and a turn among hundreds of
busy clients is a tenth of a second: the last of a thousand newcomers waited for a minute.
"""

import asyncio
import contextlib
import errno
import gc
import logging
import resource
import socket
import sys
from collections.abc import Callable
from typing import Protocol

import uvicorn
from starlette.concurrency import run_in_threadpool

from service.protocol import Connection

log = logging.getLogger("fovea")

BACKLOG = 2048
SWITCH_SECONDS = 0.0005  # after which a thread that waits for the interpreter gets it: the loop's turns are as short
PAUSE_SECONDS = 0.5  # without accepting, where there are no more file descriptors
HEADER_SECONDS = 30.0
SWEEP_TICKS = 10  # of uvicorn's, ten a second, between two looks at which connections are late
ROOM = 256  # file descriptors that connections leave to files and the database, where there are so many
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Source(Protocol):
    def fileno(self) -> int:
        """Readable when there is something to take."""

    def take(self) -> socket.socket | None:
        """The next connection, None when there is none now. Raises OSError (see EXHAUSTED)."""

    def end(self) -> None:
        """One that was taken has ended."""

    def close(self) -> None:
        """Nothing is taken any more."""


class Listener:
    """A bound socket of this process alone."""

    def __init__(self, bound: socket.socket) -> None:
        self._socket = bound
        self._socket.setblocking(False)
        self._socket.listen(BACKLOG)

    def fileno(self) -> int:
        return self._socket.fileno()

    def take(self) -> socket.socket | None:
        try:
            return self._socket.accept()[0]
        except (BlockingIOError, ConnectionAbortedError):
            return None

    def end(self) -> None:
        """Nobody counts them."""

    def close(self) -> None:
        self._socket.close()


def allow_descriptors() -> None:
    """Lets this process and its children have as many file descriptors as the system does: a connection takes one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS calls its limit infinite, and refuses that
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _most_connections() -> int:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit - min(ROOM, limit // 2)


def _settle() -> None:
    """What a start has made stays: the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_SECONDS)


class Server(uvicorn.Server):
    """Opens its source, and calls `ready`, in a thread, once it answers; `stopping` when it is to answer no more.

    A connection whose request's headers take longer than `header_seconds` is closed, and so is what comes when there
    are as many as the file descriptors of this process allow.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        source: Callable[[], Source],
        ready: Callable[[], None],
        stopping: Callable[[], None] = lambda: None,
        header_seconds: float = HEADER_SECONDS,
    ) -> None:
        super().__init__(config)
        self._open_source = source
        self._ready = ready
        self._stopping = stopping
        self._header_seconds = header_seconds
        self._opening: set[asyncio.Task[None]] = set()
        self._most = _most_connections()
        self._turned_away = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        self.servers = []
        if self.lifespan.should_exit:
            self.should_exit = True
            return
        self._source = self._open_source()
        self._listen()
        self.started = True
        if not self.should_exit:  # else it was told to stop meanwhile
            _settle()
            await run_in_threadpool(self._ready)

    async def on_tick(self, counter: int) -> bool:
        if counter % SWEEP_TICKS == 0:
            self._sweep()
        return await super().on_tick(counter)

    def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in tuple(self.server_state.connections):
            assert isinstance(connection, Connection)
            connection.end_if_late(now)
        if self._turned_away:
            log.error("%d connections were closed at once: %d are open", self._turned_away, self._most)
            self._turned_away = 0

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().remove_reader(self._source.fileno())
        self._source.close()
        self._stopping()
        await super().shutdown(sockets)

    def _listen(self) -> None:
        if not self.should_exit:
            asyncio.get_running_loop().add_reader(self._source.fileno(), self._take)

    def _take(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while connection := self._source.take():
                if len(self.server_state.connections) + len(self._opening) >= self._most:
                    connection.close()
                    self._source.end()
                    self._turned_away += 1
                    continue
                task = loop.create_task(self._open(connection))
                self._opening.add(task)
                task.add_done_callback(self._opening.discard)
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            log.error("no connection can be accepted: %s", error)
            loop.remove_reader(self._source.fileno())
            loop.call_later(PAUSE_SECONDS, self._listen)

    async def _open(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        except OSError:  # it has ended already
            connection.close()
            self._source.end()

    def _protocol(self) -> Connection:
        return Connection(self.config, self.server_state, self.lifespan.state, self._header_seconds, self._source.end)
