"""What this machine once measured, kept so that it decides and estimates alike the next time."""

from typing import Any

from sqlalchemy.orm import Session

from service.db.tables import Measurement
from service.ids import now


def known(session: Session, key: str) -> dict[str, Any] | None:
    row = session.get(Measurement, key)
    return None if row is None else row.value


def keep(session: Session, key: str, value: dict[str, Any]) -> None:
    session.merge(Measurement(key=key, value=value, created_at=now()))
