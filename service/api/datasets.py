"""`/v1/datasets`: upload archives of labelled pictures, and look at what became of them."""

import hashlib
import json
from typing import Annotated, Literal, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from service.api import importing, objects, shapes
from service.api.bodies import Received, media_type, small, zip_body
from service.api.context import Answer, DatabaseDep, Once, OnceDep, Reading, SettingsDep, require
from service.api.examples import DATASET, ITEM, PUSHED, VERSION, answers, listed
from service.api.paging import Listing, PageDep
from service.api.pictures import attachment
from service.api.problems import from_validation
from service.datasets import versions
from service.db import Database
from service.db.tables import Dataset, DatasetVersion, Item
from service.errors import BadRequest, NotFound
from service.layers import Strict
from service.spec import Name
from service.thumbnails import SIDE, thumbnail

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], dependencies=[Depends(require("data", "train"))])
writes = Depends(require("data"))


class NewDataset(Strict):
    name: Name
    upload: str | None = None


class FromUpload(Strict):
    upload: str


@router.post(
    "",
    status_code=202,
    dependencies=[writes],
    openapi_extra=zip_body(NewDataset),
    responses=answers(PUSHED, 202, objects.Pushed) | answers(DATASET, 201, objects.Dataset),
)
async def create(
    request: Request,
    db: DatabaseDep,
    settings: SettingsDep,
    once: OnceDep,
    name: Annotated[Name | None, Query(description="name of the new dataset, when a zip is the body")] = None,
) -> JSONResponse:
    """A new dataset. An import job fills its first version from the zip in the body, or from the `upload` that JSON
    names; with neither, it starts empty."""
    body = await small(request, settings) if media_type(request) == "application/json" else None
    wanted = None if body is None else _parsed(NewDataset, body)
    name = wanted.name if wanted else name
    if name is None:
        raise BadRequest("name_missing", "the dataset needs a name", hint="add ?name=flowers", param="name")

    def make(session: Session, received: Received) -> Answer:
        return importing.add_version(session, versions.create_dataset(session, name), received, settings)

    if body is None or wanted is None:
        return await importing.upload(request, settings, db, once, make)
    if wanted.upload is None:
        return await run_in_threadpool(_create_empty, db, once, name, body)
    return await run_in_threadpool(importing.take, wanted.upload, body, settings, db, once, make)


@router.post(
    "/{dataset}/versions",
    status_code=202,
    dependencies=[writes],
    openapi_extra=zip_body(FromUpload),
    responses=answers(PUSHED, 202, objects.Pushed),
)
async def add_version(
    dataset: str,
    request: Request,
    db: DatabaseDep,
    settings: SettingsDep,
    once: OnceDep,
    mode: Literal["replace"] = "replace",
) -> JSONResponse:
    """The dataset's next version, made of the zip in the body, or of the `upload` that JSON names."""

    def make(session: Session, received: Received) -> Answer:
        return importing.add_version(session, versions.find_dataset(session, dataset), received, settings)

    if media_type(request) == "application/json":
        body = await small(request, settings)
        wanted = _parsed(FromUpload, body).upload
        return await run_in_threadpool(importing.take, wanted, body, settings, db, once, make)
    return await importing.upload(request, settings, db, once, make)


Body = TypeVar("Body", bound=BaseModel)


def _parsed(kind: type[Body], body: bytes) -> Body:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        errors = [{**first, "loc": ("body", *first["loc"])} for first in error.errors()]
        readable = errors[0]["type"] != "json_invalid"
        raise from_validation(errors, json.loads(body) if readable else None) from error


def _create_empty(db: Database, once: Once, name: str, body: bytes) -> JSONResponse:
    def make(session: Session) -> Answer:
        dataset = versions.create_dataset(session, name)
        return Answer(201, shapes.dataset(dataset, 0), {"Location": f"/v1/datasets/{dataset.name}"})

    with db.write() as session:
        answer: Answer = once.do(session, hashlib.sha256(body).hexdigest(), lambda: make(session))
    return answer.response()


@router.get("", responses=listed(DATASET))
def list_datasets(session: Reading, page: PageDep) -> Listing[objects.Dataset]:
    return page.read(session, select(Dataset), Dataset.id, lambda row: _shape(session, row), newest_first=True)


@router.get("/{dataset}", responses=answers(DATASET))
def show(dataset: str, session: Reading) -> objects.Dataset:
    return _shape(session, versions.find_dataset(session, dataset))


def _shape(session: Session, row: Dataset) -> objects.Dataset:
    count = select(func.count()).select_from(DatasetVersion).where(DatasetVersion.dataset_id == row.id)
    return shapes.dataset(row, session.scalar(count) or 0)


@router.delete("/{dataset}", status_code=204, dependencies=[writes])
def delete(dataset: str, db: DatabaseDep, settings: SettingsDep) -> Response:
    """Removes the dataset, its versions and pictures. 409 while a job uses it; models trained from it stay."""
    versions.delete_dataset(db, settings, dataset)
    return Response(status_code=204)


@router.get("/{dataset}/versions", responses=listed(VERSION))
def list_versions(dataset: str, session: Reading, page: PageDep) -> Listing[objects.DatasetVersion]:
    mine = select(DatasetVersion).where(DatasetVersion.dataset_id == versions.find_dataset(session, dataset).id)
    return page.read(session, mine, DatasetVersion.number, shapes.dataset_version, newest_first=True)


@router.get("/{dataset}/versions/{number}", responses=answers(VERSION))
def show_version(dataset: str, number: int, session: Reading) -> objects.DatasetVersion:
    return shapes.dataset_version(_version(session, dataset, number))


def _version(session: Session, dataset: str, number: int) -> DatasetVersion:
    return versions.find_version(session, versions.find_dataset(session, dataset), number)


@router.get("/{dataset}/versions/{number}/items", responses=listed(ITEM))
def items(
    dataset: str,
    number: int,
    session: Reading,
    page: PageDep,
    label: str | None = None,
    split: Literal["train", "val", "test"] | None = None,
) -> Listing[objects.Item]:
    """The accepted pictures, in the order of the packed cache; of several labels, `?label=` is one of them."""
    version = _version(session, dataset, number)
    several = versions.several_labels(version)
    query = select(Item).where(Item.version_id == version.id)
    query = query if label is None else query.where(versions.has_label(label, several=several))
    query = query if split is None else query.where(Item.split == split)
    return page.read(session, query, Item.ordinal, lambda row: shapes.item(row, several_labels=several))


@router.get("/{dataset}/versions/{number}/items/{image}", response_class=Response)
def picture(dataset: str, number: int, image: str, session: Reading, settings: SettingsDep) -> Response:
    """The picture as it was uploaded, as an attachment that no browser runs."""
    version = _version(session, dataset, number)
    return attachment(versions.picture_bytes(settings, version, _item(session, version, image)))


@router.get("/{dataset}/versions/{number}/items/{image}/thumbnail", response_class=Response)
def small_picture(
    dataset: str, number: int, image: str, request: Request, session: Reading, settings: SettingsDep
) -> Response:
    """The picture with at most 128 px a side, JPEG or PNG. What a hash names never changes, so browsers may keep it."""
    version = _version(session, dataset, number)
    item = _item(session, version, image)
    headers = {"ETag": f'"{image}-{SIDE}"', "Cache-Control": "private, max-age=86400"}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    data = versions.picture_bytes(settings, version, item)
    body, kind = thumbnail(data, settings.max_image_pixels, request.app.state.decoding.room_for)
    return Response(body, media_type=kind, headers=headers)


def _item(session: Session, version: DatasetVersion, image: str) -> Item:
    item = session.scalar(select(Item).where(Item.version_id == version.id, Item.image == image).limit(1))
    if item is None:
        raise NotFound("image_not_found", "this version has no such picture", hint="images are named by SHA-256")
    return item
