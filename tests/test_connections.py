"""Connections are taken as soon as they come, however many there are and whatever went wrong before."""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
import uvloop

from service.connections import Listener, Server

MANY = 50


async def _app(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


class Counted(Listener):
    def __init__(self, bound: socket.socket, failures: int = 0) -> None:
        super().__init__(bound)
        self.taken = 0
        self.failures = failures

    def take(self) -> socket.socket | None:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "too many open files")
        connection = super().take()
        self.taken += connection is not None
        return connection


async def _started(source: Counted) -> Server:
    config = uvicorn.Config(_app, http="httptools", lifespan="off", log_level="error")
    config.load()
    server = Server(config, lambda: source, lambda: None)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    return server


def _source(failures: int = 0) -> tuple[Counted, tuple[str, int]]:
    bound = socket.create_server(("127.0.0.1", 0))
    return Counted(bound, failures), bound.getsockname()


def test_all_that_wait_are_taken_in_one_turn() -> None:
    async def main() -> None:
        source, address = _source()
        server = await _started(source)
        clients = [socket.create_connection(address) for _ in range(MANY)]
        for _ in range(3):  # turns of the loop
            await asyncio.sleep(0)
        assert source.taken == MANY
        for client in clients:
            client.close()
        await server.shutdown()

    uvloop.run(main())


def test_without_file_descriptors_it_waits_and_goes_on() -> None:
    async def main() -> None:
        source, address = _source(failures=2)
        server = await _started(source)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await asyncio.wait_for(reader.readline(), 30)).startswith(b"HTTP/1.1 204")
        assert source.failures == 0
        writer.close()
        await server.shutdown()

    uvloop.run(main())
