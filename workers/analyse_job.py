"""An analyse job: looks for pictures of a dataset version whose label is probably wrong, and keeps their ranked list.

It is a matter of seconds to minutes: one that was interrupted starts again, and nothing is seen before all is found.
"""

import hashlib
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sqlalchemy import select

from service import jobs
from service.datasets import duplicates, suspects
from service.datasets.decoder import dhash
from service.db.tables import Item, Job
from service.labels import separate
from workers.analysis import crossfit, patches
from workers.analysis.suspects import ORDER, Labelled, Suspect, find
from workers.context import Context
from workers.opinion import Opinion
from workers.pictures import Pictures, load_pictures
from workers.progress import Progress


class Row(NamedTuple):
    image: str
    path: str
    label: str
    split: str


def run(context: Context, job: Job) -> None:
    torch.set_num_threads(context.settings.training_threads)
    pictures = load_pictures(context, job)
    with context.database.read() as session:
        columns = select(Item.image, Item.path, Item.label, Item.split).where(Item.version_id == job.version_id)
        rows = [Row(*row) for row in session.execute(columns.order_by(Item.ordinal))]
    folds = job.spec["folds"]
    step = _Steps(context, 2 * len(rows), folds)
    features = patches.features(pictures.packed, job.seed, step.picture)
    groups = _alike(pictures, step)
    marks = _marks(pictures)
    together = np.array(duplicates.group_ids(len(rows), groups))
    names = np.unique([row.label for row in rows], return_inverse=True)[1]
    fold = crossfit.assign(names, together, folds, job.seed)
    answers = crossfit.answer(features, marks, fold, step.fold, several=pictures.several)
    if job.spec["model"] is not None:
        answers = Opinion(context, job, pictures, together).added(answers)
    given = Labelled(pictures.images, [row.label for row in rows], pictures.classes, marks, pictures.several)
    found = find(given, answers, groups)
    summary = {
        "pictures": len(rows),
        "folds": folds,
        "agreement": _agreement(given, answers.probabilities),
        "suspects": _counts(found),
    }
    _keep(context, job, summary, [_shape(rows[one.row], one, several=pictures.several) for one in found])


class _Steps:
    """The job's progress: pictures looked at, twice, then folds twice, each as much as its share of the pictures."""

    def __init__(self, context: Context, pictures: int, folds: int) -> None:
        self._progress = Progress(context)
        self._looked, self._each = 0, max(pictures // (2 * folds), 1)
        self._total = pictures + 2 * folds * self._each
        self._pictures = pictures

    def picture(self, done: int) -> None:
        self._tell(done)

    def alike(self, done: int) -> None:
        self._tell(self._pictures // 2 + done)

    def fold(self, number: int) -> None:
        self._tell(self._pictures + (number + 1) * self._each)

    def _tell(self, done: int) -> None:
        self._progress.tell(done, self._total)


def _alike(pictures: Pictures, step: _Steps) -> list[duplicates.Group]:
    """Of the packed pixels, as the import finds them; its report is cut, and an edit may have changed the rows."""
    hashes, differences = [], []
    for number, pixels in enumerate(pictures.packed):
        hashes.append(hashlib.sha256(pixels.tobytes()).hexdigest())
        differences.append(dhash(pixels))
        if number % 256 == 0:
            step.alike(number)
    return duplicates.find(pictures.images, hashes, differences, pictures.packed)


def _marks(pictures: Pictures) -> NDArray[np.float32]:
    """(N, K) zeros and ones."""
    if pictures.several:
        return np.asarray(pictures.labels, np.float32)
    rows: NDArray[np.float32] = np.eye(len(pictures.classes), dtype=np.float32)[pictures.labels]
    return rows


def _agreement(given: Labelled, probabilities: NDArray[np.float64]) -> float:
    """The share of pictures whose labels the out-of-sample answers give too."""
    known = np.nan_to_num(probabilities, nan=0.0)
    if given.several:
        return float(((known >= 0.5) == (given.marks > 0)).all(1).mean())
    return float((known.argmax(1) == given.marks.argmax(1)).mean())


def _counts(found: list[Suspect]) -> dict[str, int]:
    counts = Counter(one.reason for one in found)
    return {reason: counts[reason] for reason in ORDER}


def _shape(row: Row, one: Suspect, *, several: bool) -> dict[str, Any]:
    return {
        **row._asdict(),
        "labels": separate(row.label, several=several),
        "reason": one.reason,
        "message": one.message,
        "suggested": one.suggested,
        "suggested_labels": None if one.suggested is None else separate(one.suggested, several=several),
        "self_confidence": one.self_confidence,
        "suggested_probability": one.suggested_probability,
        "alike": list(one.alike),
    }


def _keep(context: Context, job: Job, summary: dict[str, Any], found: list[dict[str, Any]]) -> None:
    with context.database.write() as session:
        jobs.fenced(session, context.hold)
        analysis = suspects.keep(session, str(job.version_id), job.spec["model_version_id"], job.id, summary, found)
        jobs.succeed(session, context.hold, {"analysis": analysis.id, **summary})
