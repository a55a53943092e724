"""`POST /v1/jobs` with `"type": "evaluate"`: a model version is asked about pictures that it did not learn from."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import artifacts, jobs
from service.api import shapes
from service.api.context import Answer
from service.datasets import versions
from service.db.tables import Job
from service.errors import InvalidValue
from service.spec import EvaluateRequest


def create(session: Session, body: EvaluateRequest) -> Answer:
    """The job; the one that is doing the same already, if there is one.

    Raises NotFound for an unknown model or dataset, Conflict while the dataset is importing, InvalidValue for a split
    without pictures.
    """
    model, version = artifacts.find_version(session, body.model)
    dataset = versions.find_ready(session, body.dataset)
    name = versions.reference(session, dataset)
    if not versions.count(dataset, body.split):
        hint = "leave split out: all pictures"
        raise InvalidValue("split_empty", f"{name} has no {body.split} pictures", hint=hint, param="/split")
    spec = {
        "model": f"{model.name}:{version.number}",
        "model_version_id": version.id,
        "image_size": version.card["image_size"],
        "split": body.split,
    }
    mine = select(Job).where(Job.type == "evaluate", Job.version_id == dataset.id, Job.status.not_in(jobs.TERMINAL))
    job = next((one for one in session.scalars(mine) if one.spec == spec), None)
    job = job or jobs.submit(session, "evaluate", spec=spec, version_id=dataset.id, dataset=name, model=model.name)
    return Answer(202, shapes.job(job), {"Location": f"/v1/jobs/{job.id}"})
