"""`/v1/models/{m}/aliases/{alias}/shadow`: a candidate sees a share of its pictures and never answers."""

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import aliases, artifacts, shadows
from service.api import objects, shapes
from service.api.context import Reading, Writing, require
from service.api.examples import SHADOW, answers
from service.api.registry import Alias, moves
from service.db.tables import Model, ModelVersion, Shadow
from service.layers import Strict

router = APIRouter(
    prefix="/v1/models/{model}/aliases/{alias}/shadow",
    tags=["models"],
    dependencies=[Depends(require("predict", "train"))],
)


class NewShadow(Strict):
    version: int = Field(ge=1, le=2**31, description="of this model: the candidate")
    share: float = Field(gt=0, le=1, description="of the alias's requests that the candidate sees too")


@router.put(
    "", dependencies=[moves], responses=answers(SHADOW, 200, objects.Shadow) | answers(SHADOW, 201, objects.Shadow)
)
def put_shadow(model: str, alias: Alias, body: NewShadow, session: Writing, request: Request) -> JSONResponse:
    """Start one. With the same version it changes the share and counts on; with another the counts begin anew."""
    row = artifacts.find_model(session, model)
    shadow, new = shadows.put(session, row, alias, body.version, body.share, request.state.caller.key_id)
    return JSONResponse(_shape(session, row, shadow), 201 if new else 200)


@router.get("", responses=answers(SHADOW))
def show_shadow(model: str, alias: Alias, session: Reading) -> objects.Shadow:
    """How often the candidate's first label differs from the answer, with a 95 % interval (Wilson); some seconds old.

    `active` is false once the alias has moved: the two versions are compared no more.
    """
    row = artifacts.find_model(session, model)
    return _shape(session, row, shadows.find(session, row, alias))


@router.delete("", status_code=204, dependencies=[moves])
def end_shadow(model: str, alias: Alias, session: Writing) -> Response:
    """End it and forget its counts."""
    row = artifacts.find_model(session, model)
    shadows.find(session, row, alias)
    shadows.end(session, row, alias)
    return Response(status_code=204)


def _shape(session: Session, model: Model, row: Shadow) -> objects.Shadow:
    both = select(ModelVersion.id, ModelVersion.number).where(ModelVersion.id.in_([row.candidate_id, row.against_id]))
    versions = {row.id: row.number for row in session.execute(both)}
    active = versions[row.against_id] == aliases.find(session, model, row.alias).version
    return shapes.shadow(model.name, row, versions, active, shadows.disagreements(session, row))
