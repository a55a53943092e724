"""`GET /v1/models/{ref}/bundle`, the export jobs that make bundles, and `…/versions:import`, which takes them."""

import mmap
from itertools import chain
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from service import artifacts, bundles, jobs
from service.api import bodies, objects, shapes
from service.api.bodies import Received
from service.api.context import Answer, DatabaseDep, Once, OnceDep, Reading, SettingsDep, require
from service.api.examples import IMPORT_MODEL_JOB, answers
from service.db import Database
from service.db.tables import Bundle, Job
from service.errors import Conflict
from service.settings import Settings
from service.spec import ExportRequest, Name

router = APIRouter(prefix="/v1/models", tags=["models"], dependencies=[Depends(require("train"))])


@router.get(
    "/{ref}/bundle",
    response_class=Response,
    responses={200: {"content": {"application/zip": {}}}, 304: {"description": "as If-None-Match has it"}},
)
def bundle(ref: str, request: Request, session: Reading, db: DatabaseDep) -> Response:
    """The model version as one zip: ONNX, card, golden pictures, and a `verify.py` that needs nothing of Fovea.

    404 until an `export` job has made it. The ETag is the zip's SHA-256.
    """
    blob = artifacts.bundle(session, ref)
    headers = {
        "ETag": f'"{blob.sha256}"',
        "Content-Disposition": "attachment; filename=bundle.zip",
        "Content-Length": str(blob.bytes),
    }
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={"ETag": headers["ETag"]})
    pieces = artifacts.pieces(db, blob)
    first = next(pieces)  # what is corrupt in it is told by a status
    return StreamingResponse(chain([first], pieces), media_type="application/zip", headers=headers)


@router.post(
    "/{model}/versions:import",
    status_code=202,
    responses=answers(IMPORT_MODEL_JOB, 202, objects.Job),
    openapi_extra=bodies.zip_body(),
)
async def import_bundle(
    model: Annotated[Name, Path(description="which is made if it does not exist")],
    request: Request,
    settings: SettingsDep,
    db: DatabaseDep,
    once: OnceDep,
) -> JSONResponse:
    """Take a bundle of any Fovea as the next version of a model: raw `application/zip`, or multipart field `file`.

    The job registers it when its network, run apart, answers the bundle's golden pictures as they were answered.
    None of the code in it is run. A refused bundle leaves nothing; the job's error says why.
    """
    limited = settings.model_copy(update={"max_upload_bytes": settings.max_bundle_bytes})
    received = await bodies.archive(request, limited)
    try:
        return await run_in_threadpool(_take, received, model, settings, db, once)
    finally:
        received.path.unlink(missing_ok=True)


def _take(received: Received, model: str, settings: Settings, db: Database, once: Once) -> JSONResponse:
    bundles.entries(received.path, settings)  # what is no bundle is refused before anything is created
    with db.read() as session:
        if stored := once.stored(session, received.sha256):
            return stored.response()
    with received.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        blob = artifacts.write_chunks(db, whole)

    def make() -> Answer:
        session.add(blob)
        session.flush()
        spec = {"blob_id": blob.id, "sha256": blob.sha256, "bytes": blob.bytes}
        job = jobs.submit(session, "import_model", spec=spec, model=model)
        return Answer(202, shapes.job(job), {"Location": f"/v1/jobs/{job.id}"})

    with db.write() as session:
        answer: Answer = once.do(session, received.sha256, make)
    return answer.response()


def create(session: Session, body: ExportRequest) -> Answer:
    """The export job; the one that is making the bundle already, if there is one. Raises Conflict when it is made."""
    model, version = artifacts.find_version(session, body.model)
    name = f"{model.name}:{version.number}"
    if made_of := version.card["lineage"].get("quantised_from"):
        hint = f"take the bundle of {made_of['model']}, of which it was made"
        raise Conflict("no_bundle_of_int8", f"{name} is in eight bits, for the engines here", hint=hint)
    if session.get(Bundle, version.id) is not None:
        raise Conflict("bundle_exists", f"{name} has its bundle", hint=f"GET /v1/models/{name}/bundle")
    spec = {"model": name, "version_id": version.id}
    open_ones = session.scalars(select(Job).where(Job.type == "export", Job.status.not_in(jobs.TERMINAL)))
    job = next((one for one in open_ones if one.spec == spec), None)
    job = job or jobs.submit(session, "export", spec=spec, model=model.name)
    return Answer(202, shapes.job(job), {"Location": f"/v1/jobs/{job.id}"})
