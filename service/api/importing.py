"""From an archive that was received, or made here, to a version that an import job fills."""

from collections.abc import Callable
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from service import files
from service.api import shapes
from service.api.bodies import Received, archive
from service.api.context import Answer, Once
from service.datasets import versions
from service.datasets.importer import read_layout
from service.db import Database
from service.db.tables import Dataset
from service.settings import Settings

Make = Callable[[Session, Received], Answer]


async def upload(request: Request, settings: Settings, db: Database, once: Once, make: Make) -> JSONResponse:
    received = await archive(request, settings)
    try:
        return await run_in_threadpool(commit, received, received.sha256, settings, db, once, make)
    finally:
        received.path.unlink(missing_ok=True)


def commit(
    received: Received, request_sha256: str, settings: Settings, db: Database, once: Once, make: Make
) -> JSONResponse:
    """What `make` answers, after a look at the archive: an unusable one is refused before anything is created."""
    read_layout(received.path, settings)
    with db.write() as session:
        answer: Answer = once.do(session, request_sha256, lambda: make(session, received))
    return answer.response()


def add_version(session: Session, dataset: Dataset, received: Received, settings: Settings, **more: Any) -> Answer:
    """The next version and its import job; the archive lies in its place before they are committed."""
    version, job = versions.add_version(session, dataset, received.sha256, received.bytes)
    files.put(received.path, versions.archive_path(settings, received.sha256))
    body = {"id": dataset.id, "name": dataset.name, "version": version.number, **more, "job": shapes.job(job)}
    return Answer(202, body, {"Location": f"/v1/jobs/{job.id}"})
