"""Kept predictions: what was answered as rows, the pictures as files named by their SHA-256, and the truth once known.

A picture lies in its place before the row that names it is committed, and is removed only under the writer lock, once
no row names it; so a row never misses its picture. It knows nothing of HTTP and runs no model.
"""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from service import disk, files
from service.db import Database
from service.db.tables import ModelVersion, Prediction, PredictionItem
from service.errors import InsufficientStorage, InternalError, InvalidValue, NotFound
from service.ids import now
from service.settings import Settings

AT_A_TIME = 500  # rows or names in one statement

Json = dict[str, Any]


@dataclass(frozen=True)
class Shown:
    """One picture of a request and what was answered of it; `data` is None when it was no picture."""

    data: bytes | None
    result: Json


def keep(
    db: Database,
    settings: Settings,
    prediction: Prediction,
    shown: Sequence[Shown],
    first: Callable[[Session], None] = lambda session: None,
) -> None:
    """Writes the pictures and the rows, all or nothing; the oldest without a truth make room.

    `first` is called at the beginning of the transaction, and may raise so that nothing is kept.

    Raises InsufficientStorage when the disk is too full, or what is labelled fills the limits alone.
    """
    pictures = {_sha256(one.data): one.data for one in shown if one.data is not None}
    prediction.pictures = sum(one.data is not None for one in shown)
    prediction.bytes = sum(len(data) for data in pictures.values())
    disk.check(settings, "kept pictures")
    aside: dict[str, Path] = {}
    try:
        for sha256, data in pictures.items():
            aside[sha256] = files.write_aside(settings.uploads, data)
            files.mend(aside[sha256], picture_path(settings, sha256), sha256)
        with db.write() as session:
            first(session)
            dropped = _make_room(session, settings, prediction)
            for sha256, path in aside.items():
                files.put(path, picture_path(settings, sha256))
            session.add(prediction)
            session.flush()
            session.add_all(_item(prediction.id, place, one) for place, one in enumerate(shown))
    finally:
        for path in aside.values():
            path.unlink(missing_ok=True)
    remove_unnamed(db, settings, dropped)


def find(session: Session, prediction_id: str) -> Prediction:
    """Raises NotFound."""
    row = session.get(Prediction, prediction_id)
    if row is None:
        hint = "only answers asked with ?store=true are kept; GET /v1/predictions lists them"
        raise NotFound("prediction_not_found", f"there is no prediction {prediction_id!r}", hint=hint)
    return row


def items(session: Session, prediction: Prediction) -> list[PredictionItem]:
    mine = select(PredictionItem).where(PredictionItem.prediction_id == prediction.id)
    return list(session.scalars(mine.order_by(PredictionItem.position)))


def item(session: Session, prediction: Prediction, index: int | None) -> PredictionItem:
    """The picture with this index, from 0; the only one without. Raises InvalidValue or NotFound."""
    found = items(session, prediction)
    if index is None and len(found) > 1:
        raise InvalidValue(
            "index_missing", f"the prediction has {len(found)} pictures", hint="say which: index, from 0", param="index"
        )
    chosen = next((one for one in found if one.position == (index or 0)), None)
    if chosen is None or chosen.image is None:
        what = "nothing" if chosen is None else "no picture: what was sent could not be decoded"
        raise NotFound("image_not_found", f"there is {what} at index {index or 0}", param="index")
    return chosen


def matching(
    *,
    model_id: str | None = None,
    version: int | None = None,
    label: str | None = None,
    decision: str | None = None,
    labelled: bool | None = None,
    max_probability: float | None = None,
) -> Select[Any]:
    """Predictions with a picture of which all of this holds."""
    query = select(Prediction)
    if model_id is not None or version is not None:
        query = query.join(ModelVersion, ModelVersion.id == Prediction.version_id)
        query = query if model_id is None else query.where(ModelVersion.model_id == model_id)
        query = query if version is None else query.where(ModelVersion.number == version)
    wanted = [PredictionItem.prediction_id == Prediction.id]
    if label is not None:
        wanted.append(PredictionItem.label == label)
    if decision is not None:
        wanted.append(PredictionItem.decision == decision)
    if labelled is not None:
        wanted.append(PredictionItem.truth.is_not(None) if labelled else PredictionItem.truth.is_(None))
    if max_probability is not None:
        wanted.append(PredictionItem.probability <= max_probability)
    return query.where(select(PredictionItem.position).where(*wanted).exists()) if len(wanted) > 1 else query


def set_truth(session: Session, prediction: Prediction, row: PredictionItem, label: str | None) -> None:
    """What the picture shows; None takes it back."""
    row.truth, row.labelled_at = label, None if label is None else now()
    session.flush()
    prediction.labelled = any(one.truth is not None for one in items(session, prediction))


def remove(session: Session, ids: Collection[str]) -> set[str]:
    """Removes rows; the pictures that they named, for `remove_unnamed` after the commit."""
    mine = PredictionItem.prediction_id.in_(ids)
    images = set(session.scalars(select(PredictionItem.image).where(mine, PredictionItem.image.is_not(None))))
    session.execute(delete(PredictionItem).where(mine))
    session.execute(delete(Prediction).where(Prediction.id.in_(ids)))
    return {image for image in images if image is not None}


def remove_unnamed(db: Database, settings: Settings, images: Collection[str]) -> None:
    """Removes the files of these pictures that no row names. Who keeps one meanwhile waits for the writer lock."""
    left = sorted(images)
    for start in range(0, len(left), AT_A_TIME):
        some = left[start : start + AT_A_TIME]
        with db.write(durable=False) as session:
            named = set(session.scalars(select(PredictionItem.image).where(PredictionItem.image.in_(some))))
            for sha256 in set(some) - named:
                picture_path(settings, sha256).unlink(missing_ok=True)


def sweep(db: Database, settings: Settings) -> None:
    """Removes pictures whose rows were never committed, or are gone, left by a process that died."""
    remove_unnamed(db, settings, [path.name for path in settings.predictions.glob("*/*")])


def picture_path(settings: Settings, sha256: str) -> Path:
    return settings.predictions / sha256[:2] / sha256


def picture_bytes(settings: Settings, sha256: str) -> bytes:
    """The picture as it was sent. Raises NotFound when its prediction was removed meanwhile."""
    try:
        data = picture_path(settings, sha256).read_bytes()
    except FileNotFoundError as error:
        raise NotFound("image_not_found", "the picture was removed") from error
    if _sha256(data) != sha256:
        raise InternalError("picture_corrupt", f"the kept picture {sha256} does not match its SHA-256")
    return data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _item(prediction_id: str, place: int, one: Shown) -> PredictionItem:
    return PredictionItem(
        prediction_id=prediction_id,
        position=place,
        image=None if one.data is None else _sha256(one.data),
        label=one.result["label"],
        probability=one.result["probability"],
        decision=one.result["decision"],
        result=one.result,
    )


def _make_room(session: Session, settings: Settings, coming: Prediction) -> set[str]:
    """Drops the oldest predictions without a truth until the limits hold; the pictures that these named."""
    totals = session.execute(select(func.sum(Prediction.pictures), func.sum(Prediction.bytes))).one()
    pictures = (totals[0] or 0) + coming.pictures - settings.max_predictions
    size = (totals[1] or 0) + coming.bytes - settings.max_prediction_bytes
    dropped: list[str] = []
    columns = select(Prediction.id, Prediction.pictures, Prediction.bytes)
    oldest = (
        session.execute(columns.where(~Prediction.labelled).order_by(Prediction.id)) if max(pictures, size) > 0 else ()
    )
    for row in oldest:
        if pictures <= 0 and size <= 0:
            break
        dropped.append(row.id)
        pictures -= row.pictures
        size -= row.bytes
    if pictures > 0 or size > 0:
        raise InsufficientStorage(
            "predictions_full",
            "labelled predictions fill the limit",
            hint="make a dataset version of them and delete them, or raise FOVEA_MAX_PREDICTIONS or …_PREDICTION_BYTES",
        )
    images: set[str] = set()
    for start in range(0, len(dropped), AT_A_TIME):
        images |= remove(session, dropped[start : start + AT_A_TIME])
    return images
