"""Fovea's classify over HTTP against what decoder and engine do without it, on the same cores.

    python -m benchmarks.serving [tiny] [resnet18] [--only limit,one,saturation,share,twice,cold] [--processes N]

`limit` is the same decode and the same engine in a tight loop of a process of its own, batches of 8 pictures, decoding
in as many threads as there are cores. The client runs on the same cores as the service, and has its share of them:
`cores` are those that the service itself took, in processor seconds a second.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import served
from benchmarks.service import KEY, free_port
from service import images
from service.inference.onnx_program import pack
from service.inference.programs import Stored, load
from service.settings import Settings
from workers.training.onnx import to_onnx

CLIENTS = 16
BATCH = 8
PARTS = ("limit", "one", "saturation", "many", "share", "twice", "cold")


@contextmanager
def serving(data: Path, log: Path, **environment: str) -> Iterator[tuple[str, int]]:
    """Address and process id of a service over the folder."""
    port = free_port()
    settings = {"FOVEA_DATA": str(data), "FOVEA_PORT": str(port), "FOVEA_ADMIN_KEY": KEY, **environment}
    with log.open("wb") as file:
        words = [sys.executable, "-m", "service"]
        process = subprocess.Popen(words, env={**os.environ, **settings}, stdout=file, stderr=file)
    try:
        while b"is ready" not in log.read_bytes():
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def ask(url: str, name: str, bodies: list[Path], *words: str) -> dict[str, Any]:
    address = f"{url}/v1/models/{name}/classify"
    command = [sys.executable, "-m", "benchmarks.load", address, KEY, *map(str, bodies), *words]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def limit(name: str, seconds: float) -> dict[str, Any]:
    """Pictures a second without HTTP, and milliseconds of one picture through decode and engine, and engine alone."""
    network, size = served.MODELS[name]
    most, sent = Settings().max_image_pixels, served.pictures(name)
    packed = pack(to_onnx(served.program(network, size)))
    backend, _ = served.timed(packed, size)[0]
    program = load(Stored(packed, backend), "cpu", os.cpu_count() or 1)

    def decode(place: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return images.decode(sent[place % len(sent)], size, max_pixels=most).pixels

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        coming = [pool.submit(decode, place) for place in range(2 * BATCH)]
        done, began = 0, time.perf_counter()
        while time.perf_counter() < began + seconds:
            now, coming = coming[:BATCH], coming[BATCH:] + [pool.submit(decode, place) for place in range(BATCH)]
            program.outputs(np.stack([one.result() for one in now]))
            done += BATCH
        rate = done / (time.perf_counter() - began)
    both, alone = [], []
    for place in range(30):
        began = time.perf_counter()
        pixels = decode(place)[np.newaxis]
        decoded = time.perf_counter()
        program.outputs(pixels)
        both.append(time.perf_counter() - began)
        alone.append(time.perf_counter() - decoded)
    one, engine = (round(float(np.median(values)) * 1000, 2) for values in (both, alone))
    return {"engine": str(backend), "per_second": round(rate, 1), "one_ms": one, "engine_ms": engine}


def _family(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid), *psutil.Process(pid).children()]


def with_cores(pid: int, load: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the load found, and how many cores the service took for it."""

    def spent() -> float:
        return sum(sum(one.cpu_times()[:2]) for one in _family(pid))

    before, began = spent(), time.perf_counter()
    found = load()
    return {**found, "cores": round((spent() - before) / (time.perf_counter() - began), 2)}


def twice(url: str, pid: int, name: str, bodies: list[Path], rate: float) -> dict[str, Any]:
    """Twice the saturation for 60 s, and how much memory the service has, MiB, from its tenth second on."""
    resident: list[int] = []
    over = threading.Event()
    family = _family(pid)

    def watch() -> None:
        while not over.wait(1):
            resident.append(sum(one.memory_info().rss for one in family) // 1024**2)

    watching = threading.Thread(target=watch)
    watching.start()
    found = ask(url, name, bodies, "--rate", str(2 * rate), "--seconds", "60", "--clients", "1000")
    over.set()
    watching.join()
    return {**found, "rss_mib": [min(resident[10:]), max(resident[10:])]}


def multipart(pictures: list[bytes], folder: Path) -> Path:
    """64 pictures as one body."""
    path = folder / "many"
    with path.open("wb") as file:
        for place in range(64):
            head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{place}.png"\r\n\r\n'
            file.write(head.encode() + pictures[place % len(pictures)] + b"\r\n")
        file.write(b"--b--\r\n")
    return path


def measure(name: str, parts: list[str], folder: Path, environment: dict[str, str]) -> None:
    def tell(part: str, found: dict[str, Any]) -> None:
        print(f"{name}: {part}: {json.dumps(found)}", flush=True)

    def asked(bodies: list[Path], *words: str) -> dict[str, Any]:
        return with_cores(pid, lambda: ask(url, name, bodies, *words))

    if "limit" in parts:
        words = [sys.executable, "-m", "benchmarks.serving", name, "--only", "inner-limit"]
        calm = {**os.environ, "GOMP_SPINCOUNT": "1000"}  # as in the service: else decoding and engine slow each other
        done = subprocess.run(words, env=calm, capture_output=True, text=True, check=True)
        print(f"{name}: limit: {done.stdout}", end="", flush=True)
    bodies = []
    for place, picture in enumerate(served.pictures(name)):
        bodies.append(folder / f"{name}{place}")
        bodies[-1].write_bytes(picture)
    with serving(folder / "data", folder / "log", **environment) as (url, pid):
        if "cold" in parts:
            time.sleep(5)
            tell("first answer", ask(url, name, bodies, "--clients", "1", "--seconds", "0.01"))
        ask(url, name, bodies, "--clients", str(CLIENTS), "--seconds", "3")
        if "one" in parts:
            tell("one client", asked(bodies, "--clients", "1", "--seconds", "8"))
        if "many" in parts:
            kind = ("--type", "multipart/form-data; boundary=b")
            body = multipart(served.pictures(name), folder)
            found = asked([body], "--clients", "4", "--seconds", "8", *kind)
            tell("64 pictures a request, 4 clients", {**found, "pictures_per_second": 64 * found["per_second"]})
        if {"saturation", "share", "twice"} & set(parts):
            found = asked(bodies, "--clients", str(CLIENTS), "--seconds", "10")
            tell(f"saturation, {CLIENTS} clients", found)
            rate = found["per_second"]
        if "share" in parts:
            tell("70 %", asked(bodies, "--rate", str(0.7 * rate), "--seconds", "10"))
        if "twice" in parts:
            tell("twice the saturation", twice(url, pid, name, bodies, rate))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=list(served.MODELS))
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--processes", default="1")
    given = parser.parse_args()
    if given.only == "inner-limit":
        print(json.dumps(limit(given.models[0], 8)))
        return
    environment = {"FOVEA_PROCESSES": given.processes, "FOVEA_DEVICE": "cpu"}
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "data").mkdir()
        subprocess.run([sys.executable, "-m", "benchmarks.served", f"{name}/data"], check=True)
        for model in given.models:
            measure(model, given.only.split(","), Path(name), environment)


if __name__ == "__main__":
    main()
