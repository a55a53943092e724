"""From an archive that was received, or made here, to a version that an import job fills."""

import hashlib
from collections.abc import Callable
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from service import files, jobs, uploads
from service.api import shapes
from service.api.bodies import Received, archive
from service.api.context import Answer, Once
from service.datasets import versions
from service.datasets.importer import read_layout
from service.db import Database
from service.db.tables import Dataset, Upload
from service.errors import InvalidValue
from service.settings import Settings

Make = Callable[[Session, Received], Answer]


async def upload(request: Request, settings: Settings, db: Database, once: Once, make: Make) -> JSONResponse:
    received = await archive(request, settings)
    try:
        return await run_in_threadpool(commit, received, received.sha256, settings, db, once, make)
    finally:
        received.path.unlink(missing_ok=True)


def take(upload_id: str, body: bytes, settings: Settings, db: Database, once: Once, make: Make) -> JSONResponse:
    """The same with a finished upload, which goes with the transaction that makes the version."""
    given = hashlib.sha256(body).hexdigest()
    with db.read() as session:
        waiting = session.get(Upload, upload_id)
    if waiting is None:
        return _answered_before(upload_id, given, db, once)
    with uploads.opened(settings, waiting) as file:
        with db.read() as session:
            uploads.finished(uploads.find(session, upload_id))
        received = Received(uploads.path_of(settings, upload_id), uploads.sha256_of(file), waiting.bytes)

        def consume(session: Session, received: Received) -> Answer:
            session.delete(uploads.find(session, upload_id))
            return make(session, received)

        answer = commit(received, given, settings, db, once, consume)
        received.path.unlink(missing_ok=True)
    return answer


def _answered_before(upload_id: str, given: str, db: Database, once: Once) -> JSONResponse:
    """Of an upload that is gone, only the answer to a repeated request is left. Raises InvalidValue without one."""

    def make() -> Answer:
        raise InvalidValue("upload_not_found", f"there is no upload {upload_id!r}", hint="begin one", param="/upload")

    with db.write() as session:
        answer: Answer = once.do(session, given, make)
    return answer.response()


def commit(
    received: Received, request_sha256: str, settings: Settings, db: Database, once: Once, make: Make
) -> JSONResponse:
    """What `make` answers, after a look at the archive: an unusable one is refused before anything is created.

    A damaged archive that should be the same is replaced by it, for all versions made of it.
    """
    read_layout(received.path, settings)
    files.mend(received.path, versions.archive_path(settings, received.sha256), received.sha256)
    with db.write() as session:
        answer: Answer = once.do(session, request_sha256, lambda: make(session, received))
    return answer.response()


def add_version(session: Session, dataset: Dataset, received: Received, settings: Settings, **more: Any) -> Answer:
    """The next version and its import job; the archive lies in its place before they are committed."""
    jobs.check_queue(session, settings.max_queued_jobs)
    version, job = versions.add_version(session, dataset, received.sha256, received.bytes)
    files.put(received.path, versions.archive_path(settings, received.sha256))
    body = {"id": dataset.id, "name": dataset.name, "version": version.number, **more, "job": shapes.job(job)}
    return Answer(202, body, {"Location": f"/v1/jobs/{job.id}"})
