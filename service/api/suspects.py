"""`/v1/datasets/{d}/versions/{n}/suspects`: likely wrong labels, and the analyse jobs that look for them."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import artifacts, jobs
from service.api import objects, shapes
from service.api.context import Answer, Reading, require
from service.api.examples import SUSPECTS, answers
from service.api.paging import PageDep
from service.datasets import suspects, versions
from service.db.tables import DatasetVersion, Job, ModelVersion, Suspect
from service.errors import Conflict, InvalidValue, NotFound
from service.ids import rfc3339
from service.spec import AnalyseRequest

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], dependencies=[Depends(require("data", "train"))])
Reason = Literal["duplicates_disagree", "improbable_label", "unusual_picture"]


@router.get("/{dataset}/versions/{number}/suspects", responses=answers(SUSPECTS))
def list_suspects(
    dataset: str,
    number: int,
    session: Reading,
    page: PageDep,
    model: Annotated[
        str | None, Query(max_length=200, description="the analysis that this model version helped")
    ] = None,
    reason: Reason | None = None,
) -> objects.Suspects:
    """Pictures whose label is probably wrong, the likeliest first, with the reason and what the label might be.

    404 `not_analysed` until an `analyse` job has looked for them. `:edit` takes what one accepts of it.
    """
    version = versions.ready(versions.find_version(session, versions.find_dataset(session, dataset), number))
    helper = artifacts.find_version(session, model)[1].id if model is not None else None
    analysis = suspects.newest(session, version, helper)
    if analysis is None:
        raise _not_analysed(session, version, model)
    query = select(Suspect).where(Suspect.analysis_id == analysis.id)
    query = query if reason is None else query.where(Suspect.reason == reason)
    shown = page.read(session, query, Suspect.rank, lambda row: {"rank": row.rank, **row.data})
    job = session.get_one(Job, analysis.job_id)
    about = {"id": analysis.id, "job": job.id, "model": job.spec["model"], **analysis.summary}
    return {**shown, "analysis": {**about, "created_at": rfc3339(analysis.created_at)}}


def _not_analysed(session: Session, version: DatasetVersion, model: str | None) -> NotFound:
    name = versions.reference(session, version)
    working = _open_jobs(session, version)
    helped = f', "model": "{model}"' if model else ""
    hint = f'POST /v1/jobs {{"type": "analyse", "dataset": "{name}"{helped}}} looks for them'
    if working:
        hint = f"wait for it: GET /v1/jobs/{working[0].id}?wait=30"
    return NotFound("not_analysed", f"nobody has looked for wrong labels in {name} yet", hint=hint)


def _open_jobs(session: Session, version: DatasetVersion) -> list[Job]:
    mine = select(Job).where(Job.type == "analyse", Job.version_id == version.id, Job.status.not_in(jobs.TERMINAL))
    return list(session.scalars(mine.order_by(Job.created_at)))


def create(session: Session, body: AnalyseRequest) -> Answer:
    """The analyse job; the one that is doing the same already, if there is one."""
    version = versions.find_ready(session, body.dataset)
    spec: dict[str, Any] = {"folds": body.folds, "image_size": version.image_size}
    spec |= {"model": None, "model_version_id": None}
    name = None
    if body.model is not None:
        name, helper = _helper(session, body.model, version)
        spec |= {"model": f"{name}:{helper.number}", "model_version_id": helper.id}
    same = (job for job in _open_jobs(session, version) if (job.spec, job.seed) == (spec, body.seed))
    job = next(same, None) or jobs.submit(
        session,
        "analyse",
        spec=spec,
        seed=body.seed,
        version_id=version.id,
        dataset=versions.reference(session, version),
        model=name,
    )
    return Answer(202, shapes.job(job), {"Location": f"/v1/jobs/{job.id}"})


def _helper(session: Session, ref: str, version: DatasetVersion) -> tuple[str, ModelVersion]:
    """A model version that answers with the dataset's classes, and of which it is known what it learned from."""
    try:
        model, helper = artifacts.find_version(session, ref)
    except NotFound as error:
        raise InvalidValue(error.code, error.detail, hint=error.hint, param="/model") from error
    if made_of := helper.card["lineage"].get("quantised_from"):
        raise InvalidValue(
            "model_quantised",
            f"{ref} has weights of eight bits",
            hint=f"take {made_of['model']}, of which it was made",
            param="/model",
        )
    several = helper.card.get("task") == "multi_label"
    names = {row["name"] for row in version.classes}
    if set(helper.card["classes"]) != names or several != versions.several_labels(version):
        raise InvalidValue(
            "classes_differ",
            f"{ref} does not answer with the classes of the dataset",
            hint="take a model that was trained on it, or none",
            param="/model",
        )
    if session.get_one(Job, helper.job_id).version_id is None:
        raise Conflict(
            "dataset_deleted",
            f"the pictures that {ref} learned from were deleted, so nobody knows which it has seen",
            hint="leave model out",
        )
    return model.name, helper
