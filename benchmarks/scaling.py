"""Does wall time grow linearly in pictures x epochs, and the trainer's memory not at all?

Runs of the training loop over mapped caches of growing size. They take turns, each a two-hundredth of its steps, so
that whatever else the machine does falls on all of them alike. R² is that of the straight line through seconds over
pictures x epochs. Memory is what belongs to a process of its own, without the mapped file.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from service.auto import DatasetFacts, resolve
from service.spec import TrainSpec
from workers.training import loop
from workers.training.data import Split
from workers.training.state import prepare, start

SIDE, CLASSES, BATCH = 32, 6, 64
COUNTS, EPOCHS = (1500, 3000, 6000, 12000, 24000), (1, 2, 4)
TURNS = 200


class Training:
    """A run that can be asked to go on for a while; `seconds` are those it has taken."""

    def __init__(self, cache: Path, epochs: int) -> None:
        packed = np.load(cache, mmap_mode="r")
        labels = np.arange(len(packed)) % CLASSES
        facts = DatasetFacts(len(packed), CLASSES, SIDE, grey=False)
        asked = {"network": "classic", "image_size": SIDE, "epochs": epochs, "batch_size": BATCH}
        spec, plan = resolve(TrainSpec.model_validate(asked), facts), {"precision": "fp32", "channels_last": True}
        rows = np.arange(len(packed))
        splits = [Split.of(packed, part, labels[part], "cpu") for part in (rows, rows[:100])]
        state, run = start(spec, CLASSES, 0, "cpu", plan), loop.Run(*splits, spec, plan, 0)
        self.pictures, self.steps, self.seconds, self._done = len(packed) * epochs, run.steps, 0.0, 0
        self._training: Iterator[loop.StepProgress] = loop.train(state, run)

    def go_on(self, until: int) -> None:
        """To this step, from 0."""
        began = time.perf_counter()
        while self._done < until:
            self._done = next(self._training).step
        self.seconds += time.perf_counter() - began


def memory(cache: Path) -> int:
    """Bytes of a process that has trained on it for an epoch."""
    words = [sys.executable, "-m", "benchmarks.scaling", str(cache)]
    return int(json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout))


def main() -> None:
    prepare("cpu", psutil.cpu_count(logical=False) or 1)
    loop.YIELD_SECONDS = 0.0  # after every step
    if len(sys.argv) == 2:
        training = Training(Path(sys.argv[1]), 1)
        training.go_on(training.steps)
        print(sum(part.anonymous for part in psutil.Process().memory_maps()))
        return
    with tempfile.TemporaryDirectory() as name:
        caches = [Path(name) / f"{count}.npy" for count in COUNTS]
        for cache, count in zip(caches, COUNTS, strict=True):
            np.save(cache, np.random.default_rng(0).integers(0, 255, (count, SIDE, SIDE, 3), dtype=np.uint8))
        for cache in caches:
            print(f"{cache.stem} pictures: {memory(cache) / 2**20:.0f} MiB", flush=True)
        trainings = [Training(cache, epochs) for cache in caches for epochs in EPOCHS]
        for turn in range(1, TURNS + 1):
            for training in trainings:
                training.go_on(training.steps * turn // TURNS)
    for training in trainings:
        print(f"{training.pictures} pictures x epochs: {training.seconds:.2f} s")
    pictures, seconds = zip(*((training.pictures, training.seconds) for training in trainings), strict=True)
    print(f"R² of seconds over pictures x epochs: {np.corrcoef(pictures, seconds)[0, 1] ** 2:.5f}")


if __name__ == "__main__":
    main()
