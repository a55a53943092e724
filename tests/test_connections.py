"""Connections are taken as soon as they come, however many there are and whatever went wrong before."""

import asyncio
import errno
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psutil
import pytest
import uvicorn
import uvloop

from service.connections import Listener, Server
from tests.conftest import Fovea

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


@pytest.mark.parametrize(("processes", "number"), [(1, signal.SIGTERM), (1, signal.SIGINT), (2, signal.SIGKILL)])
def test_who_is_told_to_stop_while_it_starts_ends(fovea: Fovea, processes: int, number: int) -> None:
    """Of several processes the supervisor is killed, which tells the others."""
    log = fovea.data.parent / "service.log"
    with log.open("wb") as file:
        words, environment = [sys.executable, "-m", "service"], {**fovea.environment, "FOVEA_PROCESSES": str(processes)}
        service = subprocess.Popen(words, env=environment, stdout=file, stderr=file)
    deadline = time.monotonic() + 60
    while b"Waiting for application startup" not in log.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.002)
    answering = psutil.Process(service.pid).children()
    service.send_signal(number)
    _, alive = psutil.wait_procs([psutil.Process(service.pid), *answering], timeout=30)
    for one in alive:
        one.kill()
    service.wait()
    assert len(answering) == (processes if processes > 1 else 0)
    assert alive == []
    assert b"is ready" not in log.read_bytes()
