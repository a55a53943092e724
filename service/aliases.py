"""Names that point at a model version and may be moved: `flowers@production`.

An alias is the sum of its moves: rows are added and never changed, so what it named at any time can be told, and a
move back is a move too. It knows nothing of HTTP, and not why a version is better than another.
"""

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.db.tables import AliasMove, Model, ModelVersion
from service.errors import Conflict, InvalidValue, NotFound, PreconditionFailed, PreconditionRequired
from service.ids import now

PRODUCTION = "production"
Action = Literal["set", "rollback"]


@dataclass(frozen=True)
class Condition:
    """The caller's `If-Match` and `If-None-Match`, as they were sent."""

    if_match: str | None = None
    if_none_match: str | None = None


def etag(move: AliasMove) -> str:
    """Names the state that this move made."""
    return f'"{move.sequence}"'


def current(session: Session, model: Model, alias: str) -> AliasMove | None:
    """The latest move; None when the alias was never set."""
    mine = select(AliasMove).where(AliasMove.model_id == model.id, AliasMove.alias == alias)
    return session.scalar(mine.order_by(AliasMove.sequence.desc()).limit(1))


def find(session: Session, model: Model, alias: str) -> AliasMove:
    """The latest move. Raises NotFound (code `alias_not_found`)."""
    move = current(session, model, alias)
    if move is None:
        hint = f"GET /v1/models/{model.name}/aliases lists them"
        raise NotFound("alias_not_found", f"{model.name!r} has no alias {alias!r}", hint=hint)
    return move


def at(session: Session, model: Model, alias: str, time: float) -> AliasMove | None:
    """The move in force at this time (UTC seconds); None when the alias was not set yet."""
    mine = select(AliasMove).where(AliasMove.model_id == model.id, AliasMove.alias == alias, AliasMove.time <= time)
    return session.scalar(mine.order_by(AliasMove.sequence.desc()).limit(1))


def all_current(session: Session, model: Model) -> list[AliasMove]:
    """Every alias of the model as it is, by name."""
    newest = (
        select(AliasMove.alias, func.max(AliasMove.sequence).label("sequence"))
        .where(AliasMove.model_id == model.id)
        .group_by(AliasMove.alias)
        .subquery()
    )
    both = (AliasMove.alias == newest.c.alias) & (AliasMove.sequence == newest.c.sequence)
    query = select(AliasMove).join(newest, both).where(AliasMove.model_id == model.id).order_by(AliasMove.alias)
    return list(session.scalars(query))


def check(move: AliasMove | None, condition: Condition) -> None:
    """Raises PreconditionFailed (412) for a stale condition, PreconditionRequired (428) when a move needs one."""
    if condition.if_none_match is not None and (move is not None or condition.if_none_match.strip() != "*"):
        raise PreconditionFailed(
            "alias_exists", "the alias is set already", hint="GET it, and send its ETag as If-Match to move it"
        )
    if condition.if_match is None:
        if move is not None and condition.if_none_match is None:
            raise PreconditionRequired(
                "if_match_missing",
                f"the alias names version {move.version}; a move must say that it knows",
                hint=f"send If-Match: {etag(move)}, the ETag of its present state",
            )
        return
    wanted = {one.strip() for one in condition.if_match.split(",")}
    if move is None or not wanted & {"*", etag(move)}:
        present = f"it names version {move.version} now, ETag {etag(move)}" if move else "it is not set"
        raise PreconditionFailed("alias_moved", f"somebody was first: {present}", hint="GET the alias and decide again")


def posted_version(session: Session, model: Model, number: int) -> ModelVersion:
    """The version that a body names by its number. Raises InvalidValue."""
    mine = select(ModelVersion).where(ModelVersion.model_id == model.id, ModelVersion.number == number)
    row = session.scalar(mine)
    if row is None:
        raise InvalidValue(
            "version_not_found",
            f"{model.name!r} has no version {number}",
            hint=f"GET /v1/models/{model.name}/versions lists them",
            param="/version",
        )
    return row


def put(session: Session, model: Model, alias: str, number: int, by: str) -> AliasMove:
    """Points the alias at a version. A move to where it points already adds nothing. Raises InvalidValue."""
    posted_version(session, model, number)
    before = current(session, model, alias)
    if before is not None and before.version == number:
        return before
    return _append(session, model, alias, before, number, "set", by)


def rollback(session: Session, model: Model, alias: str, by: str) -> AliasMove:
    """Undoes the latest move that is not undone yet; again, the one before it. Raises Conflict when none is left."""
    before = find(session, model, alias)
    standing = _standing(session, model, alias)
    if len(standing) < 2:
        raise Conflict(
            "nothing_to_roll_back", f"{alias!r} named no version before {before.version}", hint="PUT a version"
        )
    return _append(session, model, alias, before, standing[-2], "rollback", by)


def _standing(session: Session, model: Model, alias: str) -> list[int]:
    """The versions of the moves that no rollback has undone, oldest first."""
    mine = select(AliasMove).where(AliasMove.model_id == model.id, AliasMove.alias == alias)
    versions: list[int] = []
    for move in session.scalars(mine.order_by(AliasMove.sequence)):
        if move.action == "rollback":
            versions.pop()
        else:
            versions.append(move.version)
    return versions


def _append(
    session: Session, model: Model, alias: str, before: AliasMove | None, number: int, action: Action, by: str
) -> AliasMove:
    move = AliasMove(
        model_id=model.id,
        alias=alias,
        sequence=before.sequence + 1 if before else 1,
        version=number,
        previous=before.version if before else None,
        action=action,
        by=by,
        time=_later_than(before),
    )
    session.add(move)
    session.flush()
    return move


def _later_than(before: AliasMove | None) -> float:
    """The time of a move: whole milliseconds, as it is told, and no other move's, though the clock be set back."""
    present = int(now() * 1000)
    return (max(present, round(before.time * 1000) + 1) if before else present) / 1000
