"""Training is a generator: it yields progress, and the caller records it or stops by not asking for more.

No callbacks, no database. Between two yields the state is that of a step boundary, and resuming from it is exact.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.func import functional_call

from service.errors import InvalidValue
from service.networks import side_while_growing, work_while_growing
from workers.training import multilabel
from workers.training.augment import augment, blends, draws, mix, normalise
from workers.training.course import planned
from workers.training.data import Split, epoch_order
from workers.training.launching import Launcher, Lead, card, mark
from workers.training.losses import loss_of, plain, right
from workers.training.optim import head_of, learning_rate
from workers.training.precision import DTYPES
from workers.training.randomness import seed_globally
from workers.training.state import TrainState

YIELD_SECONDS = 0.25
VALIDATION_BATCH = 256


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


@dataclass(frozen=True)
class How:
    """What a step does that is not in its numbers."""

    side: int | None  # in pixels, of the pictures while they grow
    parts: int  # in which the batch is taken
    head_only: bool  # what went before the class layer is frozen


Learn = Callable[..., torch.Tensor]


def train(state: TrainState, run: Run) -> Iterator[StepProgress]:
    """Goes on from `state` to the end, yielding an EpochResult per epoch and a StepProgress every quarter second.

    The caller may change `state.counters.total` between two steps: the schedule is then compressed or stretched to it.
    Raises Diverged.
    """
    counters = state.counters
    counters.total = counters.total or run.steps
    learn: Learn = partial(_learn, state, run)
    if run.device != "cpu" and not state.scaler.is_enabled():  # how a scaler goes on is decided on the processor
        learn = Launcher(learn, card())
    lead = Lead(mark) if run.device != "cpu" else None
    while counters.step < counters.total and not counters.ended:
        yield from _epoch(state, run, learn, lead)


def _epoch(state: TrainState, run: Run, learn: Learn, lead: Lead | None) -> Iterator[StepProgress]:
    """One pass over the training pictures, or what is left of it; the last of a run may be a part."""
    counters = state.counters
    epoch, first = divmod(counters.step, run.batches)
    order = epoch_order(run.seed, epoch, len(run.train))[first * run.batch_size : run.batches * run.batch_size]
    luck = draws(run.seed, epoch, len(run.train), alternating=_alternating(run))[order]
    steps = range(counters.step, counters.step + run.batches - first)
    mixing = blends(run.spec["augment"], run.seed, steps, run.spec["image_size"])
    given = zip(
        run.train.batches(order, run.batch_size),
        torch.split(luck.to(run.device), run.batch_size),
        torch.split(run.train.labels[order.to(run.device)], run.batch_size),
        mixing.to(run.device),
        strict=True,
    )
    state.network.train()
    head_only = _freeze(state, run, epoch)
    sums = [counters.epoch_loss, float(counters.epoch_correct)]
    totals = torch.tensor(sums, dtype=torch.float64, device=run.device)  # read only when yielding
    seen, started = 0, time.monotonic()
    since, batch = started, first
    for numbers in given:
        how = How(run.side(counters.step / counters.total), run.parts(counters.step), head_only)
        totals += _step(state, run, learn, how, numbers)
        if lead is not None:
            lead.keep()
        if counters.step in run.revisions:
            state.revise(run.revisions[counters.step])
        batch += 1
        seen += run.batch_size
        if counters.step >= counters.total:
            break
        due = time.monotonic() - since >= YIELD_SECONDS or counters.step == run.until
        if due and batch < run.batches:
            _settle(state, totals)
            yield _progress(state, run, epoch + 1, seen / (time.monotonic() - started))
            since = time.monotonic()
    _settle(state, totals)
    yield _finish_epoch(state, run, epoch + 1, batch, seen / max(time.monotonic() - started, 1e-9))


def _freeze(state: TrainState, run: Run, epoch: int) -> bool:
    """In the first epochs of a transfer only the class layer learns: is this one of them?"""
    if run.spec["transfer"] is None:
        return False
    head, head_only = set(head_of(state.network).parameters()), epoch < run.spec["transfer"]["head_epochs"]
    for parameter in state.learned:
        parameter.requires_grad_(not head_only or parameter in head)
    return bool(head_only)


def _alternating(run: Run) -> bool:
    return bool(run.spec["augment"]) and run.spec["augment"]["horizontal_flip"] == "alternating"


def _progress(state: TrainState, run: Run, epoch: int, speed: float) -> StepProgress:
    counters = state.counters
    return StepProgress(epoch, -(-counters.total // run.batches), counters.step, counters.total, speed)


def _step(state: TrainState, run: Run, learn: Learn, how: How, numbers: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """One optimiser step: (2,) sum of the loss and number of right answers over the batch, on the device."""
    counters = state.counters
    rate = run.learning_rate(counters.step, counters.total)
    seed_globally(run.seed, "dropout", counters.step)
    told = learn(how, *numbers, rate if run.device == "cpu" else torch.full((), rate, device=run.device))
    if run.spec["ema"]:
        state.follow(run.spec["ema"]["decay"])
    counters.step += 1
    return told


def _learn(
    state: TrainState,
    run: Run,
    how: How,
    images: torch.Tensor,
    luck: torch.Tensor,
    labels: torch.Tensor,
    blend: torch.Tensor,
    rate: torch.Tensor | float,
) -> torch.Tensor:
    """All of a step that a device does, from (B, 3, S, S) uint8 images to new weights; nothing here may wait for it.

    `luck` and `blend` are those of `augment` and `mix`. (2,) as of `_step`.
    """
    changed = mix(augment(images, luck, run.spec["augment"]), blend)
    if how.side is not None:
        changed = F.interpolate(changed, (how.side, how.side), mode="bilinear", antialias=True)
    changed = changed.contiguous(memory_format=run.layout)
    state.clear_gradients()
    told = torch.zeros(2, dtype=torch.float64, device=run.device)
    others = labels.roll(1, 0)  # of the pictures that were mixed in
    parts = (torch.tensor_split(whole, how.parts) for whole in (changed, labels, others))
    for some, own, mixed_in in zip(*parts, strict=True):
        told += _backward(state, run, some, own, mixed_in, blend[6:], len(some) / len(changed))
    _descend(state, run, rate)
    return told


def _backward(
    state: TrainState,
    run: Run,
    images: torch.Tensor,
    labels: torch.Tensor,
    others: torch.Tensor,
    share: torch.Tensor,
    of_batch: float,
) -> torch.Tensor:
    """Adds the gradients of a part of the batch; (2,) sum of its loss and number of its right answers.

    `share` (1,) is that of the labels beside the `others`, or (0,) where nothing was mixed.
    """
    with run.autocast():
        logits = state.forward(images)
    loss = run.loss(logits, labels)
    if len(share):
        loss = (share * loss + (1 - share) * run.loss(logits, others)).squeeze()
    state.scaler.scale(loss * of_batch).backward()  # type: ignore[no-untyped-call]
    correct = right(logits.detach(), labels).sum()
    return torch.stack((loss.detach().double() * len(images), correct.double()))


def _descend(state: TrainState, run: Run, rate: torch.Tensor | float) -> None:
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    if (longest := run.spec["optimizer"]["clip_norm"]) is not None:
        state.scaler.unscale_(state.optimizer)
        torch.nn.utils.clip_grad_norm_(state.network.parameters(), longest)
    state.scaler.step(state.optimizer)
    state.scaler.update()


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
    at_once = run.batch_size // run.parts(state.counters.step)  # which fits
    size = VALIDATION_BATCH if run.device == "cpu" else max(VALIDATION_BATCH, at_once)
    with torch.inference_mode(), run.autocast():
        for taken in run.val.batches(torch.arange(len(run.val)), size):
            images = normalise(taken).contiguous(memory_format=run.layout)
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
