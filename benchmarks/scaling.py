"""Does wall time grow linearly in pictures x epochs, and the trainer's memory not at all?

Runs of the training loop over mapped caches of growing size, each in a process of its own. R² is that of the straight
line through seconds over pictures x epochs. Memory is what belongs to the process alone, without the mapped file.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

SIDE, CLASSES, BATCH = 32, 6, 64
COUNTS, EPOCHS = (1500, 3000, 6000, 12000, 24000), (1, 2, 4)


def one(cache: str, epochs: int) -> None:
    """Prints the seconds of the loop and the process's own bytes at its end."""
    import time

    import psutil

    from service.auto import DatasetFacts, resolve
    from service.spec import TrainSpec
    from workers.training.data import Split
    from workers.training.loop import Run, train
    from workers.training.state import prepare, start

    prepare("cpu", psutil.cpu_count(logical=False) or 1)
    packed = np.load(cache, mmap_mode="r")
    labels = np.arange(len(packed)) % CLASSES
    facts = DatasetFacts(len(packed), CLASSES, SIDE, grey=False)
    asked = {"network": "classic", "image_size": SIDE, "epochs": epochs, "batch_size": BATCH}
    spec, plan = resolve(TrainSpec.model_validate(asked), facts), {"precision": "fp32", "channels_last": True}
    rows = np.arange(len(packed))
    splits = [Split.of(packed, part, labels[part], "cpu") for part in (rows, rows[:100])]
    for steps in (20, None):  # the first steps of a process are slower: they warm up, and are not counted
        state, run = start(spec, CLASSES, 0, "cpu", plan), Run(*splits, spec, plan, 0)
        state.counters.total = steps or run.steps
        began = time.perf_counter()
        for _ in train(state, run):
            pass
        seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "steps": run.steps, "bytes": psutil.Process().memory_full_info().uss}))


def main() -> None:
    found = []
    with tempfile.TemporaryDirectory() as name:
        for count in COUNTS:
            cache = Path(name) / f"{count}.npy"
            np.save(cache, np.random.default_rng(0).integers(0, 255, (count, SIDE, SIDE, 3), dtype=np.uint8))
            for epochs in EPOCHS:
                words = [sys.executable, "-m", "benchmarks.scaling", str(cache), str(epochs)]
                row = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
                found.append((count * epochs, row["seconds"], row["bytes"], count))
                print(
                    f"{count} pictures, {epochs} epochs: {row['seconds']:.2f} s, {row['bytes'] / 2**20:.0f} MiB",
                    flush=True,
                )
    work, seconds, own, counts = (np.array(column, dtype=float) for column in zip(*found, strict=True))
    print(f"R² of seconds over pictures x epochs: {np.corrcoef(work, seconds)[0, 1] ** 2:.5f}")
    least, most = own[counts == COUNTS[0]].mean(), own[counts == COUNTS[-1]].mean()
    print(f"memory: {least / 2**20:.0f} MiB at {COUNTS[0]}, {most / 2**20:.0f} MiB at {COUNTS[-1]} pictures")


if __name__ == "__main__":
    one(sys.argv[1], int(sys.argv[2])) if len(sys.argv) == 3 else main()
