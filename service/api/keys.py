"""`/v1/keys`: make, list and revoke API keys."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse
from pydantic import Field
from sqlalchemy import select

from service import keys
from service.api import objects, shapes
from service.api.context import Reading, Writing, require
from service.api.examples import API_KEY, NEW_KEY, answers, listed
from service.api.paging import Listing, PageDep
from service.db.tables import ApiKey
from service.layers import Strict

router = APIRouter(prefix="/v1/keys", tags=["keys"], dependencies=[Depends(require("admin"))])


class NewKey(Strict):
    name: Annotated[str, Field(min_length=1, max_length=100)]
    scopes: Annotated[list[Literal["predict", "data", "train", "admin"]], Field(min_length=1, max_length=4)]


@router.post("", status_code=201, responses=answers(NEW_KEY, 201, objects.ShownKey))
def create(body: NewKey, session: Writing) -> JSONResponse:
    """A new key. Its text is in this answer and nowhere else; never stored for a repeated request either."""
    row, key = keys.create(session, body.name, list(body.scopes))
    return JSONResponse({**shapes.api_key(row), "key": key}, 201, {"Location": f"/v1/keys/{row.id}"})


@router.get("", responses=listed(API_KEY))
def list_keys(session: Reading, page: PageDep) -> Listing[objects.ApiKey]:
    return page.read(session, select(ApiKey), ApiKey.id, shapes.api_key)


@router.delete("/{key_id}", status_code=204)
def revoke(key_id: str, session: Writing) -> Response:
    """The key stops working with the next request."""
    keys.revoke(session, key_id)
    return Response(status_code=204)
