"""Training throughput against plain fp32 PyTorch, both with their data in memory, and against the machine's own rate.

Plain is the loop of a textbook: float pictures, NCHW, Adam, cross-entropy. Ours is the loop of a job, augmentation off,
with the precision and layout that a job would measure and choose, and the allocator that a job's process gets. The
machine's rate is that of a 3 x 3 convolution of 256 channels, forward and backward, in the chosen precision. A bf16 CPU
should reach 2.9 times plain and 75 % of it.
"""

import itertools
import json
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import get_model

from service.auto import DatasetFacts, resolve
from service.cost import FLOPS_PER_MULTIPLY_ADD, cost
from service.spec import TrainSpec
from workers.standby import ENVIRONMENT
from workers.training import precision
from workers.training.augment import normalise
from workers.training.data import Split
from workers.training.loop import Run, train
from workers.training.precision import DTYPES
from workers.training.randomness import seed_globally
from workers.training.state import prepare, start

CLASSES, BATCH = 10, 128  # the batch of the published measurements on such processors
RUNS = (("classic", 32, 60), ("classic", 128, 8), ("resnet18", 32, 20), ("resnet18", 128, 4))  # steps to time
ROUNDS = 3


def textbook(network: str, side: int) -> nn.Module:
    """The network as a script without us would write it."""
    if network != "classic":
        return get_model(network, weights=None, num_classes=CLASSES)
    widths = (3, 32, 64, 128)
    blocks = [
        nn.Sequential(nn.Conv2d(below, above, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        for below, above in itertools.pairwise(widths)
    ]
    hidden = nn.Linear(widths[-1] * (side // 8) ** 2, 512)
    return nn.Sequential(*blocks, nn.Flatten(), hidden, nn.ReLU(), nn.Linear(512, CLASSES))


def plain(name: str, pixels: np.ndarray, labels: np.ndarray, steps: int) -> float:
    """Seconds of a step."""
    seed_globally(0, "init")
    network = textbook(name, pixels.shape[1]).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    images = normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2)).contiguous()
    truth = torch.from_numpy(labels)
    for number in range(steps + 2):
        if number == 2:
            began = time.perf_counter()
        rows = torch.arange(number * BATCH, (number + 1) * BATCH) % len(images)
        optimizer.zero_grad()
        F.cross_entropy(network(images[rows]), truth[rows]).backward()
        optimizer.step()
    return (time.perf_counter() - began) / steps


def ours(spec: dict[str, Any], plan: dict[str, Any], pixels: np.ndarray, labels: np.ndarray, steps: int) -> float:
    """Seconds of a step."""
    rows = np.arange(len(pixels))
    split = Split.of(pixels, rows, labels, "cpu")
    nothing = Split.of(pixels, rows[:0], labels[:0], "cpu")
    state, run = start(spec, CLASSES, 0, "cpu", plan), Run(split, nothing, spec, plan, 0)
    for total in (2, steps + 2):
        state.counters.total = total
        began = time.perf_counter()
        for _ in train(state, run):
            pass
    return (time.perf_counter() - began) / steps


def machine(chosen: str) -> float:
    """GFLOP/s of a convolution, forward and backward, in this precision."""
    layer = torch.nn.Conv2d(256, 256, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
    images = torch.randn(64, 256, 16, 16).contiguous(memory_format=torch.channels_last).requires_grad_()
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        with torch.autocast("cpu", DTYPES.get(chosen), enabled=chosen != "fp32"):
            answer = layer(images)
        answer.backward(torch.ones_like(answer))
        best = min(best, time.perf_counter() - began)
    return FLOPS_PER_MULTIPLY_ADD * 64 * 16 * 16 * 256 * 256 * 9 / best / 1e9


def one(side_of: str, network: str, side: int, steps: int) -> dict[str, Any]:
    """What one process measures: a plain step's seconds, or ours with what was chosen and the machine's rate."""
    prepare("cpu", psutil.cpu_count(logical=False) or 1)
    torch.use_deterministic_algorithms(False)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 255, (BATCH * 10, side, side, 3), dtype=np.uint8)
    labels = random.integers(0, CLASSES, len(pixels))
    asked = TrainSpec.model_validate(
        {"network": network, "image_size": side, "batch_size": BATCH, "epochs": 1000, "augment": None, "ema": None}
        | {"optimizer": {"name": "adam", "lr": 1e-3}}
    )
    spec = resolve(asked, DatasetFacts(len(pixels), CLASSES, side, grey=False))
    if side_of == "plain":
        return {"seconds": plain(network, pixels, labels, steps)}
    fresh = start(spec, CLASSES, 0, "cpu", {"precision": "fp32", "channels_last": False}).network
    plan = precision.choose(fresh, side, BATCH, "auto", "cpu")
    work = cost(TrainSpec.model_validate(spec), CLASSES).multiply_adds * FLOPS_PER_MULTIPLY_ADD * BATCH
    return {
        "seconds": ours(spec, plan, pixels, labels, steps),
        "chosen": f"{plan['precision']}, {'channels_last' if plan['channels_last'] else 'contiguous'}",
        "gflop": work / 1e9,
        "limit": machine(plan["precision"]),
    }


def measured(side_of: str, network: str, side: int, steps: int) -> dict[str, Any]:
    """`one` in a process of its own: ours with the allocator that the supervisor gives a job, plain as it comes."""
    words = [sys.executable, "-m", "benchmarks.train_step", side_of, network, str(side), str(steps)]
    environment = {**os.environ, **(ENVIRONMENT if side_of == "ours" else {})}
    found = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    row: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return row


def main() -> None:
    for network, side, steps in RUNS:
        rows = [[measured(kind, network, side, steps) for kind in ("plain", "ours")] for _ in range(ROUNDS)]
        theirs, mine = (float(np.median([row[k]["seconds"] for row in rows])) for k in (0, 1))
        limit = max(row[1]["limit"] for row in rows)
        rate = rows[0][1]["gflop"] / mine
        print(
            f"{network} {side} px: {theirs / mine:.2f} times plain ({BATCH / mine:.0f} a second against "
            f"{BATCH / theirs:.0f}; {rows[0][1]['chosen']}); {rate:.0f} GFLOP/s, {100 * rate / limit:.0f} % of a "
            f"convolution's {limit:.0f}",
            flush=True,
        )


if __name__ == "__main__":
    if len(sys.argv) == 5:
        print(json.dumps(one(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
