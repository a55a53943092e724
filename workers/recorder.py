"""Writes down what a training yields: progress every second, checkpoints when they are due; tells it when to end.

Checkpoints are written at epoch ends and, within long epochs, every `checkpoint_seconds`. Where epochs are so short
that writing would cost more than WRITE_SHARE of the time, several epochs share one, at the latest after
`checkpoint_seconds`. Their metrics are shown meanwhile; an attempt that begins before them forgets them first.
"""

import logging
import math
import time
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from service import artifacts, jobs
from service.db.tables import Metric
from service.ending import Ending
from service.ids import now
from workers.context import Context, Interrupted
from workers.speed import WRITE_SHARE, Speed
from workers.training.budget import total_steps
from workers.training.loop import Diverged, EpochResult, Run, StepProgress, train
from workers.training.state import TrainState

log = logging.getLogger("fovea.job")

PROGRESS_SECONDS = 1.0
PARAMETER_BYTES = 12  # in a checkpoint: weight and two moments
WRITTEN_EACH_SECOND = 50e6  # bytes, until a checkpoint was written


class Observer:
    """What else wants to know of a training, and may end it: nothing here, a search for its trials."""

    def ends(self, result: EpochResult) -> str | None:
        """A reason to end the training with this epoch; it is kept with the checkpoint, so a resumed one ends too."""

    def told(self, session: Session, progress: StepProgress) -> None:
        """Called in each transaction that writes progress."""


@dataclass(frozen=True)
class Timing:
    """What a training took, in seconds."""

    start: float  # from the beginning of the attempt to the first step
    training: float  # from there to the end of the last
    steps: int


@dataclass
class Recorder:
    context: Context
    state: TrainState
    run: Run
    began: float  # time.monotonic() when this attempt began
    ending: Ending  # what is to follow the last step
    budget_seconds: float | None = None  # for the whole job
    observer: Observer = field(default_factory=Observer)
    pending: list[EpochResult] = field(default_factory=list)  # epochs whose metrics are not written yet
    best_pending: bytes | None = None  # the best of them, when it is no longer the state
    started: float = field(default_factory=time.monotonic)
    trained: float = 0.0  # seconds from there to the end of the last step
    written_at: float = field(default_factory=time.monotonic)
    told_at: float = field(default_factory=time.monotonic)
    writing_seconds: float = 0.0
    last_seconds: float = 0.0  # that the last checkpoint took, or the first is thought to take

    def __post_init__(self) -> None:
        self._first_step = self.state.counters.step
        self._used_before = self.state.counters.seconds
        self._speed = Speed(self.run)
        if self.budget_seconds is not None:  # which a first checkpoint must not break
            parameters = sum(parameter.numel() for parameter in self.state.learned)
            self.last_seconds = PARAMETER_BYTES * parameters / WRITTEN_EACH_SECOND

    @property
    def timing(self) -> Timing:
        """Of a training that has ended."""
        return Timing(self.started - self.began, self.trained, self.state.counters.step - self._first_step)

    def follow(self) -> str:
        """Trains until the end or until asked to stop; the reason. Raises Interrupted."""
        for progress in train(self.state, self.run):
            self.trained = time.monotonic() - self.started
            self._speed.see(progress)
            self._keep_to_budget(progress)
            asked = self.context.asked() or ("stop" if progress.step == self.run.until else None)
            ended = progress.step == self.state.counters.total
            if isinstance(progress, EpochResult):
                if not ended:
                    self.state.counters.ended = self.state.counters.ended or self.observer.ends(progress) or ""
                self._epoch(progress, must=asked is not None or ended or bool(self.state.counters.ended))
            elif asked or time.monotonic() - self.written_at >= self.context.settings.checkpoint_seconds:
                self._checkpoint(progress)
            if time.monotonic() - self.told_at >= PROGRESS_SECONDS:
                self._tell(progress)
            if asked in ("pause", "shutdown"):
                raise Interrupted(asked)
            if asked == "stop":
                return "stopped"
        log.info("trained for %.2f s; checkpoints took %.2f s", self.trained, self.writing_seconds)
        shortened = self.state.counters.total < self.run.steps
        return self.state.counters.ended or ("budget_exhausted" if shortened else "completed")

    def _keep_to_budget(self, progress: StepProgress) -> None:
        counters = self.state.counters
        counters.seconds = self._used_before + time.monotonic() - self.began
        pace = self._speed.step_seconds(progress)
        if self.budget_seconds is None or counters.step == counters.total or pace is None:
            return
        left = self.budget_seconds - counters.seconds - self.ending.after(pace / self.run.batch_size)
        total = total_steps(progress.step, counters.total, self.run.steps, left, pace)
        if total != counters.total:
            self.state.revise(total)

    def _epoch(self, result: EpochResult, *, must: bool) -> None:
        if not all(map(math.isfinite, result.metrics.values())):
            raise Diverged(result.step)  # weights that are still numbers can give a validation loss that is none
        self.pending.append(result)
        if result.is_best:
            self.best_pending = None
        if must or self._due():
            self._checkpoint(result)
        elif result.is_best:
            self.best_pending = self.state.to_bytes()

    def _due(self) -> bool:
        """Is it time for a checkpoint at an epoch end, if it costs what the last one did?"""
        now = time.monotonic()
        affordable = self.writing_seconds + self.last_seconds <= WRITE_SHARE * (now - self.started)
        return affordable or now - self.written_at >= self.context.settings.checkpoint_seconds

    def _checkpoint(self, progress: StepProgress) -> None:
        """One transaction: manifest, the epochs' metrics, the progress. All of it or nothing."""
        began = time.monotonic()
        if not self.state.is_finite():
            raise Diverged(progress.step)  # before a checkpoint is written that nobody could go back to
        database, hold = self.context.database, self.context.hold
        last_is_best = isinstance(progress, EpochResult) and progress.is_best
        best = artifacts.write_chunks(database, self.best_pending) if self.best_pending else None
        last = artifacts.write_chunks(database, self.state.to_bytes())
        with database.write() as session:
            jobs.progressed(session, hold, progress=_shape(progress), eta_seconds=self._eta(progress))
            self.observer.told(session, progress)
            if best is not None:
                epoch = self.state.counters.best_epoch
                artifacts.add_checkpoint(session, hold, best, epoch=epoch, step=progress.step, best=True)
            epoch = progress.epoch
            artifacts.add_checkpoint(session, hold, last, epoch=epoch, step=progress.step, best=last_is_best)
            self._record_metrics(session)
            data = {"epoch": epoch, "step": progress.step, "bytes": last.bytes, "best": last_is_best}
            jobs.record_event(session, hold.job_id, "checkpoint", data)
        self.pending, self.best_pending = [], None
        artifacts.prune(database)
        self.written_at = self.told_at = time.monotonic()
        self.last_seconds = self.written_at - began
        self.writing_seconds += self.last_seconds
        self._speed.wrote(self.last_seconds)

    def _tell(self, progress: StepProgress) -> None:
        with self.context.database.write() as session:
            jobs.fenced(session, self.context.hold, progress=_shape(progress), eta_seconds=self._eta(progress))
            self.observer.told(session, progress)
            self._record_metrics(session)
        self.pending = []
        self.told_at = time.monotonic()

    def _record_metrics(self, session: Session) -> None:
        """The metrics of epochs not yet written."""
        job_id = self.context.hold.job_id
        for result in self.pending:
            for name, value in result.metrics.items():
                row = {"job_id": job_id, "name": name, "step": result.step, "epoch": result.epoch, "value": value}
                session.execute(insert(Metric), {**row, "time": now()})
            jobs.record_event(session, job_id, "metrics", {**_shape(result), **result.metrics})

    def _eta(self, progress: StepProgress) -> dict[str, float]:
        """Seconds left until there is a model, from the speed of this attempt; wide while little has been seen."""
        pace = self._speed.step_seconds(progress)
        if pace is None:
            pace = max(time.monotonic() - self.started, 1e-9) / max(progress.step - self._first_step, 1)
        seconds = (progress.steps - progress.step) * pace + self.ending.after(pace / self.run.batch_size)
        doubt = 0.15 + 0.85 / (1 + self._speed.seen / 2)
        return {"p10": seconds * (1 - doubt / 2), "p50": seconds, "p90": seconds * (1 + doubt)}


def _shape(progress: StepProgress) -> dict[str, Any]:
    return {
        "epoch": progress.epoch,
        "epochs": progress.epochs,
        "step": progress.step,
        "steps": progress.steps,
        "fraction": progress.step / progress.steps,
        "images_per_second": progress.images_per_second,
    }
