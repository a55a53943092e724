"""A dataset version as arrays, for a job that trains on it or asks a model about it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import select

from service.datasets import importer, versions
from service.datasets.contents import SPLITS
from service.db.tables import DatasetVersion, Item, Job
from service.labels import separate
from workers.context import Context
from workers.training.data import Split


@dataclass(frozen=True)
class Pictures:
    """A dataset version as arrays. `packed` is (N, S, S, 3) uint8, mapped from the cache."""

    packed: np.ndarray[Any, np.dtype[np.uint8]]
    labels: np.ndarray[Any, Any]  # (N,) int64 into classes, or (N, K) float32 of zeros and ones
    images: list[str]  # SHA-256 of each picture file
    classes: list[str]
    rows: dict[str, np.ndarray[Any, np.dtype[np.int64]]]  # of each split

    @property
    def several(self) -> bool:
        """May a picture have several labels, or none?"""
        return self.labels.ndim == 2

    def split(self, name: str, device: str) -> Split:
        rows = self.rows[name]
        return Split.of(self.packed, rows, self.labels[rows], device)


def load_pictures(context: Context, job: Job) -> Pictures:
    """Those of the job's dataset version, at the size that its spec names."""
    return pictures_of(context, str(job.version_id), job.spec["image_size"])


def pictures_of(
    context: Context,
    version_id: str,
    image_size: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Pictures:
    """Those of a ready dataset version. `on_progress(done, total)` is told of what must be decoded for it."""
    with context.database.read() as session:
        version = session.get_one(DatasetVersion, version_id)
        cache = importer.ensure_cache(session, version, image_size, context.settings, on_progress, context.warn)
        query = select(Item.label, Item.split, Item.image).where(Item.version_id == version.id).order_by(Item.ordinal)
        labels, splits, images = (list(column) for column in zip(*session.execute(query), strict=True))
    classes = [row["name"] for row in version.classes]
    return Pictures(
        packed=np.load(cache, mmap_mode="r", allow_pickle=False),
        labels=_encoded(labels, classes, several=versions.several_labels(version)),
        images=images,
        classes=classes,
        rows={name: np.flatnonzero(np.array(splits) == name) for name in SPLITS},
    )


def _encoded(labels: list[str], classes: list[str], *, several: bool) -> np.ndarray[Any, Any]:
    number = {name: k for k, name in enumerate(classes)}
    if not several:
        return np.array([number[label] for label in labels], dtype=np.int64)
    marks = np.zeros((len(labels), len(classes)), dtype=np.float32)
    for row, label in enumerate(labels):
        marks[row, [number[name] for name in separate(label, several=True)]] = 1
    return marks
