"""Export jobs that make a version in eight bits of a model version, and which versions there can be none of."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import artifacts, jobs
from service.api import shapes
from service.api.context import Answer
from service.db.tables import Job, ModelVersion
from service.errors import Conflict
from service.inference.choice import of_int8
from service.settings import Settings
from service.spec import Int8


def create(session: Session, ref: str, asked: Int8, settings: Settings) -> Answer:
    """The job; the one that is doing the same already, if there is one. Raises Conflict when it cannot be done."""
    model, version = artifacts.find_version(session, ref)
    name = f"{model.name}:{version.number}"
    trained = _trained(session, name, version)
    if not of_int8(settings):
        raise Conflict(
            "int8_not_here",
            "no engine of this machine serves eight bits",
            hint="it takes ONNX Runtime or OpenVINO, no graphics card, and FOVEA_ENGINE other than torch",
        )
    spec: dict[str, Any] = {"model": name, "version_id": version.id, "image_size": version.card["image_size"]}
    spec["int8"] = asked.model_dump()
    open_ones = session.scalars(select(Job).where(Job.type == "export", Job.status.not_in(jobs.TERMINAL)))
    job = next((one for one in open_ones if one.spec == spec), None)
    job = job or jobs.submit(
        session, "export", spec=spec, version_id=trained.version_id, dataset=trained.dataset, model=model.name
    )
    return Answer(202, shapes.job(job), {"Location": f"/v1/jobs/{job.id}"})


def _trained(session: Session, name: str, version: ModelVersion) -> Job:
    """The job that made the version, whose pictures are there to calibrate on and to judge by. Raises Conflict."""
    lineage = version.card["lineage"]
    if "imported" in lineage:
        raise Conflict(
            "no_test_pictures",
            f"{name} was imported, and its pictures did not come with it: nothing to calibrate on, nothing to judge by",
            hint="quantise it where it was trained",
        )
    if made_of := lineage.get("quantised_from"):
        hint = f"quantise {made_of['model']}, of which it was made"
        raise Conflict("already_int8", f"{name} is in eight bits already", hint=hint)
    trained = session.get_one(Job, version.job_id)
    if trained.version_id is None:
        raise Conflict("dataset_deleted", f"the pictures that {name} learned from were deleted", hint="train it again")
    if version.evaluation.get("split") != "test" or version.answers is None:
        raise Conflict(
            "no_test_pictures",
            f"{name} was not judged on a test split, or its answers were not kept, so nobody could say what it loses",
            hint="train it on more pictures",
        )
    return trained
