"""Kept analyses of dataset versions: the suspects that an `analyse` job found, until a later one of its kind.

An analysis is of one version, with the help of one model version or of none; all its rows appear in one transaction.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, delete, insert, select
from sqlalchemy.orm import Session

from service.db.tables import Analysis, DatasetVersion, Suspect
from service.ids import new_id, now

Json = dict[str, Any]
MOST = 10_000  # suspects kept of one analysis: the likeliest


def keep(
    session: Session,
    version_id: str,
    model_version_id: str | None,
    job_id: str,
    summary: Json,
    found: Sequence[Json],
) -> Analysis:
    """Takes the place of an earlier analysis of the same kind. `found` in the order of their rank."""
    same = _of(version_id).where(Analysis.model_version_id.is_not_distinct_from(model_version_id))
    forget(session, [row.id for row in session.scalars(same)])
    analysis = Analysis(
        id=new_id("an"),
        version_id=version_id,
        model_version_id=model_version_id,
        job_id=job_id,
        summary=summary,
        created_at=now(),
    )
    session.add(analysis)
    session.flush()
    rows = [
        {"analysis_id": analysis.id, "rank": rank, "reason": row["reason"], "data": row}
        for rank, row in enumerate(found[:MOST], 1)
    ]
    if rows:
        session.execute(insert(Suspect), rows)
    return analysis


def newest(session: Session, version: DatasetVersion, model_version_id: str | None) -> Analysis | None:
    """The newest analysis of a version; with a model version, the newest that it helped."""
    query = _of(version.id).order_by(Analysis.created_at.desc(), Analysis.id.desc()).limit(1)
    if model_version_id is not None:
        query = query.where(Analysis.model_version_id == model_version_id)
    return session.scalar(query)


def forget(session: Session, ids: Sequence[str]) -> None:
    session.execute(delete(Suspect).where(Suspect.analysis_id.in_(ids)))
    session.execute(delete(Analysis).where(Analysis.id.in_(ids)))


def of_versions(session: Session, version_ids: Sequence[str]) -> Sequence[str]:
    return session.scalars(select(Analysis.id).where(Analysis.version_id.in_(version_ids))).all()


def _of(version_id: str) -> Select[Analysis]:
    return select(Analysis).where(Analysis.version_id == version_id)
