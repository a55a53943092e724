"""Recipes against each other on a zip of one folder per class: accuracy on a fixed fifth, and seconds of training.

    python -m benchmarks.recipes ARCHIVE SIDE SPEC [SPEC ...]

Each SPEC is JSON, as in a job's `spec`; what it leaves out is chosen as for any job. Precision and layout are measured.
"""

import json
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil

from service import images
from service.auto import DatasetFacts, resolve
from service.settings import Settings
from service.spec import TrainSpec
from workers.training import precision
from workers.training.data import Split
from workers.training.loop import EpochResult, Run, train
from workers.training.state import prepare, start
from workers.training.weights import Initial, pretrained

SUFFIXES = (".png", ".jpg", ".jpeg")


def read(archive: Path, side: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """(N, S, S, 3) pixels, (N,) class numbers, and whether the pictures are grey."""
    with zipfile.ZipFile(archive) as source:
        names = sorted(name for name in source.namelist() if name.lower().endswith(SUFFIXES))
        decoded = [images.decode(source.read(name), side, max_pixels=10**8) for name in names]
    folders = [name.split("/")[-2] for name in names]
    classes = sorted(set(folders))
    pixels = np.stack([picture.pixels for picture in decoded])
    return pixels, np.array([classes.index(folder) for folder in folders]), all(picture.grey for picture in decoded)


def measure(wanted: dict, pixels: np.ndarray, labels: np.ndarray, grey: bool) -> str:
    side, classes = pixels.shape[1], int(labels.max()) + 1
    order = np.random.default_rng(0).permutation(len(labels))
    held_out = len(labels) // 5
    facts = DatasetFacts(len(labels) - held_out, classes, side, grey=grey)
    spec = resolve(TrainSpec.model_validate({"image_size": side, **wanted}), facts)
    plain = {"precision": "fp32", "channels_last": False}
    network = start(spec, classes, 0, "cpu", plain).network
    plan = precision.choose(network, side, spec["batch_size"], "auto", "cpu")
    weights = spec["initial_weights"] and Initial(pretrained(spec["network"], Settings().weights_dir))
    state = start(spec, classes, 0, "cpu", plan, weights)
    splits = [Split.of(pixels, rows, labels[rows], "cpu") for rows in (order[held_out:], order[:held_out])]
    began = time.perf_counter()
    *_, last = (one for one in train(state, Run(*splits, spec, plan, 0)) if isinstance(one, EpochResult))
    seconds = time.perf_counter() - began
    return (
        f"{json.dumps(wanted)}: accuracy {last.metrics['val/accuracy']:.3f} (n = {held_out}) "
        f"after {spec['epochs']} epochs, {seconds:.1f} s"
    )


def main() -> None:
    archive, side, *specs = sys.argv[1:]
    prepare("cpu", psutil.cpu_count(logical=False) or 1)
    pixels, labels, grey = read(Path(archive), int(side))
    for wanted in specs:
        print(Path(archive).stem, measure(json.loads(wanted), pixels, labels, grey), flush=True)


if __name__ == "__main__":
    main()
