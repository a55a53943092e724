"""`/v1/jobs`: submit, watch and steer all long work."""

import asyncio
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Query
from fastapi.responses import JSONResponse
from pydantic import Discriminator, Tag
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from service import artifacts, disk, estimates, jobs
from service.api import bundles, evaluations, objects, quantised, searches, shapes, suspects
from service.api.context import (
    Answer,
    BodySha256,
    ClosingDep,
    DatabaseDep,
    OnceDep,
    Reading,
    SettingsDep,
    Writing,
    require,
)
from service.api.examples import (
    ANALYSE,
    ANALYSE_JOB,
    DRY_RUN,
    EVALUATE,
    EVALUATE_JOB,
    EXPORT,
    EXPORT_JOB,
    INT8,
    INT8_JOB,
    JOB,
    SEARCH,
    SEARCH_JOB,
    TRAIN,
    answers,
    chosen,
    listed,
)
from service.api.paging import Listing, PageDep
from service.auto import DatasetFacts, Source, explained
from service.cost import Room, cost, layer_table
from service.datasets import versions
from service.db import Database
from service.db.tables import JOB_STATUSES, Job
from service.errors import InvalidValue, NotFound
from service.search import SearchRequest
from service.settings import Settings
from service.spec import AnalyseRequest, EvaluateRequest, ExportRequest, TrainRequest, TrainSpec

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], dependencies=[Depends(require("train", "data"))])
POLL_SECONDS = 0.25
POSTED = ("train", "search", "evaluate", "export", "analyse")


def _which(body: Any) -> str:
    """The type that a body asks for; one without a type trains. Raises InvalidValue for any other."""
    asked = body.get("type", "train") if isinstance(body, dict) else getattr(body, "type", "train")
    if asked in POSTED:
        return str(asked)
    raise InvalidValue(
        "invalid_value",
        f"/type: {str(asked)[:40]!r} is none of {', '.join(POSTED)}",
        hint="an import begins with POST /v1/datasets",
        param="/type",
    )


JobRequest = Annotated[
    Annotated[TrainRequest, Tag("train")]
    | Annotated[SearchRequest, Tag("search")]
    | Annotated[EvaluateRequest, Tag("evaluate")]
    | Annotated[ExportRequest, Tag("export")]
    | Annotated[AnalyseRequest, Tag("analyse")],
    Discriminator(_which),
    Body(
        openapi_examples={
            "train": {"value": TRAIN},
            "search": {"value": SEARCH},
            "evaluate": {"value": EVALUATE},
            "export": {"value": EXPORT},
            "int8": {"value": INT8},
            "analyse": {"value": ANALYSE},
        }
    ),
]


@router.post(
    "",
    status_code=202,
    dependencies=[Depends(require("train"))],
    responses=chosen(
        202,
        objects.Job,
        train=JOB,
        search=SEARCH_JOB,
        evaluate=EVALUATE_JOB,
        export=EXPORT_JOB,
        int8=INT8_JOB,
        analyse=ANALYSE_JOB,
    )
    | answers(DRY_RUN, kind=objects.DryRun),
)
def submit(
    body: JobRequest,
    session: Writing,
    once: OnceDep,
    body_sha256: BodySha256,
    settings: SettingsDep,
    dry_run: bool = False,
) -> JSONResponse:
    """Train a network on a dataset, search for the spec that trains the best one, evaluate a model version on another
    dataset, make its bundle or a quantised version of it, or look for wrong labels in a dataset.

    `?dry_run=true` validates and resolves "auto", and creates nothing.
    """
    if not dry_run:
        disk.check(settings, "another job")
        jobs.check_queue(session, settings.max_queued_jobs)
    if isinstance(body, EvaluateRequest | ExportRequest | AnalyseRequest):
        if dry_run:
            raise InvalidValue("invalid_value", f"an {body.type} job has nothing to estimate", param="dry_run")
        return once.do(session, body_sha256, lambda: _create_other(session, body, settings)).response()
    if isinstance(body, SearchRequest):
        if dry_run:
            return JSONResponse(searches.dry_run(session, body, settings))
        return once.do(session, body_sha256, lambda: searches.create(session, body, settings)).response()
    if dry_run:
        return JSONResponse(_resolved(session, body, settings)[1])
    return once.do(session, body_sha256, lambda: _create(session, body, settings)).response()


def _create_other(
    session: Session, body: EvaluateRequest | ExportRequest | AnalyseRequest, settings: Settings
) -> Answer:
    if isinstance(body, EvaluateRequest):
        return evaluations.create(session, body)
    if isinstance(body, AnalyseRequest):
        return suspects.create(session, body)
    if body.int8 is not None:
        return quantised.create(session, body.model, body.int8, settings)
    return bundles.create(session, body)


def _create(session: Session, body: TrainRequest, settings: Settings) -> Answer:
    version_id, resolved = _resolved(session, body, settings)
    job = jobs.submit(
        session,
        "train",
        spec=resolved["spec"],
        seed=body.seed,
        version_id=version_id,
        dataset=resolved["dataset"],
        model=body.model,
        goal=body.goal.model_dump() if body.goal else None,
        budget=body.budget.model_dump() if body.budget else None,
        reasons=resolved["reasons"],
        estimate=resolved["estimate"],
    )
    return Answer(202, shapes.job(job), {"Location": f"/v1/jobs/{job.id}"})


def _resolved(session: Session, body: TrainRequest, settings: Settings) -> tuple[str, dict[str, Any]]:
    version = versions.find_ready(session, body.dataset)
    facts = versions.facts(version)
    _check_goal(body, facts)
    pinned, source = _source(session, body.spec)
    spec, reasons = explained(
        pinned,
        facts,
        Room.of(settings),
        source=source,
        budget_seconds=body.budget.seconds if body.budget else None,
        gflops=estimates.gflops(session, settings),
    )
    checked = TrainSpec.model_validate(spec)
    needed = cost(checked, facts.classes)
    budget = body.budget.model_dump() if body.budget else None
    estimate = estimates.estimate(session, spec, needed, version, settings, budget=budget, goal=body.goal is not None)
    return version.id, {
        "spec": spec,
        "reasons": reasons,
        "dataset": versions.reference(session, version),
        "parameters": needed.parameters,
        "multiply_adds": needed.multiply_adds,
        "estimate": estimate,
        "layers": layer_table(checked, facts.classes),
    }


def _check_goal(body: TrainRequest, facts: DatasetFacts) -> None:
    if body.goal and body.goal.metric == "mean_average_precision" and not facts.several_labels:
        raise InvalidValue(
            "goal_does_not_fit",
            "mean_average_precision is of pictures with several labels",
            hint="take accuracy",
            param="/goal/metric",
        )


def _source(session: Session, spec: TrainSpec) -> tuple[TrainSpec, Source | None]:
    """The spec with the model that it begins with pinned to a version, and what that model is."""
    if spec.initial_weights in (None, "pretrained"):
        return spec, None
    try:
        model, version = artifacts.find_version(session, str(spec.initial_weights))
    except NotFound as error:
        raise InvalidValue(error.code, error.detail, hint=error.hint, param="/spec/initial_weights") from error
    if "imported" in version.card["lineage"]:
        raise InvalidValue(
            "weights_not_trainable",
            f"{spec.initial_weights} was imported: its network can answer, but not learn on",
            hint="begin with a model that was trained here",
            param="/spec/initial_weights",
        )
    if made_of := version.card["lineage"].get("quantised_from"):
        raise InvalidValue(
            "weights_not_trainable",
            f"{spec.initial_weights} has weights of eight bits",
            hint=f"begin with {made_of['model']}, of which it was made",
            param="/spec/initial_weights",
        )
    theirs = version.card["lineage"]["spec"]
    mine = spec.network if isinstance(spec.network, str) else spec.network.model_dump(mode="json")
    if mine not in ("auto", theirs["network"]):
        raise InvalidValue(
            "weights_mismatch",
            f"{spec.initial_weights} is another network",
            hint="leave network out: it is that of the model",
            param="/spec/network",
        )
    pinned = spec.model_copy(update={"initial_weights": f"{model.name}:{version.number}"})
    return pinned, Source(theirs["network"], version.card["image_size"], theirs["normalisation"])


@router.get("", responses=listed(JOB))
def list_jobs(
    session: Reading,
    page: PageDep,
    status: Annotated[str | None, Query(pattern="^(" + "|".join(JOB_STATUSES) + ")$")] = None,
    type: Literal["import", "import_model", "train", "search", "evaluate", "export", "analyse"] | None = None,
    model: str | None = None,
    parent: Annotated[str | None, Query(description="a search: lists its trials")] = None,
) -> Listing[objects.Job]:
    """All jobs, newest first. The trials of a search are listed with `?parent=` alone.

    Of an evaluation the list has `split`, `n` and `accuracy`; the job itself has the rest.
    """
    query = select(Job).where(Job.parent.is_(None) if parent is None else Job.parent == parent)
    for column, wanted in ((Job.status, status), (Job.type, type), (Job.model, model)):
        query = query if wanted is None else query.where(column == wanted)
    return page.read(session, query, Job.id, shapes.listed_job, newest_first=True)


@router.get("/{job_id}", responses=answers(JOB))
async def show(
    job_id: str,
    db: DatabaseDep,
    closing: ClosingDep,
    wait: Annotated[float, Query(ge=0, le=60, description="hold until the job changes or ends, in seconds")] = 0,
) -> objects.Job:
    """One job; `?wait=30` answers when its status, attempt or progress changes, or the time is over."""
    deadline = time.monotonic() + wait
    first = shown = await run_in_threadpool(_show, db, job_id)
    while not shown["is_terminal"] and shown == first and time.monotonic() < deadline and not closing.begun:
        await asyncio.sleep(POLL_SECONDS)
        shown = await run_in_threadpool(_show, db, job_id)
    return shown


def _show(db: Database, job_id: str) -> objects.Job:
    with db.read() as session:
        return shapes.job(jobs.get(session, job_id))


@router.post(
    "/{job_id}:reproduce",
    status_code=202,
    dependencies=[Depends(require("train"))],
    responses=answers(JOB, 202, objects.Job),
)
def reproduce(job_id: str, session: Writing, once: OnceDep, body_sha256: BodySha256) -> JSONResponse:
    """Trains again from a job's record. `result.equal` of the new job says whether the weights are the same bits."""

    def make() -> Answer:
        job = jobs.reproduce(session, job_id)
        return Answer(202, shapes.job(job), {"Location": f"/v1/jobs/{job.id}"})

    return once.do(session, body_sha256, make).response()


ACTIONS = {"cancel": jobs.cancel, "stop": jobs.stop, "pause": jobs.pause, "resume": jobs.resume}


@router.post(
    "/{job_id}:{action}",
    status_code=202,
    dependencies=[Depends(require("train"))],
    responses=answers(JOB, 202, objects.Job),
)
def act(job_id: str, action: Literal["cancel", "stop", "pause", "resume"], session: Writing) -> JSONResponse:
    """`stop` ends now and keeps the best, `cancel` throws away; `pause` and `resume` lose nothing."""
    return JSONResponse(shapes.job(ACTIONS[action](session, job_id)), 202)
