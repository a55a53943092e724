"""How fast each engine answers, one process per engine: milliseconds for one picture, pictures a second in batches.

    python -m benchmarks.engines [THREADS]

The programs are those that a job makes (random weights: speed does not ask what was learned), through the code that
serves: from (N, S, S, 3) uint8 pixels to logits, strangeness and maps. Loading is from bytes to the first answer.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from service.inference.choice import runs_here
from service.inference.programs import TORCH, Backend, Stored, load, parse

NETWORKS = (("classic", 32), ("resnet18", 224))
ENGINES = (TORCH, Backend("onnxruntime"), Backend("openvino"), Backend("openvino", "bf16"))
BATCHES = (1, 8, 64)
SECONDS = 2.0  # of timing for each batch size


def main(threads: int) -> None:
    for name, side in NETWORKS:
        print(f"{name}, {side} px, {threads} threads")
        with tempfile.TemporaryDirectory() as folder:
            words = [sys.executable, "-m", "benchmarks.engines"]
            subprocess.run([*words, "make", name, str(side), folder], check=True)
            for backend in ENGINES:
                if runs_here(backend):
                    path = f"{folder}/{backend.kind}"
                    subprocess.run([*words, "time", path, str(backend), str(side), str(threads)], check=True)


def make(name: str, side: int, folder: Path) -> None:
    from service.inference.onnx_program import pack
    from workers.training import export
    from workers.training.networks import build
    from workers.training.onnx import to_onnx, without

    pixels = np.random.default_rng(0).integers(0, 256, (100, side, side, 3), dtype=np.uint8)
    classifier = export.Classifier(build(name, side, 10).eval())
    whole = export.fitted(classifier, pixels, np.arange(100), np.arange(100) % 10)
    program = export.export_program(whole, side)
    head = {key: tensor.numpy() for key, tensor in whole.strangeness.named_buffers()}
    (folder / "torch").write_bytes(program)
    began = time.perf_counter()
    (folder / "onnx").write_bytes(pack(without(to_onnx(program), "strangeness"), **head))
    print(f"  {'written as ONNX in':<24}{time.perf_counter() - began:9.2f} s", flush=True)


def measure(path: Path, backend: Backend, side: int, threads: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (max(BATCHES), side, side, 3), dtype=np.uint8)
    data, began = path.read_bytes(), time.perf_counter()
    program = load(Stored(data, backend), "cpu", threads)
    program.outputs(pixels[:1])
    loading = time.perf_counter() - began
    medians = []
    for size in BATCHES:
        program.outputs(pixels[:size])
        times: list[float] = []
        ending = time.perf_counter() + SECONDS
        while len(times) < 3 or time.perf_counter() < ending:
            started = time.perf_counter()
            program.outputs(pixels[:size])
            times.append(time.perf_counter() - started)
        medians.append(float(np.median(times)))
    rates = "".join(f"{size / seconds:10.0f}/s" for size, seconds in zip(BATCHES, medians, strict=True))
    print(f"  {backend!s:<24}{1000 * medians[0]:9.3f} ms{rates}   loading {loading:.2f} s", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    elif sys.argv[1:2] == ["time"]:
        measure(Path(sys.argv[2]), parse(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
