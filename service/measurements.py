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


def gflops(session: Session, network: Any = None) -> float | None:
    """Billions of operations per second that training reaches here: a running mean over jobs. None before the first.

    Of `network` (a spec's) where that was trained before, else of all.
    """
    value = known(session, _speed_of(network)) or known(session, SPEED)
    return None if value is None else float(value["mean"])


def trained_at(session: Session, rate: float, network: Any) -> None:
    """Takes a finished job's rate, in GFLOP/s, into the mean of its network and into that of all."""
    for key in (SPEED, _speed_of(network)):
        before = known(session, key)
        mean = rate if before is None else before["mean"] + WEIGHT * (rate - before["mean"])
        keep(session, key, {"mean": mean})


def _speed_of(network: Any) -> str:
    """Lists of layers are as many networks as jobs: they share a mean."""
    return f"{SPEED}:{network if isinstance(network, str) else 'layers'}"
