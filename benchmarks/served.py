"""What the serving benchmarks ask for: a data folder with two registered models, and pictures to send.

The models are untrained, for what is timed is how long an answer takes: `tiny` is `classic` at 32 px, `resnet18` is at
224 px, each exported as training exports it, with strangeness, and served by the engine that is fastest here.
"""

import io
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from service import artifacts, jobs
from service.db import Database
from service.db.migrate import upgrade
from service.inference.choice import OTHERS, pace, runs_here
from service.inference.onnx_program import pack
from service.inference.programs import Backend
from workers import engines
from workers.training import export
from workers.training.networks import build
from workers.training.onnx import to_onnx

MODELS = {"tiny": ("classic", 32), "resnet18": ("resnet18", 224)}
CLASSES = 10


def program(network: str, size: int) -> bytes:
    torch.manual_seed(0)
    classifier = export.Classifier(build(network, size, CLASSES).eval())
    packed = np.random.default_rng(0).integers(0, 256, (64, size, size, 3), dtype=np.uint8)
    served = export.fitted(classifier, packed, np.arange(64), np.arange(64) % CLASSES)
    return export.export_program(served, size)


def timed(packed: bytes, size: int) -> list[tuple[Backend, dict[str, float]]]:
    """Every engine of this machine and its milliseconds, as a certificate has them, the fastest first."""
    rows = [(backend, _milliseconds(packed, backend, size)) for backend in OTHERS if runs_here(backend)]
    return sorted(rows, key=lambda row: pace(row[1]))


def _milliseconds(packed: bytes, backend: Backend, size: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        stored, pixels = Path(folder) / "program", Path(folder) / "pixels.npy"
        stored.write_bytes(packed)
        np.save(pixels, np.zeros((8, size, size, 3), dtype=np.uint8))
        return engines.elsewhere(stored, backend, pixels, range(8), os.cpu_count() or 1).milliseconds


def register(data: Path) -> None:
    """Makes the folder's database and both models in it; the newest, which a start of the service loads, is `tiny`."""
    database = Database(f"sqlite:///{data / 'fovea.db'}")
    upgrade(database)
    for name, (network, size) in reversed(MODELS.items()):
        made = program(network, size)
        packed = pack(to_onnx(made))
        candidates = timed(packed, size)
        blob = artifacts.write_chunks(database, made)
        forms = {"onnx": artifacts.write_chunks(database, packed)}
        card = {
            "weights_sha256": name,
            "parameters": 1,
            "classes": [f"class {number}" for number in range(CLASSES)],
            "image_size": size,
            "temperature": 1.0,
            "certificate": {
                "engine": str(candidates[0][0]),
                "candidates": [{"engine": str(one), "passed": True, "ms": ms} for one, ms in candidates],
            },
            "strangeness": {"n": 100, "step": 1, "descending": np.linspace(9, 1, 100).tolist()},
        }
        with database.write() as session:
            job = jobs.submit(session, "train", spec={}, model=name)
            job.status = "succeeded"
            artifacts.add_model_version(session, name, job.id, blob, card=card, evaluation={}, engines=forms)
    database.dispose()


def photo(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """A picture with the 1/f spectrum of photographs: a decoder has as much to do with it as with one of these."""
    random = np.random.default_rng(seed)
    far = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    far[0, 0] = 1
    waves = random.normal(size=(3, *far.shape)) + 1j * random.normal(size=(3, *far.shape))
    planes = np.stack([np.fft.irfft2(one / far**1.2, s=(height, width)) for one in waves], 2)
    planes = 128 + 50 * planes / planes.std()
    return np.clip(planes, 0, 255).astype(np.uint8)


def encoded(pixels: NDArray[np.uint8], kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 90} if kind == "jpeg" else {}))
    return buffer.getvalue()


def pictures(name: str) -> list[bytes]:
    """Sixteen to send to a model: 32 px PNG for `tiny`, 500 x 375 JPEG for `resnet18`."""
    if name == "tiny":
        return [encoded(photo(32, 32, seed), "png") for seed in range(16)]
    return [encoded(photo(500, 375, seed), "jpeg") for seed in range(16)]


if __name__ == "__main__":
    register(Path(sys.argv[1]))
