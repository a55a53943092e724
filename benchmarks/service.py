"""A service with its worker, started as a user would start it, over a folder that goes away."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.client import Fovea, FoveaError

KEY = "fov_benchmark_key_0123"
WARM_SECONDS = 20.0  # after which the next job's process has torch imported


@contextmanager
def running(**environment: str) -> Iterator[tuple[Fovea, Path]]:
    """A client of a fresh `fovea up`, and its data folder."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        settings = {"FOVEA_DATA": str(folder / "data"), "FOVEA_PORT": str(port), "FOVEA_ADMIN_KEY": KEY}
        with (folder / "log").open("wb") as log:
            words = [sys.executable, "-m", "service.cli", "up"]
            server = subprocess.Popen(words, env={**os.environ, **settings, **environment}, stdout=log, stderr=log)
        try:
            with Fovea(f"http://127.0.0.1:{port}", KEY) as fovea:
                _until_ready(fovea)
                yield fovea, folder / "data"
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until_ready(fovea: Fovea) -> None:
    while True:
        try:
            fovea.get("/readyz")
        except FoveaError:
            time.sleep(0.01)
        else:
            return
