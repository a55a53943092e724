"""Where two runs of the same record parted: the first epoch whose metrics are not the same numbers."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.db.tables import Metric

NOT_COMPARED = "images_per_second"  # speed differs from run to run


def first_difference(session: Session, one: str, other: str) -> dict[str, Any] | None:
    """`{"metric", "epoch", "step", "was", "is"}` of the earliest, or None where every metric is the same."""
    was, now = _values(session, one), _values(session, other)
    for step, epoch, name in sorted(was.keys() | now.keys()):
        key = (step, epoch, name)
        if was.get(key) != now.get(key):
            return {"metric": name, "epoch": epoch, "step": step, "was": was.get(key), "is": now.get(key)}
    return None


def _values(session: Session, job_id: str) -> dict[tuple[int, int, str], float]:
    rows = session.scalars(select(Metric).where(Metric.job_id == job_id, Metric.name != NOT_COMPARED))
    return {(row.step, row.epoch, row.name): row.value for row in rows}
