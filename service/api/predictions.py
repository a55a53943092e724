"""`/v1/predictions`: answers that were asked to be kept. Look them up, run them again, say what is true."""

import unicodedata
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AfterValidator, Field, model_validator
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from service import artifacts, predictions
from service.api import objects, shapes
from service.api.answering import AnsweringDep, Target
from service.api.context import DatabaseDep, Once, Reading, SettingsDep, Writing, require
from service.api.examples import PREDICTION, REPLAY, answers, listed
from service.api.paging import Listing, PageDep
from service.api.pictures import attachment
from service.api.results import Wanted
from service.db import Database
from service.db.tables import Model, ModelVersion, Prediction, PredictionItem
from service.errors import InvalidValue
from service.inference.score import several
from service.labels import MAX_CHARACTERS, SEPARATOR, is_portable, joined, name_fault
from service.layers import Strict

router = APIRouter(prefix="/v1/predictions", tags=["predictions"])
browses = Depends(require("data"))
knows_id = Depends(require("predict", "data"))  # who asked was told the id, which cannot be guessed

Json = dict[str, Any]


def _class_name(text: str) -> str:
    """As a labels.csv would have it: so that a dataset can be made of it."""
    name = unicodedata.normalize("NFC", text.strip())
    why = name_fault(name) or (None if is_portable(name) else f"has {SEPARATOR!r} in it")
    if why is not None:
        raise ValueError(f"no class can be named so: it {why}")
    return name


ClassName = Annotated[
    str,
    Field(max_length=MAX_CHARACTERS, json_schema_extra={"pattern": r"^[^;]*[^\s;][^;]*$"}),
    AfterValidator(_class_name),
]


class Truth(Strict):
    label: ClassName | None = Field(None, description="a class of the model or a new one; null takes it back")
    labels: Annotated[list[ClassName], Field(max_length=1000)] | None = Field(
        None, description="instead, where a picture may have several labels or none"
    )
    index: int | None = Field(None, ge=0, le=2**31, description="which picture, from 0, where there are several")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if len({"label", "labels"} & self.model_fields_set) != 1:
            raise ValueError("either label or labels is needed")
        return self

    def text(self, version: ModelVersion) -> str | None:
        """As a labels.csv has it. Raises InvalidValue for several labels where a model gives one."""
        if self.labels is None:
            return self.label
        if not several(version.card):
            raise InvalidValue("one_label", "this model gives a picture one label", hint="send label", param="/labels")
        return joined(self.labels)


@router.get("", dependencies=[browses], responses=listed(PREDICTION))
def list_predictions(
    session: Reading,
    page: PageDep,
    model: str | None = None,
    version: Annotated[int | None, Query(ge=1, le=2**31)] = None,
    label: Annotated[str | None, Query(description="as predicted")] = None,
    decision: Literal["accept", "abstain"] | None = None,
    labelled: Annotated[bool | None, Query(description="whether the truth is known")] = None,
    max_probability: Annotated[float | None, Query(ge=0, le=1, description="of the predicted label")] = None,
) -> Listing[objects.Prediction]:
    """Newest first; those with a picture of which all the filters hold."""
    query = predictions.matching(
        model_id=artifacts.find_model(session, model).id if model is not None else None,
        version=version,
        label=label,
        decision=decision,
        labelled=labelled,
        max_probability=max_probability,
    )
    return page.read(session, query, Prediction.id, lambda row: _shape(session, row), newest_first=True)


@router.get("/{prediction}", dependencies=[knows_id], responses=answers(PREDICTION))
def show(prediction: str, session: Reading) -> objects.Prediction:
    return _shape(session, predictions.find(session, prediction))


@router.get("/{prediction}/image", dependencies=[knows_id], response_class=Response)
def picture(
    prediction: str, session: Reading, settings: SettingsDep, index: Annotated[int | None, Query(ge=0)] = None
) -> Response:
    """The picture as it was sent, as an attachment that no browser runs."""
    row = predictions.item(session, predictions.find(session, prediction), index)
    return attachment(predictions.picture_bytes(settings, str(row.image)))


@router.post("/{prediction}/label", dependencies=[knows_id], responses=answers(PREDICTION))
def label(prediction: str, body: Truth, session: Writing) -> objects.Prediction:
    """Say what a picture shows: a class of the model, or one that it should have. Repeating replaces."""
    row = predictions.find(session, prediction)
    truth = body.text(session.get_one(ModelVersion, row.version_id))
    predictions.set_truth(session, row, predictions.item(session, row, body.index), truth)
    return _shape(session, row)


@router.post("/{prediction}:replay", dependencies=[knows_id], responses=answers(REPLAY))
async def replay(
    prediction: str, request: Request, db: DatabaseDep, settings: SettingsDep, answering: AnsweringDep
) -> objects.Replay:
    """The same pictures to the same model version with the same parameters; what is answered differently, by field.

    The sixth decimal may depend on the batch in which a picture was scored.
    """
    kept = await run_in_threadpool(_kept, db, prediction)
    shown = [one for one in kept.items if one.image is not None]
    data = [await run_in_threadpool(predictions.picture_bytes, settings, str(one.image)) for one in shown]
    wanted = Wanted(**kept.row.parameters, explain=None)
    answered = await answering.ask(request, Target(kept.model, kept.version), data)
    rows = answered.results(kept.version.card, wanted)
    again = {one.position: {"filename": one.result["filename"], **row} for one, row in zip(shown, rows, strict=True)}
    results = [again.get(one.position, one.result) for one in kept.items]
    differences = [found for one in kept.items for found in _differences(one, results[one.position])]
    return {
        "object": "replay",
        "prediction": prediction,
        "model": shapes.model_block(kept.model, kept.version),
        "equal": not differences,
        "differences": differences,
        "results": results,
    }


@router.delete("/{prediction}", status_code=204, dependencies=[browses])
def delete(prediction: str, db: DatabaseDep, settings: SettingsDep) -> Response:
    """Removes the answer, and its pictures where no other names them."""
    with db.write() as session:
        found = predictions.find(session, prediction).id
        images = predictions.remove(session, [found])
        Once.forget(session, found)
    predictions.remove_unnamed(db, settings, images)
    return Response(status_code=204)


class _Kept:
    def __init__(self, session: Session, row: Prediction) -> None:
        self.row = row
        self.items = predictions.items(session, row)
        self.version = session.get_one(ModelVersion, row.version_id)
        self.model = session.get_one(Model, self.version.model_id)


def _kept(db: Database, prediction: str) -> _Kept:
    with db.read() as session:
        return _Kept(session, predictions.find(session, prediction))


def _shape(session: Session, row: Prediction) -> objects.Prediction:
    kept = _Kept(session, row)
    return shapes.prediction(kept.model, kept.version, row, kept.items)


def _differences(before: PredictionItem, after: Json) -> list[objects.Difference]:
    return [
        {"index": before.position, "field": field, "before": was, "after": after[field]}
        for field, was in before.result.items()
        if after[field] != was
    ]
