"""The archive of a dataset's next version: its own pictures where they were, and kept predictions as new ones.

Old pictures keep label and split, which a labels.csv at the top names; new ones go to train, so that versions trained
before and after are evaluated on the same test pictures. The archive is imported like any other. It knows no HTTP.
"""

import csv
import io
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from service import images, predictions
from service.datasets import versions
from service.datasets.layout import LABELS_FILE, MIN_PICTURES
from service.db.tables import DatasetVersion, Item, ModelVersion, Prediction, PredictionItem
from service.errors import Conflict
from service.labels import SEPARATOR, is_portable, joined, separate
from service.settings import Settings

Take = Literal["labelled", "uncertain"]


@dataclass(frozen=True)
class Picture:
    image: str  # SHA-256
    label: str


def chosen(session: Session, take: Take, model_id: str | None, max_probability: float) -> list[Picture]:
    """Kept pictures with their truth; or those without one that the model was unsure of, with its guess.

    A picture that was kept several times counts once, as it was labelled (or asked) last.
    """
    item = PredictionItem
    query = select(item).where(item.image.is_not(None))
    if model_id is not None:
        query = query.join(Prediction).join(ModelVersion).where(ModelVersion.model_id == model_id)
    if take == "labelled":
        query = query.where(item.truth.is_not(None)).order_by(item.labelled_at, item.prediction_id)
    else:
        unsure = or_(item.decision == "abstain", item.probability <= max_probability)
        query = query.where(and_(item.truth.is_(None), unsure)).order_by(item.prediction_id)
    found = {str(row.image): _guess(row) if row.truth is None else row.truth for row in session.scalars(query)}
    return [Picture(image, label) for image, label in sorted(found.items())]


def _guess(row: PredictionItem) -> str:
    names: list[str] = row.result["labels"]
    for name in names:
        _check_label(name)
    return joined(names)


def new_ones(session: Session, base: DatasetVersion | None, found: Sequence[Picture]) -> list[Picture]:
    """Those whose picture the version does not hold yet. Raises Conflict when there is none.

    A class of which there would be one picture waits for a second: its pictures are left out.
    """
    held = set(session.scalars(select(Item.image).where(Item.version_id == base.id))) if base else set()
    left = [one for one in found if one.image not in held]
    if base and not versions.several_labels(base) and any(SEPARATOR in one.label or not one.label for one in left):
        raise Conflict(
            "several_labels",
            "a picture of the dataset has one label, and kept predictions have several or none",
            hint='"model" restricts them to what one model was asked; "mode": "replace" takes them alone',
        )
    several = versions.several_labels(base) if base else any(SEPARATOR in one.label or not one.label for one in left)
    added = _without_lonely(base, left, several=several)
    if not added:
        alone = f", but {len(left)} whose class has no other picture" if left else ""
        raise Conflict(
            "nothing_to_add",
            f"of {len(found)} kept predictions that fit, none has a picture that the dataset lacks{alone}",
            hint="POST /v1/predictions/{id}/label says what a picture shows",
        )
    return added


def _without_lonely(base: DatasetVersion | None, left: list[Picture], *, several: bool) -> list[Picture]:
    """Leaving one out can leave another of its labels alone."""
    held = Counter({row["name"]: row["count"] for row in base.classes} if base else {})
    classes = {one: separate(one.label, several=several) for one in left}
    while True:
        counts = held + Counter(name for one in left for name in classes[one])
        kept = [one for one in left if all(counts[name] >= MIN_PICTURES for name in classes[one])]
        if len(kept) == len(left):
            return kept
        left = kept


def write(
    target: Path, base: DatasetVersion | None, base_items: Sequence[Item], added: Sequence[Picture], settings: Settings
) -> None:
    """Writes the zip, stored and with fixed times: the same pictures give the same bytes. Raises Conflict."""
    rows = [("path", "label", "split")]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for item in base_items:
            assert base is not None
            if not versions.several_labels(base):
                _check_label(item.label)
            path = _portable(item)
            archive.writestr(zipfile.ZipInfo(path), versions.picture_bytes(settings, base, item))
            rows.append((path, item.label, item.split))
        for path, data, label in _added(added, settings):
            archive.writestr(zipfile.ZipInfo(path), data)
            rows.append((path, label, "train"))
        archive.writestr(zipfile.ZipInfo(LABELS_FILE), _csv(rows))


def _added(added: Sequence[Picture], settings: Settings) -> Iterator[tuple[str, bytes, str]]:
    for one in added:
        data = predictions.picture_bytes(settings, one.image)
        suffix = (images.signature(data) or "tiff").lower()
        yield f"predictions/{one.image}.{suffix}", data, one.label


def _portable(item: Item) -> str:
    """Its path, if a labels.csv can name it; else its hash."""
    plain = item.path == item.path.strip() and not item.path.startswith("./")
    return item.path if plain else f"pictures/{item.image}.{item.path.rpartition('.')[2].strip()}"


def _check_label(label: str) -> None:
    if not is_portable(label):
        raise Conflict(
            "label_not_portable",
            f"the class {label!r} cannot be named in a {LABELS_FILE}",
            hint="upload the dataset with another name for that class, without ';' and spaces around it",
        )


def _csv(rows: Sequence[tuple[str, str, str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
