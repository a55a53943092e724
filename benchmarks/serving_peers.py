"""Single pictures over HTTP: Fovea against FastAPI with ONNX Runtime, LitServe and BentoML, one after the other.

    python -m benchmarks.serving_peers PEERS_PYTHON [tiny] [resnet18] [--processes N]

PEERS_PYTHON is an interpreter with fastapi, uvicorn, httptools, uvloop, onnxruntime, pillow, litserve and bentoml. All
answer the same pictures with the same network, each server with one engine process, from the same client.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks import served
from benchmarks.service import KEY, free_port
from benchmarks.serving import CLIENTS, serving
from workers.training.onnx import to_onnx

PEERS = Path(__file__).parent / "peers"
KIND = {"tiny": "image/png", "resnet18": "image/jpeg"}


@contextmanager
def peer(name: str, python: str, model: Path, size: int, picture: bytes, kind: str) -> Iterator[str]:
    port = free_port()
    if name == "bentoml":
        words = [python, "-m", "bentoml", "serve", "bentoml_onnx:Classify", "--port", str(port)]
    else:
        words = [python, str(PEERS / f"{name}_onnx.py"), str(model), str(size), str(port)]
    environment = {**os.environ, "FOVEA_PEER": f"{model} {size}", "BENTOML_DO_NOT_TRACK": "True"}
    with (model.parent / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(words, cwd=PEERS, env=environment, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}/predict"
    try:
        _until_answered(url, picture, kind, process)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):  # it may have ended by itself, and its log says why
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _until_answered(url: str, picture: bytes, kind: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.post(url, content=picture, headers={"Content-Type": kind}, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"{url} did not answer")


def form(picture: bytes) -> bytes:
    """One picture as multipart/form-data, for LitServe."""
    head = b'--b\r\nContent-Disposition: form-data; name="content"; filename="a"\r\n\r\n'
    return head + picture + b"\r\n--b--\r\n"


def timed(url: str, bodies: list[Path], kind: str) -> str:
    found: list[dict[str, Any]] = []
    for words in (["--clients", str(CLIENTS), "--seconds", "3"], ["--clients", "1", "--seconds", "5"],
                  ["--clients", str(CLIENTS), "--seconds", "8"]):  # fmt: skip
        command = [sys.executable, "-m", "benchmarks.load", url, KEY, *map(str, bodies), "--type", kind, *words]
        found.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    return f"one client {found[1]}, {CLIENTS} clients {found[2]}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("python")
    parser.add_argument("models", nargs="*", default=list(served.MODELS))
    parser.add_argument("--processes", default="1")
    parser.add_argument("--peers", default="fastapi,bentoml,litserve")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "data").mkdir()
        subprocess.run([sys.executable, "-m", "benchmarks.served", f"{folder}/data"], check=True)
        for name in given.models:
            network, size = served.MODELS[name]
            model = folder / f"{name}.onnx"
            model.write_bytes(to_onnx(served.program(network, size)))
            bodies = []
            for place, picture in enumerate(served.pictures(name)):
                bodies.append(folder / f"{name}{place}")
                bodies[-1].write_bytes(picture)
            environment = {"FOVEA_PROCESSES": given.processes, "FOVEA_DEVICE": "cpu"}
            with serving(folder / "data", folder / "log", **environment) as (url, _):
                print(f"{name}: fovea: {timed(f'{url}/v1/models/{name}/classify', bodies, KIND[name])}", flush=True)
            for one in given.peers.split(","):
                kind = KIND[name]
                if one == "litserve":
                    kind = "multipart/form-data; boundary=b"
                    for path in bodies:
                        path.write_bytes(form(path.read_bytes()))
                try:
                    with peer(one, given.python, model, size, bodies[0].read_bytes(), kind) as url:
                        print(f"{name}: {one}: {timed(url, bodies, kind)}", flush=True)
                except RuntimeError as error:
                    print(f"{name}: {one}: {error}: {(folder / f'{one}.log').read_text()[-500:]}", flush=True)


if __name__ == "__main__":
    main()
