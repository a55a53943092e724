"""A service that is told to stop: who waits is answered, what computes is finished, and it is gone soon."""

import asyncio
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import uvicorn
import uvloop
from fastapi import FastAPI

from service.api.app import Edge
from service.api.bodies import Room
from service.api.closing import Closing
from service.connections import Listener, Server
from service.settings import Settings
from tests.conftest import Fovea, colours_zip
from tests.test_edge import AUTH, SIGN_IN, connected, refused, until_end

SOON = 8.0  # seconds; what was cut off after uvicorn's 30 took longer


def follow(fovea: Fovea, job: str, begun: threading.Event) -> bool:
    """Whether the stream of events ended as it should: httpx raises where its last chunk is missing."""
    with fovea.http.stream("GET", f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"}) as answer:
        for _ in answer.iter_lines():
            begun.set()
    return answer.status_code == 200


@pytest.mark.parametrize("processes", [1, 2])
def test_who_waits_is_answered_at_once_when_the_service_is_told_to_stop(fovea: Fovea, processes: int) -> None:
    fovea.environment["FOVEA_PROCESSES"] = str(processes)
    fovea.start("service")
    job = fovea.upload(colours_zip(4), "waits")["job"]["id"]
    begun = threading.Event()
    with ThreadPoolExecutor() as pool:
        following = pool.submit(follow, fovea, job, begun)
        waiting = pool.submit(fovea.http.get, f"/v1/jobs/{job}?wait=60")
        slow_json = connected(fovea, SIGN_IN + b"Content-Length: 100\r\n\r\n{")
        head = b"POST /v1/datasets?name=slow HTTP/1.1\r\nContent-Type: application/zip\r\nContent-Length: 100\r\n"
        slow_zip = connected(fovea, head + AUTH + b"\r\nPK")
        idle = connected(fovea)
        assert begun.wait(20)
        time.sleep(0.5)
        began = time.monotonic()
        service = fovea.processes["service"]
        service.send_signal(signal.SIGTERM)
        answers = [until_end(one) for one in (slow_json, slow_zip)]
        assert until_end(idle) == b""
        assert following.result() is True
        answer = waiting.result()
        service.wait(60)
        assert time.monotonic() - began < SOON
    assert (answer.status_code, answer.json()["status"]) == (200, "queued")
    for one in answers:
        refused(one, 503, "shutting_down")
        assert b"\r\nretry-after: 5\r\n" in one.lower()
    assert list((fovea.data / "uploads").iterdir()) == []
    assert b"Cancel " not in (fovea.data.parent / "service.log").read_bytes()


def test_a_body_that_is_on_its_way_still_arrives(fovea: Fovea) -> None:
    fovea.start("service")
    body = b'{"key": "nobody"}'
    client = connected(fovea, SIGN_IN + b"Content-Length: %d\r\n\r\n" % len(body) + body[:5])
    time.sleep(0.5)
    fovea.processes["service"].send_signal(signal.SIGTERM)
    time.sleep(0.4)
    client.sendall(body[5:])
    refused(until_end(client), 401, "sign_in_refused")


def test_what_computes_too_long_for_the_end_is_told_so(tmp_path: Path) -> None:
    """And what computes shorter is finished."""
    app, begun = FastAPI(), set[float]()
    app.state.room, app.state.closing = Room(1), Closing()

    @app.get("/{seconds}")
    async def compute(seconds: float) -> float:
        begun.add(seconds)
        await asyncio.sleep(seconds)
        return seconds

    async def main() -> list[httpx.Response]:
        edge = Edge(app, Settings(data=tmp_path))
        bound = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(edge, lifespan="off", log_level="critical", timeout_graceful_shutdown=2)
        server = Server(config, lambda: Listener(bound), lambda: None, edge.close)
        serving = asyncio.create_task(server.serve())
        url = "http://{}:{}".format(*bound.getsockname())
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            asked = [asyncio.create_task(client.get(path)) for path in ("/0.5", "/60")]
            while len(begun) < len(asked):
                await asyncio.sleep(0.02)
            server.should_exit = True
            answers = await asyncio.gather(*asked)
            await serving
        return answers

    short, long = uvloop.run(main())
    assert (short.status_code, short.json()) == (200, 0.5)
    assert (long.status_code, long.json()["code"]) == (503, "shutting_down")
    assert long.headers["content-type"] == "application/problem+json"
