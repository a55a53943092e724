"""Training is a generator: it yields progress, and the caller records it or stops by not asking for more.

No callbacks, no database. Between two yields the state is that of a step boundary, and resuming from it is exact.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from service.errors import InvalidValue
from workers.training.augment import augment, draws, normalise
from workers.training.data import Split, epoch_order
from workers.training.optim import learning_rate
from workers.training.precision import DTYPES
from workers.training.randomness import seed_globally
from workers.training.state import TrainState

YIELD_SECONDS = 0.25


@dataclass(frozen=True)
class StepProgress:
    """A step boundary within an epoch. Epochs count from 1, steps over the whole run."""

    epoch: int
    epochs: int
    step: int
    steps: int
    images_per_second: float


@dataclass(frozen=True)
class EpochResult(StepProgress):
    metrics: dict[str, float]
    is_best: bool
    ended_early: bool


class Run:
    """What stays the same over all epochs of a run."""

    def __init__(self, train: Split, val: Split, spec: dict[str, Any], plan: dict[str, Any], seed: int) -> None:
        self.train, self.val, self.spec, self.seed = train, val, spec, seed
        self.device = train.device
        self.batch_size = min(spec["batch_size"], len(train))
        self.batches = len(train) // self.batch_size  # the incomplete last one is left out
        self.steps = self.batches * spec["epochs"]
        self.precision: str = plan["precision"]
        self.layout = torch.channels_last if plan["channels_last"] else torch.contiguous_format
        self.weights = _class_weights(spec["loss"]["class_weights"], train.labels)

    def autocast(self) -> torch.autocast:
        kind = self.device.partition(":")[0]
        return torch.autocast(kind, DTYPES.get(self.precision), enabled=self.precision != "fp32")

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        smoothing = self.spec["loss"]["label_smoothing"]
        return F.cross_entropy(logits.float(), labels, self.weights, label_smoothing=smoothing)


def train(state: TrainState, run: Run) -> Iterator[StepProgress]:
    """Goes on from `state` to the end, yielding an EpochResult per epoch and a StepProgress every quarter second.

    Raises InvalidValue (code `diverged`) when the loss is no longer a number.
    """
    while state.counters.step < run.steps and not state.counters.ended_early:
        yield from _epoch(state, run)


def _epoch(state: TrainState, run: Run) -> Iterator[StepProgress]:
    counters = state.counters
    epoch, first = divmod(counters.step, run.batches)
    order = epoch_order(run.seed, epoch, len(run.train))
    luck = draws(run.seed, epoch, len(run.train))
    state.network.train()
    sums = [counters.epoch_loss, float(counters.epoch_correct)]
    totals = torch.tensor(sums, dtype=torch.float64, device=run.device)  # read only when yielding
    seen, started = 0, time.monotonic()
    since = started
    for batch in range(first, run.batches):
        chosen = order[batch * run.batch_size : (batch + 1) * run.batch_size]
        totals += _step(state, run, chosen, luck)
        counters.step += 1
        seen += len(chosen)
        if time.monotonic() - since >= YIELD_SECONDS and batch + 1 < run.batches:
            _settle(state, totals)
            speed = seen / (time.monotonic() - started)
            yield StepProgress(epoch + 1, run.spec["epochs"], counters.step, run.steps, speed)
            since = time.monotonic()
    _settle(state, totals)
    yield _finish_epoch(state, run, epoch + 1, seen / max(time.monotonic() - started, 1e-9))


def _step(state: TrainState, run: Run, chosen: torch.Tensor, luck: torch.Tensor) -> torch.Tensor:
    """One optimiser step; (2,) sum of the loss and number of right answers over the batch, on the device."""
    labels = run.train.labels[chosen.to(run.device)]
    images = augment(run.train.images(chosen), luck[chosen], run.spec["augment"]).contiguous(memory_format=run.layout)
    rate = learning_rate(run.spec["schedule"], run.spec["optimizer"]["lr"], state.counters.step, run.steps)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    seed_globally(run.seed, "dropout", state.counters.step)
    state.optimizer.zero_grad(set_to_none=True)
    with run.autocast():
        logits = state.network(images)
    loss = run.loss(logits, labels)
    state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    state.scaler.step(state.optimizer)
    state.scaler.update()
    correct = (logits.detach().argmax(1) == labels).sum()
    return torch.stack((loss.detach().double() * len(chosen), correct.double()))


def _settle(state: TrainState, totals: torch.Tensor) -> None:
    """Writes what the device has summed up over the epoch into the counters, and looks whether it is still a number."""
    loss, correct = totals.tolist()
    if not np.isfinite(loss):
        raise InvalidValue(
            "diverged",
            f"the loss is no longer a number at step {state.counters.step}",
            hint="lower optimizer.lr, or set precision to fp32",
            param="/spec/optimizer/lr",
        )
    state.counters.epoch_loss, state.counters.epoch_correct = loss, round(correct)


def _finish_epoch(state: TrainState, run: Run, epoch: int, speed: float) -> EpochResult:
    counters = state.counters
    metrics = {
        "train/loss": counters.epoch_loss / (run.batches * run.batch_size),
        "train/accuracy": counters.epoch_correct / (run.batches * run.batch_size),
        "lr": learning_rate(run.spec["schedule"], run.spec["optimizer"]["lr"], counters.step - 1, run.steps),
        "images_per_second": speed,
    }
    counters.epoch_loss, counters.epoch_correct = 0.0, 0
    if len(run.val):
        metrics["val/loss"], metrics["val/accuracy"] = validate(state, run)
    is_best = _judge(state, run, epoch, metrics)
    return EpochResult(
        epoch, run.spec["epochs"], counters.step, run.steps, speed, metrics, is_best, counters.ended_early
    )


def validate(state: TrainState, run: Run) -> tuple[float, float]:
    """Mean cross-entropy and accuracy on the validation split."""
    state.network.eval()
    loss, correct = 0.0, 0
    with torch.inference_mode(), run.autocast():
        for start in range(0, len(run.val), 256):
            chosen = torch.arange(start, min(start + 256, len(run.val)))
            images = normalise(run.val.images(chosen)).contiguous(memory_format=run.layout)
            logits, labels = state.network(images).float(), run.val.labels[chosen.to(run.device)]
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            correct += int((logits.argmax(1) == labels).sum())
    return loss / len(run.val), correct / len(run.val)


def _judge(state: TrainState, run: Run, epoch: int, metrics: dict[str, float]) -> bool:
    """Is this epoch the best so far (validation accuracy, then loss)? Without validation the latest always is."""
    counters = state.counters
    loss, accuracy = metrics.get("val/loss", 0.0), metrics.get("val/accuracy", 0.0)
    if "val/loss" not in metrics:
        counters.best_epoch = epoch
        return True
    if loss < counters.lowest_loss:
        counters.lowest_loss, counters.epochs_since_lowest = loss, 0
    else:
        counters.epochs_since_lowest += 1
    stopping = run.spec["early_stopping"]
    counters.ended_early = stopping is not None and counters.epochs_since_lowest >= stopping["patience"]
    if (accuracy, -loss) <= (counters.best_accuracy, -counters.best_loss):
        return False
    counters.best_epoch, counters.best_accuracy, counters.best_loss = epoch, accuracy, loss
    return True


def _class_weights(wanted: Any, labels: torch.Tensor) -> torch.Tensor | None:
    if wanted is None:
        return None
    if wanted == "balanced":
        counts = torch.bincount(labels).clamp_min(1).float()
        return counts.sum() / (len(counts) * counts)
    return torch.tensor(wanted, dtype=torch.float32, device=labels.device)
