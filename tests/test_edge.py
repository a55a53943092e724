"""What a connection may cost before anybody has shown a key: its time, the size of its headers, how many there are."""

import asyncio
import contextlib
import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import psutil
import pytest
import uvicorn
import uvloop

from service.connections import Listener, Server
from tests.conftest import KEY, Fovea, colours_zip, fovea_in

AUTH = f"Host: x\r\nAuthorization: Bearer {KEY}\r\n".encode()
SECONDS = 1.0  # that a client may be silent in these tests


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fovea]:
    seconds = str(SECONDS)
    given = {"FOVEA_HEADER_TIMEOUT_SECONDS": seconds, "FOVEA_RECEIVE_TIMEOUT_SECONDS": seconds}
    with fovea_in(tmp_path_factory.mktemp("edge"), **given) as instance:
        instance.start("service")
        yield instance


def connected(fovea: Fovea, sent: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", fovea.port), timeout=20)
    client.sendall(sent)
    return client


def answer_to_drops(client: socket.socket, byte: bytes, pause: float, seconds: float) -> bytes:
    """What comes while the byte is sent again and again, with a pause between, for so many seconds at the most."""
    client.settimeout(pause)
    deadline, answer = time.monotonic() + seconds, b""
    while not answer and time.monotonic() < deadline:
        client.sendall(byte)
        with suppress(TimeoutError):
            answer = client.recv(65536)
    client.settimeout(20)
    return answer + until_end(client)


def until_end(client: socket.socket) -> bytes:
    """All that the server sends before it closes. Raises TimeoutError when it does not."""
    with client:
        return b"".join(iter(lambda: client.recv(65536), b""))


def alive(client: socket.socket) -> bool:
    """Whether the answer to GET /livez comes."""
    answer = b""
    while not answer.endswith(b"ok") and (piece := client.recv(65536)):
        answer += piece
    return answer.startswith(b"HTTP/1.1 200 ")


def refused(answer: bytes, status: int, code: str) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert lines[0].startswith(b"http/1.1 %d " % status), answer
    assert b"content-type: application/problem+json" in lines
    assert b"connection: close" in lines
    problem: dict[str, Any] = json.loads(body)
    assert (problem["status"], problem["code"]) == (status, code)
    assert b"x-request-id: %b" % problem["request_id"].encode() in lines
    return problem


# --- how long it may be silent ---------------------------------------------------------------------------------------


def test_a_connection_that_says_nothing_is_closed(quick: Fovea) -> None:
    began = time.monotonic()
    assert until_end(connected(quick)) == b""
    assert SECONDS <= time.monotonic() - began < SECONDS + 5


@pytest.mark.parametrize("sent", [b"G", b"\r\n", b"GET /livez HTTP/1.1\r\nHost: x\r\n", b"PUT /v1 HTTP/1.1\r\nX: "])
def test_half_a_header_gets_408_and_is_closed(quick: Fovea, sent: bytes) -> None:
    refused(until_end(connected(quick, sent)), 408, "headers_stalled")
    assert 'code="headers_stalled",status="408"' in quick.http.get("/metrics").text


def test_a_header_that_comes_byte_by_byte_is_closed_too(quick: Fovea) -> None:
    client = connected(quick, b"GET /livez HTTP/1.1\r\nHost: x\r\nX: ")
    refused(answer_to_drops(client, b"x", 0.05, SECONDS + 5), 408, "headers_stalled")


def test_between_requests_a_connection_may_be_idle_but_not_within_the_next(quick: Fovea) -> None:
    client = connected(quick, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    assert alive(client)
    time.sleep(SECONDS + 2)
    client.sendall(b"GET /livez HTTP/1.1\r\n")
    time.sleep(SECONDS / 4)
    client.sendall(b"Host: x\r\n\r\n")
    assert alive(client)
    client.sendall(b"GET /livez HTTP/1.1\r\n")
    refused(until_end(client), 408, "headers_stalled")


def test_the_rest_of_a_body_that_was_refused_is_not_waited_for(quick: Fovea) -> None:
    head = b"POST /v1/models/none/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx"
    assert until_end(connected(quick, head)).startswith(b"HTTP/1.1 401 ")


SIGN_IN = b"POST /v1/session HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize("sent", [b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"])
def test_a_json_body_may_not_stall(quick: Fovea, sent: bytes) -> None:
    refused(until_end(connected(quick, SIGN_IN + sent)), 408, "body_stalled")


def test_a_json_body_may_not_take_for_ever(quick: Fovea) -> None:
    client, began = connected(quick, SIGN_IN + b"Content-Length: 1000\r\n\r\n"), time.monotonic()
    refused(answer_to_drops(client, b" ", SECONDS / 4, 10 * SECONDS), 408, "body_stalled")
    assert time.monotonic() - began > 3 * SECONDS


def test_a_client_that_waits_for_news_sends_nothing_and_is_left_alone(quick: Fovea) -> None:
    """The framework listens for its end on the same way on which bodies come."""
    job = quick.upload(colours_zip(4), "news")["job"]["id"]
    seconds = 3 * SECONDS
    path = f"/v1/jobs/{job}/events"
    with quick.http.stream("GET", path, headers={"Accept": "text/event-stream"}) as answer:
        began = time.monotonic()
        for _ in answer.iter_lines():
            if time.monotonic() > began + seconds:
                break
        else:
            raise AssertionError("the stream has ended")
    assert quick.http.get(f"/v1/jobs/{job}?wait={seconds}").json()["status"] == "queued"


# --- what it may send ------------------------------------------------------------------------------------------------

GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
LARGE = 64 * 1024


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(GET + b"X: " + b"x" * LARGE + b"\r\n\r\n", id="whole"),
        pytest.param(GET + b"X: " + b"x" * LARGE, id="unfinished"),
        pytest.param(GET + b"X: x\r\n" * (LARGE // 6), id="many"),
        pytest.param(b"GET /" + b"x" * LARGE + b" HTTP/1.1\r\nHost: x\r\n\r\n", id="url"),
        pytest.param(b"\r\n" * LARGE, id="blank-lines"),
    ],
)
def test_headers_over_64_kib_get_431_and_the_connection_is_closed(quick: Fovea, sent: bytes) -> None:
    refused(until_end(connected(quick, sent)), 431, "headers_too_large")


def test_so_do_trailers(quick: Fovea) -> None:
    sent = SIGN_IN + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: " + b"x" * 8 * LARGE
    refused(until_end(connected(quick, sent)), 431, "headers_too_large")


def test_large_headers_and_bodies_behind_them_are_taken(quick: Fovea) -> None:
    """Several requests in one read: each is measured for itself."""
    head = b"X: " + b"x" * (LARGE - 200) + b"\r\n"
    client = connected(quick, (GET + head + b"\r\n") * 3)
    body = b'{"key": "' + b"x" * 2 * LARGE + b'"}'
    client.sendall(SIGN_IN + b"Connection: close\r\n" + head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    answers = until_end(client).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200", b"200", b"200", b"422"]


def test_sixty_megabytes_of_a_header_take_no_time_from_others(quick: Fovea) -> None:
    client = connected(quick, GET + b"X: ")
    with client, contextlib.suppress(ConnectionError):
        for _ in range(60):
            client.sendall(b"x" * 1024**2)
    began = time.monotonic()
    assert quick.http.get("/livez").status_code == 200
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(b"GET /livez HTTP/1.1\r\n\r\n", "host_header", id="no-host"),
        pytest.param(b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "host_header", id="two-hosts"),
        pytest.param(b"GET /livez\r\n\r\n", "http_version", id="http-0.9"),
        pytest.param(SIGN_IN + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "transfer_encoding", id="gzip"),
        pytest.param(
            b"POST /v1/session HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "transfer_encoding", id="1.0"
        ),
        pytest.param(
            SIGN_IN + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "malformed_request",
            id="length-and-chunked",
        ),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", "malformed_request", id="tls"),
        pytest.param(b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n", "malformed_request", id="url"),
    ],
)
def test_what_is_not_quite_http_gets_400_as_problem_json(quick: Fovea, sent: bytes, code: str) -> None:
    refused(until_end(connected(quick, sent)), 400, code)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /livez HTTP/1.0\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHOST: x\r\nConnection: close\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_what_is_http_is_answered(quick: Fovea, sent: bytes) -> None:
    assert until_end(connected(quick, sent)).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_goes_wrong_ends_its_request_with_one_answer(quick: Fovea) -> None:
    client = connected(quick, SIGN_IN + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n")
    time.sleep(0.2)
    client.sendall(b"NONSENSE\r\n")
    answer = until_end(client)
    refused(answer, 400, "malformed_request")
    assert answer.count(b"HTTP/1.1 ") == 1


# --- how many there may be -------------------------------------------------------------------------------------------


def test_a_service_takes_all_file_descriptors_that_it_may_have(quick: Fovea) -> None:
    soft, hard = psutil.Process(quick.processes["service"].pid).rlimit(resource.RLIMIT_NOFILE)
    assert soft == hard


def test_more_connections_than_file_descriptors_take_no_answer_from_others(fovea: Fovea) -> None:
    fovea.environment["FOVEA_HEADER_TIMEOUT_SECONDS"] = "3"
    limited = ["sh", "-c", f"ulimit -n 200 && exec {sys.executable} -m service"]
    with (fovea.data.parent / "service.log").open("ab") as log:
        fovea.processes["service"] = subprocess.Popen(limited, env=fovea.environment, stdout=log, stderr=log)
    fovea.wait_ready()
    idle = [connected(fovea) for _ in range(300)]
    try:
        for _ in range(20):  # on the connection that it has
            assert fovea.http.get("/v1/datasets").status_code == 200
        assert until_end(idle.pop()) == b""
        time.sleep(5)
        assert b"closed at once" in (fovea.data.parent / "service.log").read_bytes()
        newcomer = connected(fovea, b"GET /v1/datasets HTTP/1.1\r\nConnection: close\r\n" + AUTH + b"\r\n")
        assert until_end(newcomer).startswith(b"HTTP/1.1 200 ")
    finally:
        for client in idle:
            client.close()


# --- in whose turn ---------------------------------------------------------------------------------------------------


async def _slow(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    await asyncio.sleep(2)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("behind", [b"NONSENSE\r\n\r\n", b"GET / HTT"])
def test_a_request_before_one_that_goes_wrong_has_its_answer_and_nothing_else(behind: bytes) -> None:
    async def main() -> bytes:
        bound = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(_slow, lifespan="off", log_level="critical")
        server = Server(config, lambda: Listener(bound), lambda: None, header_seconds=0.1)
        serving = asyncio.create_task(server.serve())
        reader, writer = await asyncio.open_connection(*bound.getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.1)
        writer.write(behind)
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        server.should_exit = True
        await serving
        return answer

    answer = uvloop.run(main())
    assert answer.startswith(b"HTTP/1.1 204 ")
    assert answer.endswith(b"connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1") == 1
