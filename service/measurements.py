"""What this machine once measured, kept so that it decides and estimates alike the next time."""

from typing import Any

from sqlalchemy.orm import Session

from service.db.tables import Measurement
from service.ids import now

SPEED = "training_gflops"
WEIGHT = 0.3  # of the newest job in the running mean


def known(session: Session, key: str) -> dict[str, Any] | None:
    row = session.get(Measurement, key)
    return None if row is None else row.value


def keep(session: Session, key: str, value: dict[str, Any]) -> None:
    session.merge(Measurement(key=key, value=value, created_at=now()))


def gflops(session: Session) -> float | None:
    """Billions of operations per second that training reaches here: a running mean over jobs. None before the first."""
    value = known(session, SPEED)
    return None if value is None else float(value["mean"])


def trained_at(session: Session, rate: float) -> None:
    """Takes a finished job's rate, in GFLOP/s, into the mean."""
    before = gflops(session)
    mean = rate if before is None else before + WEIGHT * (rate - before)
    keep(session, SPEED, {"mean": mean})
