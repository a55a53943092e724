"""Asks one address again and again and writes down what came back: a process of its own beside the service.

    python -m benchmarks.load URL KEY BODY_FILE ... --seconds 10 (--clients 16 | --rate 200 [--clients 64])

With --clients alone each of them asks as soon as it was answered, or when Retry-After said; with --rate requests leave
at that many a second whatever comes back, as long as one of the clients is free, and what leaves late counts from when
it was due. Prints a line of JSON. It speaks just enough HTTP/1.1 to cost little beside the service on the same cores.
"""

import argparse
import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import uvloop


class Asked:
    def __init__(self) -> None:
        self.seconds: list[float] = []  # of the answers with status 200
        self.refused: list[float] = []
        self.statuses: Counter[str] = Counter()

    def add(self, status: str, seconds: float) -> None:
        self.statuses[status] += 1
        (self.seconds if status == "200" else self.refused).append(seconds)

    def shown(self, took: float) -> dict[str, object]:
        def milliseconds(values: list[float]) -> list[float]:
            return [round(float(np.quantile(values, q)) * 1000, 2) for q in (0.5, 0.99)] if values else []

        return {
            "per_second": round(self.statuses["200"] / took, 1),
            "p50_p99_ms": milliseconds(self.seconds),
            "refused_p50_p99_ms": milliseconds(self.refused),
            "statuses": dict(self.statuses),
        }


class Client:
    def __init__(self, host: str, port: int, requests: list[bytes]) -> None:
        self._address = host, port
        self._requests = requests
        self._next = 0
        self.retry_after_seconds = 0  # as the last answer said
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self) -> str:
        """The status of an answer that was read to its end; `lost` when the connection was."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(*self._address)
            reader, writer = self._streams
            writer.write(self._requests[self._next % len(self._requests)])
            self._next += 1
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
            await reader.readexactly(int(fields.get(b"content-length", b"0")))
        except (OSError, asyncio.IncompleteReadError):
            self._streams = None
            return "lost"
        status = head[9:12].decode()
        self.retry_after_seconds = int(fields.get(b"retry-after", b"0"))
        return f"{status} without Retry-After" if status == "503" and b"retry-after" not in fields else status


async def closed(clients: list[Client], seconds: float) -> Asked:
    asked, end = Asked(), time.perf_counter() + seconds

    async def go_on(client: Client) -> None:
        while (began := time.perf_counter()) < end:
            asked.add(await client.ask(), time.perf_counter() - began)
            await asyncio.sleep(client.retry_after_seconds)

    await asyncio.gather(*map(go_on, clients))
    return asked


async def steady(clients: list[Client], rate: float, seconds: float) -> Asked:
    asked, began = Asked(), time.perf_counter()
    due: asyncio.Queue[float] = asyncio.Queue()

    async def go_on(client: Client) -> None:
        while (at := await due.get()) >= 0:
            asked.add(await client.ask(), time.perf_counter() - at)

    working = [asyncio.create_task(go_on(client)) for client in clients]
    for number in range(int(rate * seconds)):
        at = began + number / rate
        if (early := at - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        if due.qsize() < len(clients):
            due.put_nowait(at)
        else:
            asked.statuses["not sent"] += 1
    for _ in clients:
        due.put_nowait(-1)
    await asyncio.gather(*working)
    return asked


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("key")
    parser.add_argument("bodies", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--type", default="application/octet-stream")
    given = parser.parse_args()
    parts = urlsplit(given.url)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {given.key}\r\n"
    requests = [
        f"{head}Content-Type: {given.type}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        for body in (path.read_bytes() for path in given.bodies)
    ]
    assert parts.hostname is not None
    assert parts.port is not None
    clients = [Client(parts.hostname, parts.port, requests) for _ in range(given.clients)]
    began = time.perf_counter()
    work = steady(clients, given.rate, given.seconds) if given.rate else closed(clients, given.seconds)
    asked = uvloop.run(work)
    print(json.dumps(asked.shown(time.perf_counter() - began)))


if __name__ == "__main__":
    main()
