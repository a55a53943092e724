"""`POST /v1/datasets/{d}/versions/{n}:edit`: other labels and splits for single pictures, and some removed."""

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from service.api import objects, shapes
from service.api.context import Answer, BodySha256, DatabaseDep, OnceDep, require
from service.api.examples import EDITED, answers
from service.datasets import edits, versions
from service.layers import Strict

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], dependencies=[Depends(require("data"))])


class Edit(Strict):
    changes: edits.Changes


@router.post(
    "/{dataset}/versions/{number}:edit", status_code=201, responses=answers(EDITED, 201, objects.DatasetVersion)
)
def edit(
    dataset: str, number: int, body: Edit, db: DatabaseDep, once: OnceDep, body_sha256: BodySha256
) -> JSONResponse:
    """The dataset's next version: version `number` with these changes, ready at once. Version `number` stays as it is.

    `relabel` with `label` (or `labels`, of several), `move` with `split`, or `remove`; one change for each picture.
    """
    with db.read() as session:
        if stored := once.stored(session, body_sha256):
            return stored.response()
        found = versions.find_dataset(session, dataset)
        base = versions.ready(versions.find_version(session, found, number))
        planned = edits.plan(session, base, body.changes)

    def make(session: Session) -> Answer:
        row = versions.find_dataset(session, found.id)  # it may be gone meanwhile, with the version
        version = edits.write(session, row, planned)
        where = f"/v1/datasets/{row.name}/versions/{version.number}"
        return Answer(201, shapes.dataset_version(version), {"Location": where})

    with db.write() as session:
        answer = once.do(session, body_sha256, lambda: make(session))
    return answer.response()
