"""`POST /v1/datasets/{d}/versions:from_predictions`: new training data of what was asked and kept."""

import hashlib
import os
from pathlib import Path
from typing import Literal

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import artifacts, disk
from service.api import importing, objects
from service.api.bodies import Received
from service.api.context import Answer, BodySha256, DatabaseDep, OnceDep, SettingsDep, require
from service.api.examples import GROWN, answers
from service.datasets import growth, versions
from service.db.tables import Dataset, Item
from service.errors import Conflict, InvalidValue
from service.ids import new_id
from service.layers import Strict
from service.settings import Settings

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], dependencies=[Depends(require("data"))])


class FromPredictions(Strict):
    take: growth.Take = Field("labelled", description="those with a truth; or unsure ones, by the model's guess")
    mode: Literal["add", "replace"] = Field("add", description="to the newest version's pictures, or alone")
    model: str | None = Field(None, max_length=200, description="only what this model was asked")
    max_probability: float = Field(0.6, ge=0, le=1, description="unsure: abstained, or no more probable than this")


class _Plan:
    """What the version will hold, read in one snapshot."""

    def __init__(self, session: Session, dataset: str, wanted: FromPredictions) -> None:
        self.dataset = versions.find_dataset(session, dataset)
        self.newest = versions.newest_number(session, self.dataset)
        adds = wanted.mode == "add" and self.newest > 0
        self.base = versions.find_ready(session, f"{self.dataset.name}@{self.newest}") if adds else None
        self.items = self._items(session)
        model_id = artifacts.find_model(session, wanted.model).id if wanted.model is not None else None
        found = growth.chosen(session, wanted.take, model_id, wanted.max_probability)
        self.added = growth.new_ones(session, self.base, found)
        self.found = len(found)

    def _items(self, session: Session) -> list[Item]:
        if self.base is None:
            return []
        return list(session.scalars(select(Item).where(Item.version_id == self.base.id).order_by(Item.ordinal)))


@router.post("/{dataset}/versions:from_predictions", status_code=202, responses=answers(GROWN, 202, objects.Grown))
def from_predictions(
    dataset: str, body: FromPredictions, db: DatabaseDep, settings: SettingsDep, once: OnceDep, body_sha256: BodySha256
) -> JSONResponse:
    """The dataset's next version: labelled predictions added to its newest, in train; val and test stay as they are.

    `added` counts them, `of` all there were: the dataset holds the others, or their class has no second picture.
    With `take: uncertain` the pictures to look at: filed under the model's guess, for a dataset of their own only.
    """
    if body.take == "uncertain" and body.mode == "add":
        raise InvalidValue(
            "guesses_in_training",
            "what the model guessed is no truth to train on",
            hint='"mode": "replace", in a dataset of their own, where they can be relabelled',
            param="/mode",
        )
    with db.read() as session:
        if stored := once.stored(session, body_sha256):
            return stored.response()
        plan = _Plan(session, dataset, body)

    def make(session: Session, received: Received) -> Answer:
        row: Dataset = versions.find_dataset(session, plan.dataset.id)
        if versions.newest_number(session, row) != plan.newest:
            raise Conflict("dataset_moved", "the dataset got another version meanwhile", hint="send it again")
        return importing.add_version(session, row, received, settings, added=len(plan.added), of=plan.found)

    received = _archive(plan, settings)
    try:
        return importing.commit(received, body_sha256, settings, db, once, make)
    finally:
        received.path.unlink(missing_ok=True)


def _archive(plan: _Plan, settings: Settings) -> Received:
    settings.uploads.mkdir(parents=True, exist_ok=True)
    old_bytes = plan.base.archive_bytes if plan.base else 0
    disk.check(settings, "another version", old_bytes)
    path = settings.uploads / new_id("up")
    try:
        with disk.written("another version"):
            growth.write(path, plan.base, plan.items, plan.added, settings)
            return _synced(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _synced(path: Path) -> Received:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        sha256 = hashlib.file_digest(file, "sha256")
    return Received(path, sha256.hexdigest(), path.stat().st_size)
