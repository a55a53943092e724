"""Training is a generator: it yields progress, and the caller records it or stops by not asking for more.

No callbacks, no database. Between two yields the state is that of a step boundary, and resuming from it is exact.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.func import functional_call

from service.errors import InvalidValue
from service.networks import side_while_growing, work_while_growing
from workers.training import multilabel
from workers.training.augment import augment, draws, mix, normalise
from workers.training.course import planned
from workers.training.data import Split, epoch_order
from workers.training.losses import loss_of, plain, right
from workers.training.optim import head_of, learning_rate
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


class Diverged(InvalidValue):
    """The loss is no longer a number."""

    def __init__(self, step: int) -> None:
        super().__init__(
            "diverged",
            f"the loss is no longer a number at step {step}",
            hint="lower optimizer.lr, or set precision to fp32",
            param="/spec/optimizer/lr",
        )


class Run:
    """What stays the same over all epochs of a run."""

    def __init__(
        self,
        train: Split,
        val: Split,
        spec: dict[str, Any],
        plan: dict[str, Any],
        seed: int,
        goal: dict[str, Any] | None = None,
    ) -> None:
        self.train, self.val, self.spec, self.seed = train, val, spec, seed
        self.device = train.device
        self.batch_size = min(spec["batch_size"], len(train))
        self.batches = len(train) // self.batch_size  # the incomplete last one is left out
        self.steps = self.batches * spec["epochs"]
        self.plan = plan
        self.goal = goal
        self.score = "val/mean_average_precision" if train.labels.ndim == 2 else "val/accuracy"
        self.until: int | None = plan.get("until")  # a reproduction of a stopped run ends where that one did
        self.revisions = dict(plan.get("replay", ()))  # of the steps in all, by step
        self.precision: str = plan["precision"]
        self.layout = torch.channels_last if plan["channels_last"] else torch.contiguous_format
        self.loss = loss_of(spec["loss"], train.labels)

    def autocast(self) -> torch.autocast:
        kind = self.device.partition(":")[0]
        return torch.autocast(kind, DTYPES.get(self.precision), enabled=self.precision != "fp32")

    def learning_rate(self, step: int, total: int) -> float:
        peak = self.spec["optimizer"]["lr"] * planned(self.plan, "rate_scale", 1.0, step)
        return learning_rate(self.spec["schedule"], peak, step, total)

    def parts(self, step: int) -> int:
        """In how many a batch is taken."""
        parts: int = max(self.spec["optimizer"]["accumulate"], planned(self.plan, "parts", 1, step))
        return parts

    def side(self, done: float) -> int | None:
        """Side in pixels of the training pictures when this share of the steps is done; None for their full size."""
        growth = self.spec["progressive"]
        if growth is None or done >= growth["until"]:
            return None
        return side_while_growing(growth, self.spec["image_size"], self.spec["network"], done)

    def work(self, begin: int, end: int, total: int) -> float:
        """Mean work of the steps from `begin` to `end` of `total`, as a share of a step with whole pictures."""
        growth = self.spec["progressive"]
        if growth is None:
            return 1.0
        shares = begin / total, end / total
        return work_while_growing(growth, self.spec["image_size"], self.spec["network"], *shares)


def train(state: TrainState, run: Run) -> Iterator[StepProgress]:
    """Goes on from `state` to the end, yielding an EpochResult per epoch and a StepProgress every quarter second.

    The caller may change `state.counters.total` between two steps: the schedule is then compressed or stretched to it.
    Raises Diverged.
    """
    counters = state.counters
    counters.total = counters.total or run.steps
    while counters.step < counters.total and not counters.ended:
        yield from _epoch(state, run)


def _epoch(state: TrainState, run: Run) -> Iterator[StepProgress]:
    """One pass over the training pictures, or what is left of it; the last of a run may be a part."""
    counters = state.counters
    epoch, first = divmod(counters.step, run.batches)
    order = epoch_order(run.seed, epoch, len(run.train))
    luck = draws(run.seed, epoch, len(run.train), alternating=_alternating(run))
    state.network.train()
    _freeze(state, run, epoch)
    sums = [counters.epoch_loss, float(counters.epoch_correct)]
    totals = torch.tensor(sums, dtype=torch.float64, device=run.device)  # read only when yielding
    seen, started = 0, time.monotonic()
    since, batch = started, first
    left = torch.split(order[first * run.batch_size : run.batches * run.batch_size], run.batch_size)
    for chosen, images in zip(left, run.train.batches(left), strict=True):
        totals += _step(state, run, images, chosen, luck)
        counters.step += 1
        if counters.step in run.revisions:
            state.revise(run.revisions[counters.step])
        batch += 1
        seen += len(chosen)
        if counters.step >= counters.total:
            break
        due = time.monotonic() - since >= YIELD_SECONDS or counters.step == run.until
        if due and batch < run.batches:
            _settle(state, totals)
            yield _progress(state, run, epoch + 1, seen / (time.monotonic() - started))
            since = time.monotonic()
    _settle(state, totals)
    yield _finish_epoch(state, run, epoch + 1, batch, seen / max(time.monotonic() - started, 1e-9))


def _freeze(state: TrainState, run: Run, epoch: int) -> None:
    """In the first epochs of a transfer only the class layer learns."""
    if run.spec["transfer"] is None:
        return
    head = set(head_of(state.network).parameters())
    for parameter in state.learned:
        parameter.requires_grad_(epoch >= run.spec["transfer"]["head_epochs"] or parameter in head)


def _alternating(run: Run) -> bool:
    return bool(run.spec["augment"]) and run.spec["augment"]["horizontal_flip"] == "alternating"


def _progress(state: TrainState, run: Run, epoch: int, speed: float) -> StepProgress:
    counters = state.counters
    return StepProgress(epoch, -(-counters.total // run.batches), counters.step, counters.total, speed)


def _step(state: TrainState, run: Run, images: torch.Tensor, chosen: torch.Tensor, luck: torch.Tensor) -> torch.Tensor:
    """One optimiser step with the uint8 images of the chosen rows.

    (2,) sum of the loss and number of right answers over the batch, on the device.
    """
    counters, recipe = state.counters, run.spec["augment"]
    labels = run.train.labels[chosen.to(run.device)]
    images = augment(images, luck[chosen], recipe)
    images, partners, share = mix(images, recipe, run.seed, counters.step)
    if (side := run.side(counters.step / counters.total)) is not None:
        images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    seed_globally(run.seed, "dropout", counters.step)
    state.clear_gradients()
    told = torch.zeros(2, dtype=torch.float64, device=run.device)
    for rows in torch.arange(len(chosen), device=run.device).tensor_split(run.parts(counters.step)):
        told += _backward(state, run, images, labels, rows, partners, share)
    _descend(state, run)
    return told


def _backward(
    state: TrainState,
    run: Run,
    images: torch.Tensor,
    labels: torch.Tensor,
    rows: torch.Tensor,
    partners: torch.Tensor | None,
    share: float,
) -> torch.Tensor:
    """Adds the gradients of a part of the batch; (2,) sum of its loss and number of its right answers."""
    taken = images if len(rows) == len(images) else images[rows]
    with run.autocast():
        logits = state.forward(taken.contiguous(memory_format=run.layout))
    loss = run.loss(logits, labels[rows])
    if partners is not None:
        loss = share * loss + (1 - share) * run.loss(logits, labels[partners[rows]])
    state.scaler.scale(loss * (len(rows) / len(images))).backward()  # type: ignore[no-untyped-call]
    correct = right(logits.detach(), labels[rows]).sum()
    return torch.stack((loss.detach().double() * len(rows), correct.double()))


def _descend(state: TrainState, run: Run) -> None:
    rate = run.learning_rate(state.counters.step, state.counters.total)
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    if (longest := run.spec["optimizer"]["clip_norm"]) is not None:
        state.scaler.unscale_(state.optimizer)
        torch.nn.utils.clip_grad_norm_(state.network.parameters(), longest)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if run.spec["ema"]:
        state.follow(run.spec["ema"]["decay"])


def _settle(state: TrainState, totals: torch.Tensor) -> None:
    """Writes what the device has summed up over the epoch into the counters, and looks whether it is still a number."""
    loss, correct = totals.tolist()
    if not np.isfinite(loss):
        raise Diverged(state.counters.step)
    state.counters.epoch_loss, state.counters.epoch_correct = loss, round(correct)


def _finish_epoch(state: TrainState, run: Run, epoch: int, batches: int, speed: float) -> EpochResult:
    counters = state.counters
    metrics = {
        "train/loss": counters.epoch_loss / (batches * run.batch_size),
        "train/accuracy": counters.epoch_correct / (batches * run.batch_size),
        "lr": run.learning_rate(counters.step - 1, counters.total),
        "images_per_second": speed,
    }
    counters.epoch_loss, counters.epoch_correct = 0.0, 0
    if len(run.val):
        metrics |= validate(state, run)
    is_best = _judge(state, run, epoch, metrics)
    told = _progress(state, run, epoch, speed)
    return EpochResult(**asdict(told), metrics=metrics, is_best=is_best, ended_early=bool(counters.ended))


def validate(state: TrainState, run: Run) -> dict[str, float]:
    """Mean loss and accuracy on the validation split, of the averaged weights where there are any.

    With several labels a picture is right when all are, and the mean average precision says more.
    """
    state.network.eval()
    weights = state.average if state.average is not None else dict(state.network.state_dict())
    answers = []
    with torch.inference_mode(), run.autocast():
        for start in range(0, len(run.val), 256):
            chosen = torch.arange(start, min(start + 256, len(run.val)))
            images = normalise(run.val.images(chosen)).contiguous(memory_format=run.layout)
            answers.append(functional_call(state.network, weights, (images,)).float())
    logits, labels = torch.cat(answers), run.val.labels
    metrics = {
        "val/loss": plain(logits, labels).item() / len(labels),
        "val/accuracy": int(right(logits, labels).sum()) / len(labels),
    }
    if labels.ndim == 2:
        found = multilabel.mean_average_precision(logits.cpu().numpy(), labels.cpu().numpy())
        metrics["val/mean_average_precision"] = found
    return metrics


def _judge(state: TrainState, run: Run, epoch: int, metrics: dict[str, float]) -> bool:
    """Is this epoch the best so far (what validation scores, then loss)? Without validation the latest always is."""
    counters = state.counters
    loss, score = metrics.get("val/loss", 0.0), metrics.get(run.score, 0.0)
    if "val/loss" not in metrics:
        counters.best_epoch = epoch
        return True
    if loss < counters.lowest_loss:
        counters.lowest_loss, counters.epochs_since_lowest = loss, 0
    else:
        counters.epochs_since_lowest += 1
    stopping = run.spec["early_stopping"]
    if stopping is not None and counters.epochs_since_lowest >= stopping["patience"]:
        counters.ended = "early_stopped"
    if run.goal is not None and metrics[f"val/{run.goal['metric']}"] >= run.goal["at_least"]:
        counters.ended = "goal_reached"
    if (score, -loss) <= (counters.best_score, -counters.best_loss):
        return False
    counters.best_epoch, counters.best_score, counters.best_loss = epoch, score, loss
    return True
