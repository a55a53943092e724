"""`POST /v1/jobs` with `"type": "search"`: checks the whole space, then creates one job; its trials come later."""

from typing import Any

from sqlalchemy.orm import Session

from service import estimates, jobs
from service.api import shapes
from service.api.context import Answer
from service.auto import resolve
from service.cost import Room, cost
from service.datasets import versions
from service.errors import InvalidValue
from service.search import SearchRequest, check
from service.settings import Settings
from service.spec import TrainSpec


def create(session: Session, body: SearchRequest, settings: Settings) -> Answer:
    resolved = dry_run(session, body, settings)
    job = jobs.submit(
        session,
        "search",
        spec=body.spec.model_dump(mode="json"),
        seed=body.seed,
        version_id=versions.find_ready(session, body.dataset).id,
        dataset=resolved["dataset"],
        model=body.model,
        budget=body.budget.model_dump() if body.budget else None,
        search=resolved["search"],
    )
    return Answer(202, shapes.job(job), {"Location": f"/v1/jobs/{job.id}"})


def dry_run(session: Session, body: SearchRequest, settings: Settings) -> dict[str, Any]:
    """What the base spec resolves to, what it costs, and the search as it would be kept. Raises InvalidValue.

    The estimate is that of the base spec for every trial; pruning makes a search shorter.
    """
    version = versions.find_ready(session, body.dataset)
    facts, room = versions.facts(version), Room.of(settings)
    if not version.splits.get("val"):
        raise InvalidValue(
            "no_validation_pictures",
            "a search compares its trials on the validation split, and this version has none",
            hint="upload pictures with a val folder, or without any split",
            param="/dataset",
        )
    if body.spec.initial_weights not in (None, "pretrained"):
        raise InvalidValue(
            "not_in_a_search",
            "a search begins with random or pretrained weights",
            hint="leave initial_weights out; train from a model of your own afterwards",
            param="/spec/initial_weights",
        )
    spec = resolve(body.spec, facts, room)
    check(body, facts, room)
    needed = cost(TrainSpec.model_validate(spec), facts.classes)
    trial = estimates.estimate(session, spec, needed, version, settings)
    most = body.budget.seconds if body.budget else float("inf")
    seconds = {name: round(min(body.trials * value, most), 1) for name, value in trial["seconds"].items()}
    space = {pointer: dimension.model_dump(exclude_unset=True) for pointer, dimension in body.space.items()}
    return {
        "spec": spec,
        "dataset": versions.reference(session, version),
        "parameters": needed.parameters,
        "multiply_adds": needed.multiply_adds,
        "memory_bytes": needed.memory_bytes,
        "estimate": {**trial, "seconds": seconds},
        "search": {"space": space, "trials": body.trials, "metric": body.metric},
    }
