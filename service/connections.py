"""uvicorn's server over connections that come from somewhere: the listening socket, or a supervisor that shares it.

All that wait are taken whenever the loop turns. uvloop's own listener takes one a turn, and a turn among hundreds of
busy clients is a tenth of a second: the last of a thousand newcomers waited for a minute.
"""

import asyncio
import errno
import gc
import logging
import socket
import sys
from collections.abc import Callable
from typing import Any, Protocol

import uvicorn
from starlette.concurrency import run_in_threadpool

log = logging.getLogger("fovea")

BACKLOG = 2048
SWITCH_SECONDS = 0.0005  # after which a thread that waits for the interpreter gets it: the loop's turns are as short
PAUSE_SECONDS = 0.5  # without accepting, where there are no more file descriptors
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


def _settle() -> None:
    """What a start has made stays: the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_SECONDS)


class Server(uvicorn.Server):
    """Opens its source, and calls `ready`, in a thread, once it answers."""

    def __init__(self, config: uvicorn.Config, source: Callable[[], Source], ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._open_source = source
        self._ready = ready
        self._opening: set[asyncio.Task[None]] = set()

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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().remove_reader(self._source.fileno())
        self._source.close()
        await super().shutdown(sockets)

    def _listen(self) -> None:
        if not self.should_exit:
            asyncio.get_running_loop().add_reader(self._source.fileno(), self._take)

    def _take(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while connection := self._source.take():
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

    def _protocol(self) -> asyncio.Protocol:
        made: Any = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        lost = made.connection_lost

        def connection_lost(error: Exception | None) -> None:
            self._source.end()
            lost(error)

        made.connection_lost = connection_lost
        protocol: asyncio.Protocol = made
        return protocol
