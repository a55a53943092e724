"""Shadows: a candidate version beside an alias, and how often the two say the same. It knows no engine and no HTTP.

A shadow compares two versions, the candidate and the one that the alias named at its start. Once the alias moves it is
at rest, so that its counts never mix versions.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from service import aliases
from service.db.tables import Model, Shadow, ShadowDisagreement
from service.errors import Conflict, NotFound
from service.ids import new_id, now

Z_95 = 1.959963984540054


@dataclass
class Counts:
    """What was seen since the last write."""

    n: int = 0
    agreed: int = 0
    dropped: int = 0
    failed: int = 0
    difference: float = 0.0
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)  # (label, candidate's), where they differ

    def see(self, label: str, chance: float, candidate: str, candidate_chance: float) -> None:
        self.n += 1
        self.difference += abs(chance - candidate_chance)
        if label == candidate:
            self.agreed += 1
        else:
            self.pairs[label, candidate] += 1


def put(session: Session, model: Model, alias: str, number: int, share: float, by: str) -> tuple[Shadow, bool]:
    """Starts a shadow, or changes the share of the one that compares these versions; whether it is new.

    Raises NotFound for an alias that is not set, InvalidValue for an unknown version, Conflict for the alias's own.
    """
    against = aliases.posted_version(session, model, aliases.find(session, model, alias).version)
    candidate = aliases.posted_version(session, model, number)
    if candidate.id == against.id:
        raise Conflict(
            "shadow_of_itself",
            f"{alias!r} names version {number} already",
            hint="choose another version",
            param="/version",
        )
    row = current(session, model, alias)
    if row is not None and (row.candidate_id, row.against_id) == (candidate.id, against.id):
        row.share = share
        return row, False
    end(session, model, alias)
    row = Shadow(
        id=new_id("shadow"),
        model_id=model.id,
        alias=alias,
        candidate_id=candidate.id,
        against_id=against.id,
        share=share,
        n=0,
        agreed=0,
        dropped=0,
        failed=0,
        difference=0.0,
        by=by,
        created_at=now(),
    )
    session.add(row)
    session.flush()
    return row, True


def current(session: Session, model: Model, alias: str) -> Shadow | None:
    return session.scalar(select(Shadow).where(Shadow.model_id == model.id, Shadow.alias == alias))


def find(session: Session, model: Model, alias: str) -> Shadow:
    """Raises NotFound."""
    row = current(session, model, alias)
    if row is None:
        raise NotFound("shadow_not_found", f"{model.name}@{alias} has no shadow", hint="PUT one")
    return row


def end(session: Session, model: Model, alias: str) -> None:
    """Removes the shadow and its counts, if there is one."""
    row = current(session, model, alias)
    if row is not None:
        session.execute(delete(ShadowDisagreement).where(ShadowDisagreement.shadow_id == row.id))
        session.execute(delete(Shadow).where(Shadow.id == row.id))
        session.expunge(row)


def add(session: Session, counted: Mapping[str, Counts]) -> None:
    """Adds what was counted, by shadow id. A shadow that ended meanwhile is passed over."""
    for shadow_id, more in counted.items():
        sums = {name: getattr(Shadow, name) + getattr(more, name) for name in ("n", "agreed", "dropped", "failed")}
        change = update(Shadow).where(Shadow.id == shadow_id)
        changed: Any = session.execute(change.values(**sums, difference=Shadow.difference + more.difference))
        for (label, candidate), count in more.pairs.items() if changed.rowcount else ():
            row = session.get(ShadowDisagreement, (shadow_id, label, candidate))
            if row is None:
                session.add(ShadowDisagreement(shadow_id=shadow_id, label=label, candidate=candidate, count=count))
            else:
                row.count += count


def disagreements(session: Session, shadow: Shadow) -> list[ShadowDisagreement]:
    """Most frequent first."""
    mine = select(ShadowDisagreement).where(ShadowDisagreement.shadow_id == shadow.id)
    order = (ShadowDisagreement.count.desc(), ShadowDisagreement.label, ShadowDisagreement.candidate)
    return list(session.scalars(mine.order_by(*order)))


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927); 0 to 1 when nothing was seen."""
    if n == 0:
        return 0.0, 1.0
    centre = (hits + Z_95**2 / 2) / (n + Z_95**2)
    half = Z_95 / (n + Z_95**2) * sqrt(hits * (n - hits) / n + Z_95**2 / 4)
    return max(centre - half, 0.0), min(centre + half, 1.0)
