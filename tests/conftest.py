"""The real thing: a server process, a worker process, a database file. Nothing here stands in for our own code."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from service.db import Database
from tests.documented import hold
from tests.postgresql import GIVEN, database_for, server

pytest_plugins = ["tests.browser"]

KEY = "fov_test_key_0123456789"
LONG = ("suspects", "page_uploads", "int8", "control", "recovery", "standby", "engines", "search", "contract", "up")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of minutes first, so that no worker waits for another's at the end."""
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONG)


class Fovea:
    """A service and a worker over one data folder, each a process that a test may kill and start again."""

    def __init__(self, data: Path, **environment: str) -> None:
        self.data = data
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FOVEA_")},
            "FOVEA_DATA": str(data),
            "FOVEA_PORT": str(self.port),
            "FOVEA_ADMIN_KEY": KEY,
            "FOVEA_POLL_SECONDS": "0.1",
            "FOVEA_ENGINE": "torch",  # the choice among engines takes seconds, and is tested by itself
            "FOVEA_THREADS": "1",  # two threads wait for each other for ages where other work shares the cores
            **({"FOVEA_DATABASE_URL": database_for(data, GIVEN)} if GIVEN else {}),
            **environment,
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        head = {"Authorization": f"Bearer {KEY}"}
        self.http = httpx.Client(base_url=self.url, headers=head, timeout=90, event_hooks={"response": [hold]})

    @contextmanager
    def database(self) -> Iterator[Database]:
        """The one that its processes use."""
        opened = Database(self.environment.get("FOVEA_DATABASE_URL", f"sqlite:///{self.data / 'fovea.db'}"))
        try:
            yield opened
        finally:
            opened.dispose()

    def start(self, *names: str, until: str = "/readyz") -> None:
        for name in names or ("service", "workers"):
            with (self.data.parent / f"{name}.log").open("ab") as log:
                self.processes[name] = subprocess.Popen(
                    [sys.executable, "-m", name], env=self.environment, stdout=log, stderr=log
                )
        if "service" in self.processes:
            self.wait_ready(until)

    def wait_ready(self, path: str = "/readyz") -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if self.http.get(path).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError((self.data.parent / "service.log").read_text())

    def end(self, *names: str, number: int = signal.SIGTERM) -> list[int]:
        """Signals the processes and waits for them; their exit codes."""
        chosen = [self.processes.pop(name) for name in names or tuple(self.processes)]
        for process in chosen:
            process.send_signal(number)
        return [process.wait(90) for process in chosen]

    def upload(self, body: bytes, name: str) -> dict:
        answer = self.http.post(
            "/v1/datasets", params={"name": name}, content=body, headers={"Content-Type": "application/zip"}
        )
        assert answer.status_code == 202, answer.text
        return answer.json()

    def dataset(self, body: bytes, name: str) -> dict:
        """Uploads and waits; the ready version."""
        job = self.wait(self.upload(body, name)["job"]["id"])
        assert job["status"] == "succeeded", job
        return self.http.get(f"/v1/datasets/{name}/versions/1").json()

    def train(self, model: str, dataset: str, spec: dict, **more: object) -> dict:
        body = {"type": "train", "model": model, "dataset": dataset, "spec": spec, **more}
        answer = self.http.post("/v1/jobs", json=body)
        assert answer.status_code == 202, answer.text
        return answer.json()

    def job(self, job_id: str) -> dict:
        return self.http.get(f"/v1/jobs/{job_id}").json()

    def wait(self, job_id: str, seconds: float = 180) -> dict:
        return self.wait_for(job_id, lambda job: job["is_terminal"], seconds)

    def wait_for(self, job_id: str, condition: Callable[[dict], bool], seconds: float = 120) -> dict:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            job = self.job(job_id)
            if condition(job):
                return job
            time.sleep(0.1)
        raise AssertionError(f"{job}\n{(self.data.parent / 'workers.log').read_text()}")

    def job_process(self) -> psutil.Process:
        """Of the job that runs now: a child of what has torch imported."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for waiting in psutil.Process(self.processes["workers"].pid).children():
                if waiting.cmdline()[-1:] == ["forking"] and (found := waiting.children()):
                    return found[0]
            time.sleep(0.05)
        raise AssertionError((self.data.parent / "workers.log").read_text())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def fovea(tmp_path: Path) -> Iterator[Fovea]:
    """Not started yet: a test says which processes it needs."""
    with fovea_in(tmp_path) as instance:
        yield instance


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fovea]:
    """Service and worker running, shared by the tests of a module."""
    with fovea_in(tmp_path_factory.mktemp("shared")) as instance:
        instance.start()
        yield instance


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a server; the test is skipped where none can be had."""
    with server() as url:
        yield url


@contextmanager
def fovea_in(folder: Path, **environment: str) -> Iterator[Fovea]:
    """Its processes end with the block, however that ends."""
    (folder / "data").mkdir()
    instance = Fovea(folder / "data", **environment)
    try:
        yield instance
    finally:
        instance.http.close()
        instance.end(number=signal.SIGKILL)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def make_zip(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def digits_zip(count: int = 1797) -> bytes:
    """scikit-learn's handwritten digits as PNG files, one folder per digit."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images * 255 / 16).astype(np.uint8)
    rows = zip(pixels[:count], digits.target[:count], strict=True)
    return make_zip({f"{label}/{number:04}.png": png(image) for number, (image, label) in enumerate(rows)})


def colours_zip(per_class: int = 20, side: int = 16, seed: int = 0) -> bytes:
    """Three classes that differ in colour: small, and learned in seconds."""
    random = np.random.default_rng(seed)
    files = {}
    for channel, name in enumerate(("red", "green", "blue")):
        for number in range(per_class):
            pixels = random.integers(0, 120, (side, side, 3), dtype=np.uint8)
            pixels[..., channel] += np.uint8(100)
            files[f"{name}/{number}.png"] = png(pixels)
    return make_zip(files)
