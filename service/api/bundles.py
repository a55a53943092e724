"""`GET /v1/models/{ref}/bundle`, and the export jobs that make bundles."""

from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import artifacts, jobs
from service.api import shapes
from service.api.context import Answer, Reading, require
from service.db.tables import Bundle, Job
from service.errors import Conflict
from service.spec import ExportRequest

router = APIRouter(prefix="/v1/models", tags=["models"], dependencies=[Depends(require("predict", "train"))])


@router.get("/{ref}/bundle", response_class=Response, responses={200: {"content": {"application/zip": {}}}})
def bundle(ref: str, request: Request, session: Reading) -> Response:
    """The model version as one zip: ONNX, card, golden pictures, and a `verify.py` that needs nothing of Fovea.

    404 until an `export` job has made it. The ETag is the zip's SHA-256.
    """
    blob = artifacts.bundle(session, ref)
    headers = {"ETag": f'"{blob.sha256}"', "Content-Disposition": "attachment; filename=bundle.zip"}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(artifacts.read_blob(session, blob.id), media_type="application/zip", headers=headers)


def create(session: Session, body: ExportRequest) -> Answer:
    """The export job; the one that is making the bundle already, if there is one. Raises Conflict when it is made."""
    model, version = artifacts.find_version(session, body.model)
    name = f"{model.name}:{version.number}"
    if session.get(Bundle, version.id) is not None:
        raise Conflict("bundle_exists", f"{name} has its bundle", hint=f"GET /v1/models/{name}/bundle")
    spec = {"model": name, "version_id": version.id}
    open_ones = session.scalars(select(Job).where(Job.type == "export", Job.status.not_in(jobs.TERMINAL)))
    job = next((one for one in open_ones if one.spec == spec), None)
    job = job or jobs.submit(session, "export", spec=spec, model=model.name)
    return Answer(202, shapes.job(job), {"Location": f"/v1/jobs/{job.id}"})
