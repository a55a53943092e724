"""Training on a graphics card: pictures a second of our loop, against plain PyTorch and a published script.

    python -m benchmarks.train_gpu                    # our steps in each way, and plain fp32 PyTorch
    python -m benchmarks.train_gpu --script PATH      # also a step of airbench94_muon.py (github.com/KellerJordan)
    python -m benchmarks.train_gpu --service          # the network of that script, trained through the REST API

Pictures are random numbers, on the card from the start for all. Plain is the loop of a textbook: float pictures, NCHW,
fp32 with torch's defaults, Adam, cross-entropy. Ours is the loop of a job with its augmentation off but where the
network is the script's, which also flips and shifts. The script's time is that of its own clock, over its steps, after
a first run that compiles; its data set is made of random numbers too.
"""

import argparse
import importlib.util
import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.pictures import write_zip
from benchmarks.service import running
from benchmarks.train_step import textbook
from service.auto import DatasetFacts, resolve
from service.cost import Room
from service.spec import TrainSpec
from workers.training import launching, precision
from workers.training.augment import normalise
from workers.training.data import Split
from workers.training.loop import Run, train
from workers.training.randomness import seed_globally
from workers.training.state import prepare, start

CLASSES, DEVICE = 10, "cuda"
WARM_STEPS, SECONDS = 8, 3.0


def _group(filters: int) -> list[dict[str, Any]]:
    activated = {"batch_norm": True, "activation": "gelu"}
    pooled = [{"max_pool": 2}, {"batch_norm": {}}, {"activation": "gelu"}]
    return [{"conv": {"filters": filters, "bias": False}}, *pooled, {"conv": {"filters": filters, **activated}}]


AIRBENCH = {
    "layers": [
        {"conv": {"filters": 24, "kernel": 2, "padding": 0, "activation": "gelu"}},
        *(layer for filters in (64, 256, 256) for layer in _group(filters)),
        {"max_pool": 3},
        {"flatten": {}},
    ]
}
AS_PUBLISHED = {
    "network": AIRBENCH,
    "initialisation": {"whitening": {}, "identity": True},
    "optimizer": {"name": "muon", "lr": 0.01},
    "augment": {"horizontal_flip": "alternating", "crop": 2 / 32, "brightness": 0, "contrast": 0},
    "loss": {"name": "cross_entropy", "label_smoothing": 0.2},
    "ema": None,
}
BARE = {"augment": None, "ema": None, "progressive": None, "optimizer": {"name": "adam", "lr": 1e-3}}
CASES: tuple[tuple[str, dict[str, Any], int, int], ...] = (
    ("airbench94", AS_PUBLISHED, 32, 2000),
    ("classic", {"network": "classic", **BARE}, 32, 128),
    ("resnet18", {"network": "resnet18", **BARE}, 32, 128),
    ("resnet50", {"network": "resnet50", **BARE}, 224, 256),
)


def pictures(side: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, side, side, 3), dtype=np.uint8), random.integers(0, CLASSES, count)


def plain(network: str, pixels: np.ndarray, labels: np.ndarray, batch: int) -> float:
    """Pictures a second."""
    seed_globally(0, "init")
    model = textbook(network, pixels.shape[1]).train().to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    images = normalise(torch.from_numpy(pixels).to(DEVICE).permute(0, 3, 1, 2)).contiguous()
    truth = torch.from_numpy(labels).to(DEVICE)
    steps, began = 0, math.inf
    while steps < WARM_STEPS or time.perf_counter() - began < SECONDS:
        if steps == WARM_STEPS:
            torch.cuda.synchronize()
            began = time.perf_counter()
        rows = torch.randint(len(images), (batch,), device=DEVICE)
        optimizer.zero_grad()
        F.cross_entropy(model(images[rows]), truth[rows]).backward()
        optimizer.step()
        steps += 1
        if steps % 20 == 0:
            torch.cuda.synchronize()
    torch.cuda.synchronize()
    return (steps - WARM_STEPS) * batch / (time.perf_counter() - began)


def ours(spec: dict[str, Any], plan: dict[str, Any], pixels: np.ndarray, labels: np.ndarray) -> float:
    """Pictures a second, from after the first steps on."""
    rows = np.arange(len(pixels))
    split, nothing = Split.of(pixels, rows, labels, DEVICE), Split.of(pixels, rows[:0], labels[:0], DEVICE)
    state, run = start(spec, CLASSES, 0, DEVICE, plan, train=split), Run(split, nothing, spec, plan, 0)
    began, first = math.inf, 0
    for progress in train(state, run):
        if progress.step >= WARM_STEPS and not first:
            began, first = time.perf_counter(), progress.step
        if time.perf_counter() - began > SECONDS:
            break
    return (state.counters.step - first) * run.batch_size / (time.perf_counter() - began)


@contextmanager
def without_graphs() -> Iterator[None]:
    gain, launching.GAIN = launching.GAIN, 0.0
    try:
        yield
    finally:
        launching.GAIN = gain


def case(name: str, asked: dict[str, Any], side: int, batch: int, *, compiled: bool) -> None:
    pixels, labels = pictures(side, batch * max(10, 20_000 // batch if side == 32 else 0))
    facts = DatasetFacts(len(pixels), CLASSES, side, grey=False)
    wanted = {"image_size": side, "batch_size": batch, "epochs": 10_000, **asked}
    spec = resolve(TrainSpec.model_validate(wanted), facts, Room(sys.maxsize))
    began = time.perf_counter()
    fresh = start(spec, CLASSES, 0, DEVICE, {"precision": "fp32", "channels_last": False}).network
    plan = precision.choose(fresh, side, batch, "auto", DEVICE)
    took = time.perf_counter() - began
    layout = "channels_last" if plan["channels_last"] else "contiguous"
    ways = ", ".join(f"{key} {1e3 * seconds:.2f}" for key, seconds in plan["seconds"].items())
    print(f"{name} {side} px, {batch}: {plan['precision']}, {layout}, chosen in {took:.1f} s ({ways} ms)", flush=True)
    print(f"  determinism {plan['determinism']} ({plan['determinism_reason']})", flush=True)
    with without_graphs():
        kernels = ours(spec, plan, pixels, labels)
    graphs = ours(spec, plan, pixels, labels)
    told = [f"kernel by kernel {kernels:.0f}", f"CUDA graphs {graphs:.0f}"]
    if isinstance(asked["network"], str):
        told.append(f"plain {plain(asked['network'], pixels, labels, batch):.0f}")
    print(f"  pictures a second: {', '.join(told)}", flush=True)
    if not compiled:
        return
    found = precision.measure_compiled(fresh, side, batch, plan, DEVICE)
    print(f"  compiled: {found}", flush=True)
    if "step" in found:
        speed = ours(spec, {**plan, "compiled": True}, pixels, labels)
        print(f"  pictures a second: compiled, CUDA graphs {speed:.0f}", flush=True)


def script(path: str) -> None:
    """Seconds of a step of the script, by its own clock. It compiles its optimiser; here also its network."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "cifar10").mkdir()
        for part, count in (("train", 50_000), ("test", 10_000)):
            pixels, labels = pictures(32, count)
            data = {
                "images": torch.from_numpy(pixels),
                "labels": torch.from_numpy(labels),
                "classes": list("abcdefghij"),
            }
            torch.save(data, Path(folder) / "cifar10" / f"{part}.pt")
        copy = Path(folder) / "airbench.py"
        copy.write_text(Path(path).read_text("utf-8").replace("sys.argv[0]", "__file__"), "utf-8")
        found = importlib.util.spec_from_file_location("airbench", copy)
        assert found is not None
        assert found.loader is not None
        its = importlib.util.module_from_spec(found)
        with chdir(folder):
            found.loader.exec_module(its)
            its.evaluate = lambda *_, **__: 0.0  # its clock does not count it, and compiling it takes minutes more
            model = its.CifarNet().cuda().to(memory_format=torch.channels_last)
            for way in ("eager", "as published"):
                if way == "as published":
                    model.compile(mode="max-autotune")
                began = time.perf_counter()
                its.main("warmup", model)
                warm, steps = time.perf_counter() - began, 8 * (50_000 // 2000)
                seconds = _clock(its, model)
                print(
                    f"{Path(path).name}, {way}: {steps} steps in {seconds:.3f} s, "
                    f"{2000 * steps / seconds:.0f} pictures a second (first run {warm:.0f} s)",
                    flush=True,
                )


def _clock(its: Any, model: torch.nn.Module) -> float:
    """The best of three runs, of what its clock counts: training, without the evaluation after each epoch."""
    said: list[float] = []
    its.print_training_details = lambda variables, **_: said.append(variables["time_seconds"])
    best = math.inf
    for number in range(3):
        said.clear()
        its.main(number, model)
        best = min(best, said[-2])  # the last one is with its averaged answers
    return best


def service(count: int = 50_000) -> None:
    with running(FOVEA_DEVICE=DEVICE) as (fovea, folder):
        archive = folder.parent / "pictures.zip"
        write_zip(archive, count, 32, CLASSES)
        fovea.wait(fovea.push_dataset(archive, "pictures")["job"]["id"])
        spec = {**AS_PUBLISHED, "image_size": 32, "batch_size": 2000, "epochs": 40}
        began = time.perf_counter()
        job = fovea.wait(fovea.train("airbench", "pictures", spec)["id"])
        took = time.perf_counter() - began
        series = fovea.get(f"/v1/jobs/{job['id']}/metrics", names="images_per_second")["series"]
        speeds = [point[2] for point in series[0]["points"]]
        print(
            f"airbench94 through the REST API: {job['status']} after {took:.1f} s; pictures a second in its epochs: "
            f"median {np.median(speeds):.0f}, {min(speeds):.0f} to {max(speeds):.0f}",
            flush=True,
        )
        print(fovea.log(job["id"]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", help="path of airbench94_muon.py")
    parser.add_argument("--service", action="store_true")
    parser.add_argument("--no-compile", action="store_true", help="which takes longest")
    parser.add_argument("--cases", default=",".join(name for name, *_ in CASES))
    asked = parser.parse_args()
    if asked.service:
        service()
        return
    logging.basicConfig(level=logging.INFO, format="  %(message)s")
    print(torch.cuda.get_device_name(), "torch", torch.__version__, flush=True)
    if asked.script:
        script(asked.script)  # with torch as it comes
        torch.backends.cudnn.benchmark = False
    prepare(DEVICE, os.cpu_count() or 1)
    for name, *rest in CASES:
        if name in asked.cases.split(","):
            case(name, *rest, compiled=not asked.no_compile)


if __name__ == "__main__":
    main()
