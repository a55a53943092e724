"""How long a training will take on this machine, how much memory and disk; and how good such estimates have been.

The middle comes from the operations that the spec needs and the rate that this machine has reached, the interval from
how far earlier estimates were from the truth: the quantiles of truth over estimate, as in split conformal prediction.
"""

from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import measurements
from service.auto import GFLOPS, DatasetFacts
from service.cost import Cost, operations
from service.db.tables import Job
from service.spec import TrainSpec

RATIOS = "estimate_ratios"  # of the truth to the estimate's middle, newest last
KEPT = 50
ENOUGH = 8  # ratios below which the interval is a guess
GUESS = (0.5, 1.0, 2.5)
START_SECONDS = 4.0  # pictures, measuring precision, export, evaluation
INSIDE = 0.8  # of the jobs should end between p10 and p90


def estimate(
    session: Session, spec: dict[str, Any], needed: Cost, facts: DatasetFacts, budget_seconds: float | None
) -> dict[str, Any]:
    """`{"seconds": {"p10", "p50", "p90"}, "memory_bytes", "disk_bytes", "based_on"}` of a resolved spec."""
    rate = measurements.gflops(session, spec["network"])
    work = operations(TrainSpec.model_validate(spec), facts.classes) * facts.train_count * spec["epochs"]
    middle = START_SECONDS + work / ((rate or GFLOPS) * 1e9)
    ratios = (measurements.known(session, RATIOS) or {"ratios": []})["ratios"]
    low, mean, high = np.quantile(ratios, (0.05, 0.5, 0.95)) if len(ratios) >= ENOUGH else GUESS
    most = budget_seconds or float("inf")
    seconds = {"p10": middle * low, "p50": middle * mean, "p90": middle * high}
    return {
        "seconds": {name: round(min(value, most), 1) for name, value in seconds.items()},
        "middle": round(middle, 1),
        "memory_bytes": needed.memory_bytes,
        "disk_bytes": 2 * 12 * needed.parameters + 3 * spec["image_size"] ** 2 * facts.train_count,
        "based_on": "earlier jobs of this machine" if rate else "a guess: this machine has trained nothing yet",
    }


def close(session: Session, job: Job, seconds: float) -> None:
    """Compares the estimate of a job that ran to its end in one attempt with the truth, and learns from it."""
    if job.estimate is None:
        return
    told = job.estimate["seconds"]
    inside = told["p10"] <= seconds <= told["p90"]
    job.estimate = {**job.estimate, "actual_seconds": round(seconds, 1), "inside": inside}
    if job.budget is None:
        ratios = (measurements.known(session, RATIOS) or {"ratios": []})["ratios"]
        measurements.keep(session, RATIOS, {"ratios": [*ratios, seconds / job.estimate["middle"]][-KEPT:]})


def calibration(session: Session) -> dict[str, Any]:
    """How many finished jobs took as long as they were said to."""
    rows = session.scalars(select(Job.estimate).where(Job.status == "succeeded", Job.estimate.is_not(None)))
    verdicts = [row["inside"] for row in rows if row and "inside" in row]
    share = sum(verdicts) / len(verdicts) if verdicts else None
    return {"jobs": len(verdicts), "inside": sum(verdicts), "share": share, "intended": INSIDE}
