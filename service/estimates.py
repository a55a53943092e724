"""How long a training will take on this machine, how much memory and disk; and how good such estimates have been.

A job is told in parts: until its first step, its steps, what follows the last. Each part is a plain formula times what
earlier jobs took of it over that formula (`history`), the whole the sum over all their combinations, and so its p10,
p50 and p90. The finished job is held against them and teaches the next.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import history
from service.auto import GFLOPS
from service.cost import Cost, Room, operations
from service.datasets import versions
from service.db.tables import DatasetVersion, Job
from service.ending import Ending, ending
from service.history import BUDGET, END, GOAL, MEMORY, PACE, QUICK_END, SHARE, START, Part
from service.inference.choice import wanted
from service.settings import Settings
from service.spec import TrainSpec

START_SECONDS = 4.0  # pixels mapped, weights made, precision measured
DECODED_EACH = 1e-3  # seconds, of a picture that is not there yet in the size wanted
STEP_SECONDS = 4e-3  # of a step, beside its operations
CARD_STEP_SECONDS = 3e-4  # on a graphics card, where a step is one launch
CARD_GFLOPS = 20_000.0  # of such a card in bf16, before it was seen: an H100 reached 13,000 (classic) to 155,000
PROCESS_BYTES = 2**30  # of a training process, beside the tensors of a step
TRUE_SECONDS = 1.0  # of training, below which a pace is mostly that of the first steps
QUANTILES = (0.1, 0.5, 0.9)
CAUTIOUS = 6  # of the nine values of a ratio: a budget is rather not used up than broken
INSIDE = 0.8  # of the jobs should end between p10 and p90
JUDGED = ("completed", "early_stopped", "goal_reached", "budget_exhausted")


@dataclass(frozen=True)
class Took:
    """What a training that ran in one go took, in seconds."""

    start: float  # from the claim to the first step
    training: float  # from there to the end of the last
    steps: int
    whole: float  # from the claim to the end
    peak_bytes: int  # of the process


def estimate(
    session: Session,
    spec: dict[str, Any],
    needed: Cost,
    version: DatasetVersion,
    settings: Settings,
    *,
    budget: dict[str, float] | None = None,
    goal: bool = False,
) -> dict[str, Any]:
    """Of a job with a resolved spec: seconds (p10, p50, p90), bytes of memory and disk, and what that is based on.

    `formula` has the parts before any history, in seconds and bytes: what `close` holds the truth against.
    """
    formula = _formula(spec, needed, version, settings, budget)
    start = formula["start"] * history.ratios(session, START.on(settings), spec)
    pace = history.ratios(session, PACE.on(settings), spec)
    training = _every(formula["training"] * pace, _share(session, spec, settings, goal=goal), np.multiply)
    picture_seconds = formula["training"] / formula["pictures"] * float(np.median(pace))
    ends = history.ratios(session, _end(settings, budget).on(settings), spec)
    end = _following(formula).after(picture_seconds) * ends
    total = _every(_every(start, end), training)
    if budget is not None:
        most = _every(total, budget["seconds"] * history.ratios(session, BUDGET.on(settings), spec), np.minimum)
        total = np.maximum(most, float(np.median(start) + np.median(end)))
    low, middle, high = np.quantile(total, QUANTILES)
    known = history.is_known(session, PACE.on(settings), spec)
    return {
        "seconds": {name: round(float(value), 1) for name, value in (("p10", low), ("p50", middle), ("p90", high))},
        "parts": {
            name: round(float(np.median(part)), 1)
            for name, part in (("start", start), ("training", training), ("end", end))
        },
        "formula": formula,
        "memory_bytes": int(formula["memory"] * history.ratios(session, MEMORY.on(settings), spec)[-1]),
        "disk_bytes": 2 * 12 * needed.parameters + 3 * spec["image_size"] ** 2 * version.splits.get("train", 0),
        "based_on": "earlier jobs of this machine" if known else "a guess: this machine has trained nothing yet",
    }


def end_ratio(session: Session, spec: dict[str, Any], settings: Settings, budget: dict[str, float] | None) -> float:
    """By what `ending` is to be multiplied for this network: seven of ten earlier jobs took less."""
    return float(history.ratios(session, _end(settings, budget).on(settings), spec)[CAUTIOUS])


def gflops(session: Session, settings: Settings) -> float:
    """Billions of operations a second that training is thought to reach here, whatever the network."""
    return _gflops(settings) / history.median(session, PACE.on(settings))


def close(session: Session, job: Job, took: Took, settings: Settings) -> None:
    """Holds the estimate of a job that ran in one go against the truth, and learns from it."""
    if job.estimate is None or "formula" not in job.estimate:  # a search, or a job posted to an older Fovea
        return
    told = job.estimate["seconds"]
    judged = {"inside": told["p10"] <= took.whole <= told["p90"]} if job.stop_reason in JUDGED else {}
    job.estimate = {
        **job.estimate,
        "actual_seconds": round(took.whole, 1),
        "actual_memory_bytes": took.peak_bytes,
        **judged,
    }
    for part, ratio in _taught(job, took, settings):
        history.learn(session, part.on(settings), job.spec, ratio)


def calibration(session: Session) -> dict[str, Any]:
    """How many finished jobs took as long as they were said to."""
    rows = session.scalars(select(Job.estimate).where(Job.status == "succeeded", Job.estimate.is_not(None)))
    verdicts = [row["inside"] for row in rows if row and "inside" in row]
    share = sum(verdicts) / len(verdicts) if verdicts else None
    return {"jobs": len(verdicts), "inside": sum(verdicts), "share": share, "intended": INSIDE}


def _formula(
    spec: dict[str, Any], needed: Cost, version: DatasetVersion, settings: Settings, budget: dict[str, float] | None
) -> dict[str, float]:
    """The parts of a job before any history: seconds, how much is done in them, and bytes of memory."""
    train, decoded = version.splits.get("train", 0), versions.cache_path(settings, version.id, spec["image_size"])
    batch = max(min(spec["batch_size"], train), 1)
    steps = max(train // batch * spec["epochs"], 1)
    work = operations(TrainSpec.model_validate(spec), len(version.classes)) * batch * steps
    decoding = 0.0 if decoded.exists() else DECODED_EACH * sum(version.splits.values())
    end = ending(spec, needed.parameters, version.splits, settings, budget)
    return {
        "start": START_SECONDS + decoding,
        "training": work / (_gflops(settings) * 1e9) + steps * (CARD_STEP_SECONDS if settings.on_gpu else STEP_SECONDS),
        "steps": steps,
        "pictures": steps * batch,
        "end": end.seconds,
        "end_pictures": end.pictures,
        "memory": PROCESS_BYTES + Room.of(settings).needs(needed),
    }


def _following(formula: dict[str, float]) -> Ending:
    return Ending(formula["end"], formula["end_pictures"])


def _share(session: Session, spec: dict[str, Any], settings: Settings, *, goal: bool) -> NDArray[np.float64]:
    """Of the planned steps, how many will be taken."""
    early = _early(spec, goal=goal)
    return np.ones(1) if early is None else np.minimum(history.ratios(session, early.on(settings), spec), 1.0)


def _early(spec: dict[str, Any], *, goal: bool) -> Part | None:
    return GOAL if goal else SHARE if spec["early_stopping"] else None


def _end(settings: Settings, budget: dict[str, float] | None) -> Part:
    return END if wanted(settings, budget) else QUICK_END


def _gflops(settings: Settings) -> float:
    """Before any job has told."""
    return CARD_GFLOPS if settings.on_gpu else GFLOPS


def _taught(job: Job, took: Took, settings: Settings) -> list[tuple[Part, float]]:
    """What a finished job says of each part, over its formula."""
    assert job.estimate is not None
    formula, early = job.estimate["formula"], _early(job.spec, goal=job.goal is not None)
    step_seconds = took.training / max(took.steps, 1)
    following = _following(formula).after(step_seconds * formula["steps"] / formula["pictures"])
    found = [
        (START, took.start / formula["start"]),
        (_end(settings, job.budget), max(took.whole - took.start - took.training, 0.1) / following),
        (MEMORY, took.peak_bytes / formula["memory"]),
    ]
    if took.training >= TRUE_SECONDS:
        found.append((PACE, step_seconds / (formula["training"] / formula["steps"])))
    if early is not None and job.stop_reason in ("completed", "early_stopped", "goal_reached"):
        found.append((early, took.steps / formula["steps"]))
    if job.budget is not None and job.stop_reason == "budget_exhausted":
        found.append((BUDGET, took.whole / job.budget["seconds"]))
    return found


def _every(one: NDArray[np.float64], other: NDArray[np.float64], what: np.ufunc = np.add) -> NDArray[np.float64]:
    """`what` of each value of the one with each of the other."""
    combined: NDArray[np.float64] = what.outer(one, other).ravel()
    return combined
