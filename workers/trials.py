"""What is recorded of a search's trials, and what watches the one that learns.

The rows are a search's only memory: which trials there were, what they tried, their metric epoch by epoch, what came of
them. Nothing here changes a trial.
"""

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import jobs
from service.db.tables import Job, Metric
from service.ending import EXPORT_SECONDS
from workers.context import Context
from workers.recorder import Observer
from workers.sampling import Sampling, Tried
from workers.training.loop import EpochResult, StepProgress


@dataclass(frozen=True)
class Search:
    """What stays the same over all trials."""

    context: Context
    job: Job
    metric: str
    trials: int
    sampling: Sampling

    def rows(self) -> list[Job]:
        with self.context.database.read() as session:
            return list(jobs.trials(session, self.job.id))

    def best(self, rows: list[Job]) -> Job | None:
        """The trial with the best value, of equals the one with the lower validation loss, then the earlier one."""
        whole = [row for row in rows if row.result is not None and row.stop_reason != "pruned"]
        return max(whole, key=lambda row: self._merit(row.result or {}), default=None)

    def _merit(self, result: dict[str, Any]) -> tuple[float, float]:
        value = result["value"] if self.sampling.maximise else -result["value"]
        return value, -result["metrics"]["val/loss"]


def seconds_of(row: Job) -> float:
    """Of work on a trial that has ended. A pause is none, but of a failed trial only the clock is known."""
    return row.result["seconds"] if row.result else (row.finished_at or 0) - (row.started_at or 0)


def tried(session: Session, search: Search, rows: list[Job]) -> list[Tried]:
    """What is recorded of the trials that have ended."""
    values = metric_values(session, search, rows)
    return [_known(row, values.get(row.id, {})) for row in rows]


def _known(row: Job, values: dict[int, float]) -> Tried:
    parameters = row.parameters or {}
    if row.result is None:
        return Tried(parameters, values, outcome="failed")
    return Tried(parameters, values, row.result["value"], "pruned" if row.stop_reason == "pruned" else "complete")


def metric_values(session: Session, search: Search, rows: list[Job]) -> dict[str, dict[int, float]]:
    """The metric of each epoch, of each trial."""
    found: dict[str, dict[int, float]] = {}
    ids = [row.id for row in rows]
    for metric in session.scalars(select(Metric).where(Metric.job_id.in_(ids), Metric.name == search.metric)):
        found.setdefault(metric.job_id, {})[metric.epoch] = metric.value
    return found


class TrialWatch(Observer):
    """Prunes a poor trial, and tells how far the search is whenever the trial tells how far it is."""

    def __init__(
        self, search: Search, trial: Job, rows: list[Job], before: list[Tried], values: dict[str, dict[int, float]]
    ) -> None:
        self._search, self._trial, self._done = search, trial, len(before)
        self._is_hopeless = search.sampling.judge(before)
        self._values = values.get(trial.id, {})
        ended = [row for row in rows if row.id != trial.id]
        best = search.best(ended)
        self._best_value = best.result["value"] if best and best.result else None
        self._mean_seconds = sum(map(seconds_of, ended)) / len(ended) if ended else None
        self._began = time.monotonic()

    def ends(self, result: EpochResult) -> str | None:
        self._values[result.epoch] = result.metrics[self._search.metric]
        known = {epoch: value for epoch, value in self._values.items() if epoch <= result.epoch}
        trial = Tried(self._trial.parameters or {}, known)
        return "pruned" if self._is_hopeless(trial, result.epochs) else None

    def told(self, session: Session, progress: StepProgress) -> None:
        search, share = self._search, progress.step / progress.steps
        told = {
            "trial": self._done + 1,
            "trials": search.trials,
            "fraction": (self._done + share) / search.trials,
            "best_value": self._best_value,
        }
        jobs.fenced(session, search.context.hold, progress=told, eta_seconds=self._eta(share))

    def _eta(self, share: float) -> dict[str, float]:
        """Seconds left: the trials to come take what those before took; a budget may end the search earlier."""
        mean = self._mean_seconds or (time.monotonic() - self._began) / max(share, 1e-3)
        seconds = mean * (self._search.trials - self._done - share) + EXPORT_SECONDS
        if self._search.job.budget is not None:
            used = mean * (self._done + share)
            seconds = max(min(seconds, self._search.job.budget["seconds"] - used), EXPORT_SECONDS)
        return {"p10": 0.5 * seconds, "p50": seconds, "p90": 1.5 * seconds}
