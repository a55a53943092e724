"""Requests while a network trains on the same cores: what each does to the other.

    python -m benchmarks.mixed [tiny] [resnet18]

20 requests a second, alone and beside a training of `classic` at 32 px; and the pictures that it trains a second, alone
and beside them.
"""

import io
import subprocess
import sys
import tempfile
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import served
from benchmarks.service import running
from benchmarks.serving import ask
from service.client import Fovea

RATE, SECONDS = 20.0, 20.0
SPEC = {"network": "classic", "image_size": 32, "epochs": 10_000, "batch_size": 64}


def pictures() -> bytes:
    """1,200 of 32 px in three classes."""
    random, buffer = np.random.default_rng(0), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(1200):
            noise = random.integers(0, 200, (32, 32, 3), dtype=np.uint8)
            noise[..., number % 3] += 50
            archive.writestr(f"{'abc'[number % 3]}/{number}.png", served.encoded(noise, "png"))
    return buffer.getvalue()


def speed(fovea: Fovea, job: str, began: datetime) -> float:
    """Pictures a second, the median of the epochs since then."""
    points = fovea.get(f"/v1/jobs/{job}/metrics", names="images_per_second")["series"][0]["points"]
    return median(value for _, _, value, at in points if datetime.fromisoformat(at) > began)


def requests(fovea: Fovea, name: str, bodies: list[Path]) -> dict[str, Any]:
    return ask(fovea.url, name, bodies, "--rate", str(RATE), "--seconds", str(SECONDS))


def main() -> None:
    with tempfile.TemporaryDirectory() as text, running(FOVEA_DEVICE="cpu") as (fovea, data):
        subprocess.run([sys.executable, "-m", "benchmarks.served", str(data)], check=True)
        archive = Path(text) / "a.zip"
        archive.write_bytes(pictures())
        fovea.wait(fovea.push_dataset(archive, "a")["job"]["id"])
        sent: dict[str, list[Path]] = {}
        for name in sys.argv[1:] or served.MODELS:
            sent[name] = [Path(text) / f"{name}{place}" for place in range(16)]
            for path, picture in zip(sent[name], served.pictures(name), strict=True):
                path.write_bytes(picture)
            requests(fovea, name, sent[name])
            print(f"{name}: alone: {requests(fovea, name, sent[name])}", flush=True)
        job = fovea.train("trained", "a", SPEC)["id"]
        while not fovea.job(job)["progress"]:
            time.sleep(0.5)
        time.sleep(5)
        began = datetime.now(UTC)
        time.sleep(SECONDS)
        alone = speed(fovea, job, began)
        for name, bodies in sent.items():
            began = datetime.now(UTC)
            print(f"{name}: beside a training: {requests(fovea, name, bodies)}", flush=True)
            both = speed(fovea, job, began)
            print(f"{name}: training keeps {both / alone:.2f} of {alone:.0f} pictures a second", flush=True)
        fovea.act(job, "cancel")


if __name__ == "__main__":
    main()
