"""How well are pictures of another kind told from a test split? AUROC of Fovea's strangeness and of other scores that
need no second forward pass, on real sets: `python -m benchmarks.out_of_distribution FOLDER` with zips of pictures.

Each network is trained on one set (70/15/15) and meets up to 500 pictures of each other set. Also the share of the
test split and of the strangers that `decision` answers with abstain at a stated false alarm of 5 %, and what prediction
sets cover.
"""

import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch

from service import images
from service.auto import DatasetFacts, resolve
from service.inference import conformal
from service.inference.score import probabilities
from service.spec import TrainSpec
from workers.training import evaluate, export, strangeness, trust
from workers.training.data import Split
from workers.training.loop import EpochResult, Run, train
from workers.training.optim import head_of
from workers.training.state import network_of, prepare, start

RUNS = (
    ("sign_digits", "classic", 64, 12),
    ("fashion_small_train", "classic", 32, 12),
    ("trashnet_small", "classic", 64, 20),
    ("grocery_veg_small", "classic", 64, 20),
    ("blood_cells_small_train", "classic", 64, 12),
    ("mnist_small_train", "classic", 32, 12),
    ("omniglot_alphabets5", "classic", 64, 12),
    ("fashion_small_train", "resnet18", 32, 6),
)
STRANGERS = (
    "sign_digits",
    "fashion_small_test",
    "mnist_small_test",
    "trashnet_small",
    "grocery_veg_small",
    "blood_cells_small_test",
    "omniglot_alphabets5",
)
MOST = 500
Floats = np.ndarray


def read(folder: Path, name: str, side: int, most: int | None = None) -> tuple[Floats, list[str]]:
    """(N, S, S, 3) uint8 in an order drawn with seed 0, and the labels."""
    with zipfile.ZipFile(folder / f"{name}.zip") as archive:
        names = sorted(n for n in archive.namelist() if n.lower().endswith((".png", ".jpg", ".jpeg")))
        names = [names[k] for k in np.random.default_rng(0).permutation(len(names))[:most]]
        pixels = np.stack([images.decode(archive.read(n), side, max_pixels=10**8).pixels for n in names])
    return pixels, [n.split("/")[-2] for n in names]


class Trial:
    """One network, trained; what it reads and answers for any pictures."""

    def __init__(self, folder: Path, name: str, network: str, side: int, epochs: int) -> None:
        self.packed, labels = read(folder, name, side)
        self.classes = sorted(set(labels))
        self.labels = np.array([self.classes.index(label) for label in labels])
        count = len(labels)
        train_rows, val_rows, self.test = np.split(np.arange(count), [int(0.7 * count), int(0.85 * count)])
        wanted = {"network": network, "image_size": side, "epochs": epochs, "batch_size": 64}
        grey = bool((self.packed[..., 0] == self.packed[..., 1]).all())
        facts = DatasetFacts(len(train_rows), len(self.classes), side, grey)
        spec, plan = resolve(TrainSpec.model_validate(wanted), facts), {"precision": "fp32", "channels_last": True}
        state = start(spec, len(self.classes), 0, "cpu", plan)
        splits = [Split.of(self.packed, rows, self.labels[rows], "cpu") for rows in (train_rows, val_rows)]
        best = state.to_bytes()
        for result in train(state, Run(splits[0], splits[1], spec, plan, 0)):
            if isinstance(result, EpochResult) and result.is_best:
                best = state.to_bytes()
        state.network.load_state_dict(network_of(best))
        network_ = state.network.to(memory_format=torch.contiguous_format).eval()
        self.served = export.fitted(export.Classifier(network_), self.packed, train_rows, self.labels)
        self.held_out = self.answers(val_rows)
        self.temperature = evaluate.temperature(self.held_out.logits, self.held_out.labels)
        self.trained_on, _, _ = self.ask(self.packed[train_rows])

    def ask(self, pixels: Floats) -> tuple[Floats, Floats, Floats]:
        """(N, D) features, (N, K) logits, (N,) strangeness."""
        found = []
        for begin in range(0, len(pixels), 128):
            batch = torch.from_numpy(pixels[begin : begin + 128]).permute(0, 3, 1, 2).contiguous()
            with torch.inference_mode():
                answer = self.served(batch)
                layer = head_of(self.served.classifier)
                read_ = export.watched(self.served.classifier, batch, layer, None)[1]
            found.append((strangeness.features(read_), answer["logits"], answer["strangeness"]))
        parts = [torch.cat(column).numpy() for column in zip(*found, strict=True)]
        return parts[0], parts[1], parts[2]

    def answers(self, rows: Floats) -> trust.Answers:
        _, logits, strange = self.ask(self.packed[rows])
        return trust.Answers(logits, strange, self.labels[rows])

    def scores(self) -> dict[str, Callable[[Floats, Floats, Floats], Floats]]:
        """Each: (features, logits, strangeness) -> (N,), larger for strangers."""
        return {
            "Mahalanobis, unit length": lambda _f, _l, s: s,
            "10th nearest neighbour": lambda f, _l, _s: -np.sort(f @ self.trained_on.T, axis=1)[:, -10],
            "energy": lambda _f, x, _s: -torch.from_numpy(x).logsumexp(1).numpy(),
            "first probability": lambda _f, x, _s: -probabilities(x, self.temperature).max(1),
        }


def report(folder: Path, name: str, network: str, side: int, epochs: int) -> None:
    began = time.perf_counter()
    trial = Trial(folder, name, network, side, epochs)
    inside = trial.ask(trial.packed[trial.test])
    kept = trust.strangeness_kept(trial.held_out)
    accuracy = float((inside[1].argmax(1) == trial.labels[trial.test]).mean())
    print(f"## {name}, {network} at {side} px, {epochs} epochs: accuracy {accuracy:.3f} (n = {len(trial.test)})")
    others = [other for other in STRANGERS if other.split("_")[0] != name.split("_")[0]]
    met = {other: trial.ask(read(folder, other, side, MOST)[0]) for other in others}
    print("| score | " + " | ".join(others) + " |\n|---|" + "---|" * len(others))
    for label, score in trial.scores().items():
        row = [trust.auroc(score(*inside), score(*seen))["value"] for seen in met.values()]
        print(f"| {label} | " + " | ".join(f"{value:.3f}" for value in row) + " |")

    def abstained(strange: Floats) -> str:
        return f"{(conformal.p_values(kept, strange.astype(np.float64)) <= 0.05).mean():.3f}"

    print("| abstain at 5 % | " + " | ".join(abstained(seen[2]) for seen in met.values()) + " |")
    sets = trust.sets_kept(trial.held_out, trial.temperature)
    for row in trust.sets_report(sets, trial.answers(trial.test), trial.temperature):
        seen = row["empirical"]
        interval = f"{seen['value']:.3f} ({seen['low']:.3f} to {seen['high']:.3f})"
        chance = f"chance allows {row['expected']['low']:.3f} to {row['expected']['high']:.3f}"
        print(f"sets of coverage {row['coverage']}: {interval}, mean size {row['mean_size']:.2f}; {chance}")
    print(f"test split: abstain at 5 %: {abstained(inside[2])}; {time.perf_counter() - began:.0f} s\n", flush=True)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.out_of_distribution FOLDER")
    prepare("cpu", psutil.cpu_count(logical=False) or 1)
    for run in RUNS:
        report(Path(sys.argv[1]), *run)


if __name__ == "__main__":
    main()
