"""Training on CPU against a plain PyTorch loop: fp32, NCHW, a DataLoader that decodes from files.

Same network, batch size, pictures, epochs and initial weights; ours runs from the packed cache with what the machine's
measurement chose. Accuracy is on the same held-out pictures.
"""

import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.pictures import write_zip
from service import images
from service.auto import DatasetFacts, resolve
from service.spec import TrainSpec
from workers.training import precision
from workers.training.data import Split
from workers.training.loop import EpochResult, Run, train
from workers.training.networks import build
from workers.training.randomness import seed_globally
from workers.training.state import prepare, start

EPOCHS, BATCH, CLASSES = 8, 64, 6


class Files(Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, paths: list[Path], labels: list[int], side: int) -> None:
        self.paths, self.labels, self.side = paths, labels, side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.paths[row]) as picture:
            pixels = np.array(picture.convert("RGB").resize((self.side, self.side), Image.Resampling.BILINEAR))
        return (torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - 0.5) / 0.25, self.labels[row]


def compare(name: str, archive: Path, side: int, folder: Path) -> None:
    with zipfile.ZipFile(archive) as source:
        source.extractall(folder)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    order = np.random.default_rng(0).permutation(len(paths))
    paths = [paths[k] for k in order]
    names = sorted({path.parent.name for path in paths})
    labels = [names.index(path.parent.name) for path in paths]
    held_out = len(paths) // 5
    spec = resolve(
        TrainSpec.model_validate(
            {
                "network": "classic",
                "image_size": side,
                "epochs": EPOCHS,
                "batch_size": BATCH,
                "augment": None,
                "schedule": {"name": "constant"},
            }
        ),
        DatasetFacts(len(paths) - held_out, len(names), side, grey=False),
    )
    ours, accuracy = _ours(paths, labels, len(names), held_out, side, spec)
    plain, plain_accuracy = _plain(paths, labels, len(names), held_out, side, spec)
    print(
        f"{name}, classic at {side} px, {len(paths) - held_out} pictures, {EPOCHS} epochs: ours {ours:.0f} images/s "
        f"(accuracy {accuracy:.3f}), plain {plain:.0f} (accuracy {plain_accuracy:.3f}), ratio {ours / plain:.2f}"
    )


def _ours(
    paths: list[Path], labels: list[int], classes: int, held_out: int, side: int, spec: dict
) -> tuple[float, float]:
    packed = np.stack([images.decode(path.read_bytes(), side, max_pixels=10**8).pixels for path in paths])
    rows, numbers = np.arange(len(paths)), np.array(labels)
    seed_globally(0, "init")
    plan = precision.choose(build(spec["network"], side, classes), side, BATCH, "auto", "cpu")
    state = start(spec, classes, 0, "cpu", plan)
    run = Run(
        Split.of(packed, rows[held_out:], numbers[held_out:], "cpu"),
        Split.of(packed, rows[:held_out], numbers[:held_out], "cpu"),
        spec,
        plan,
        0,
    )
    results = [one for one in train(state, run) if isinstance(one, EpochResult)]
    seen = len(results) * run.batches * run.batch_size
    return seen / sum(run.batches * run.batch_size / one.images_per_second for one in results), results[-1].metrics[
        "val/accuracy"
    ]


def _plain(
    paths: list[Path], labels: list[int], classes: int, held_out: int, side: int, spec: dict
) -> tuple[float, float]:
    seed_globally(0, "init")
    network = build(spec["network"], side, classes)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loader = DataLoader(Files(paths[held_out:], labels[held_out:], side), BATCH, shuffle=True, drop_last=True)
    seen, started = 0, time.perf_counter()
    for _ in range(EPOCHS):
        network.train()
        for batch, truth in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(batch), truth).backward()
            optimizer.step()
            seen += len(truth)
    speed = seen / (time.perf_counter() - started)
    network.eval()
    correct = 0
    with torch.inference_mode():
        for batch, truth in DataLoader(Files(paths[:held_out], labels[:held_out], side), BATCH):
            correct += int((network(batch).argmax(1) == truth).sum())
    return speed, correct / held_out


def main() -> None:
    prepare("cpu", psutil.cpu_count(logical=False) or 1)
    if len(sys.argv) > 2:
        archive, side = Path(sys.argv[1]), int(sys.argv[2])
        with tempfile.TemporaryDirectory() as folder:
            compare(archive.stem, archive, side, Path(folder))
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, count, side, source, kind in (("small", 3000, 32, 32, "png"), ("photos", 600, 64, 480, "jpeg")):
            archive = Path(folder) / f"{name}.zip"
            write_zip(archive, count, source, CLASSES, kind)
            compare(name, archive, side, Path(folder) / name)


if __name__ == "__main__":
    main()
