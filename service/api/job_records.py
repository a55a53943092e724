"""`/v1/jobs/{id}/…`: what a job left behind while it ran: events, metrics, checkpoints, its log."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import PlainTextResponse, StreamingResponse
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from service import jobs
from service.api import objects, shapes
from service.api.closing import Closing
from service.api.context import ClosingDep, DatabaseDep, Reading, SettingsDep, require
from service.api.examples import CHECKPOINT, EVENT, METRICS, answers, listed
from service.api.jobs import POLL_SECONDS
from service.api.paging import Listing, PageDep, whole
from service.db import Database
from service.db.tables import Checkpoint, Event, Metric
from service.errors import NotFound
from service.ids import rfc3339

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"], dependencies=[Depends(require("train", "data"))])


@router.get("/events", responses=listed(EVENT, Listing[objects.Event], also="text/event-stream"))
def events(
    job_id: str,
    session: Reading,
    db: DatabaseDep,
    closing: ClosingDep,
    page: PageDep,
    request: Request,
    last_event_id: Annotated[str | None, Header()] = None,
    newest: Annotated[int | None, Query(ge=1, le=1000, description="begin with so many of those there are")] = None,
) -> Any:
    """What happened, in order. With `Accept: text/event-stream` the same events live; `Last-Event-ID` resumes."""
    jobs.get(session, job_id)
    if newest is not None and page.after is None:
        page.after = _before(session, job_id, newest)
    if "text/event-stream" in request.headers.get("accept", ""):
        page.after = last_event_id or page.after
        start = page.mark(Event.number) if page.after else 0
        return StreamingResponse(_live(db, job_id, start, closing), media_type="text/event-stream")
    answer = page.read(session, select(Event).where(Event.job_id == job_id), Event.number, shapes.event)
    return {**answer, "next": answer["data"][-1]["id"] if answer["data"] else page.after}


def _before(session: Session, job_id: str, newest: int) -> str | None:
    """The cursor after which so many events follow; None when there are no more than that."""
    query = select(Event.number).where(Event.job_id == job_id).order_by(Event.number.desc()).offset(newest).limit(1)
    number = session.scalar(query)
    return None if number is None else f"evt_{number}"


async def _live(db: Database, job_id: str, after: int, closing: Closing) -> AsyncIterator[str]:
    while True:
        rows, ended = await run_in_threadpool(_events_after, db, job_id, after)
        for row in rows:
            after = row.number
            shaped = shapes.event(row)
            yield f"id: {shaped['id']}\nevent: {row.type}\ndata: {json.dumps(shaped)}\n\n"
        if (ended and not rows) or closing.begun:
            return
        if not rows:
            yield ": waiting\n\n"
            await asyncio.sleep(POLL_SECONDS)


def _events_after(db: Database, job_id: str, after: int) -> tuple[list[Event], bool]:
    with db.read() as session:
        ended = jobs.get(session, job_id).status in jobs.TERMINAL
        query = select(Event).where(Event.job_id == job_id, Event.number > after).order_by(Event.number).limit(500)
        return list(session.scalars(query)), ended


@router.get("/metrics", responses=answers(METRICS))
def metrics(
    job_id: str,
    session: Reading,
    names: Annotated[str | None, Query(description="comma-separated")] = None,
    max_points: Annotated[int, Query(ge=2, le=100_000)] = 1000,
) -> objects.Metrics:
    """Metric histories as [step, epoch, value, time]; longer ones are thinned evenly, first and last kept."""
    jobs.get(session, job_id)
    columns = (Metric.name, Metric.step, Metric.epoch, Metric.value, Metric.time)  # no objects: they may be 100,000
    query = select(*columns).where(Metric.job_id == job_id).order_by(Metric.name, Metric.step)
    if names:
        query = query.where(Metric.name.in_(names.split(",")))
    series: dict[str, list[Any]] = {}
    for name, *point in session.execute(query):
        series.setdefault(name, []).append(point)
    return {"series": [{"name": name, "points": _shown(points, max_points)} for name, points in series.items()]}


def _shown(points: list[Any], most: int) -> list[Any]:
    return [[step, epoch, value, rfc3339(time)] for step, epoch, value, time in _thin(points, most)]


def _thin(points: list[Any], most: int) -> list[Any]:
    if len(points) <= most:
        return points
    last = len(points) - 1
    return [points[round(k * last / (most - 1))] for k in range(most)]


@router.get("/checkpoints", responses=listed(CHECKPOINT))
def checkpoints(job_id: str, session: Reading) -> Listing[objects.Checkpoint]:
    """The checkpoints kept: the last and the best. A finished job keeps none; its model version is the result."""
    jobs.get(session, job_id)
    rows = session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step))
    return whole([shapes.checkpoint(row) for row in rows])


@router.get("/log", response_class=PlainTextResponse)
def log(job_id: str, session: Reading, settings: SettingsDep) -> PlainTextResponse:
    """What the job's processes printed: the last 256 KiB. A trial's is its search's."""
    job = jobs.get(session, job_id)
    path = settings.logs / f"{job.parent or job.id}.log"
    if not path.exists():
        raise NotFound("no_log", "this job has not printed anything", hint="a queued job has no log yet")
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 256 * 1024, 0))
        return PlainTextResponse(file.read().decode("utf-8", "replace"))
