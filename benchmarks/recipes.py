"""Recipes against each other on pictures in one folder per class: accuracy on a fixed fifth, and seconds to reach it.

    python -m benchmarks.recipes ARCHIVE SIDE [--reach ACCURACY|first] [--seeds N] SPEC [SPEC ...]

ARCHIVE is a zip, or `digits` for those of scikit-learn. Each SPEC is JSON, as in a job's `spec`; what it leaves out is
chosen as for any job. Precision and layout are measured; threads are FOVEA_THREADS. Seconds count from before the first
weight to the end of an epoch, its validation included. `--reach first` asks for the accuracy that the first SPEC ends
with, the mean over its seeds.
"""

import argparse
import io
import json
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from service import images
from service.auto import DatasetFacts, resolve
from service.cost import operations
from service.datasets.versions import is_sign
from service.demo import zipped_digits
from service.settings import Settings
from service.spec import TrainSpec
from workers.training import precision
from workers.training.data import Split
from workers.training.loop import EpochResult, Run, train
from workers.training.state import prepare, start
from workers.training.weights import Initial, pretrained

SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Pictures:
    pixels: np.ndarray  # (N, S, S, 3) uint8
    labels: np.ndarray  # (N,)
    facts: DatasetFacts


@dataclass(frozen=True)
class Course:
    """How a training went: seconds and accuracy at the end of each epoch."""

    seconds: list[float]
    accuracies: list[float]

    def reached(self, accuracy: float) -> tuple[int, float] | None:
        """The first epoch, from 1, with that accuracy, and the seconds until its end."""
        epochs = [k for k, found in enumerate(self.accuracies) if found >= accuracy]
        return (epochs[0] + 1, self.seconds[epochs[0]]) if epochs else None


def read(archive: str, side: int) -> Pictures:
    with zipfile.ZipFile(io.BytesIO(zipped_digits()) if archive == "digits" else archive) as source:
        names = sorted(name for name in source.namelist() if name.lower().endswith(SUFFIXES))
        decoded = [images.decode(source.read(name), side, max_pixels=10**8) for name in names]
    folders = [name.split("/")[-2] for name in names]
    classes = sorted(set(folders))
    pixels = np.stack([picture.pixels for picture in decoded])
    labels = np.array([classes.index(folder) for folder in folders])
    grey = all(picture.grey for picture in decoded)
    count = len(labels) - len(labels) // 5
    return Pictures(
        pixels, labels, DatasetFacts(count, len(classes), side, grey=grey, signs=all(map(is_sign, classes)))
    )


def measure(wanted: dict, pictures: Pictures, seed: int) -> tuple[dict, Course]:
    """The resolved spec, and how its training went."""
    pixels, labels, classes = pictures.pixels, pictures.labels, pictures.facts.classes
    side = pixels.shape[1]
    order = np.random.default_rng(0).permutation(len(labels))
    held_out = len(labels) // 5
    spec = resolve(TrainSpec.model_validate({"image_size": side, **wanted}), pictures.facts)
    plain = {"precision": "fp32", "channels_last": False}
    network = start(spec, classes, 0, "cpu", plain).network
    plan = precision.choose(network, side, spec["batch_size"], "auto", "cpu")
    weights = spec["initial_weights"] and Initial(pretrained(spec["network"], Settings().weights_dir))
    splits = [Split.of(pixels, rows, labels[rows], "cpu") for rows in (order[held_out:], order[:held_out])]
    began = time.perf_counter()
    state = start(spec, classes, seed, "cpu", plan, weights or None, splits[0])
    course = Course([], [])
    for one in train(state, Run(*splits, spec, plan, seed)):
        if isinstance(one, EpochResult):
            course.seconds.append(time.perf_counter() - began)
            course.accuracies.append(one.metrics["val/accuracy"])
    return spec, course


def describe(wanted: dict, spec: dict, courses: list[Course], pictures: Pictures, target: float | None) -> str:
    ends = [course.accuracies[-1] for course in courses]
    work = operations(TrainSpec.model_validate(spec), pictures.facts.classes) / 1e6
    told = (
        f"{json.dumps(wanted)}: accuracy {np.mean(ends):.3f} ({min(ends):.3f} to {max(ends):.3f}, "
        f"n = {len(pictures.labels) // 5}) after {spec['epochs']} epochs, "
        f"{np.mean([course.seconds[-1] for course in courses]):.1f} s; {work:.0f} M operations a picture and epoch"
    )
    if target is None:
        return told
    when = [course.reached(target) for course in courses]
    shown = ", ".join(f"{found[1]:.1f} s (epoch {found[0]})" if found else "never" for found in when)
    return f"{told}; {target:.3f} reached after {shown}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive")
    parser.add_argument("side", type=int)
    parser.add_argument("specs", nargs="+", type=json.loads, metavar="SPEC")
    parser.add_argument("--reach", default=None, help="an accuracy, or 'first'")
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args()
    prepare("cpu", Settings().threads or psutil.cpu_count(logical=False) or 1)
    pictures = read(asked.archive, asked.side)
    target = float(asked.reach) if asked.reach not in (None, "first") else None
    for wanted in asked.specs:
        runs = [measure(wanted, pictures, seed) for seed in range(asked.seeds)]
        spec, courses = runs[0][0], [course for _, course in runs]
        if asked.reach == "first" and target is None:
            target = float(np.mean([course.accuracies[-1] for course in courses]))
        print(Path(asked.archive).stem, describe(wanted, spec, courses, pictures, target), flush=True)


if __name__ == "__main__":
    main()
