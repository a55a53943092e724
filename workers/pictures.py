"""A dataset version as arrays, for a job that trains on it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import select

from service.datasets import importer
from service.db.tables import DatasetVersion, Item, Job
from workers.context import Context
from workers.training.data import Split


@dataclass(frozen=True)
class Pictures:
    """A dataset version as arrays. `packed` is (N, S, S, 3) uint8, mapped from the cache."""

    packed: np.ndarray[Any, np.dtype[np.uint8]]
    labels: np.ndarray[Any, np.dtype[np.int64]]  # (N,) into classes
    images: list[str]  # SHA-256 of each picture file
    classes: list[str]
    rows: dict[str, np.ndarray[Any, np.dtype[np.int64]]]  # of each split

    def split(self, name: str, device: str) -> Split:
        rows = self.rows[name]
        return Split.of(self.packed, rows, self.labels[rows], device)


def load_pictures(context: Context, job: Job) -> Pictures:
    with context.database.read() as session:
        version = session.get_one(DatasetVersion, job.version_id)
        cache = importer.ensure_cache(session, version, job.spec["image_size"], context.settings)
        query = select(Item.label, Item.split, Item.image).where(Item.version_id == version.id).order_by(Item.ordinal)
        labels, splits, images = (list(column) for column in zip(*session.execute(query), strict=True))
    classes = [row["name"] for row in version.classes]
    number = {name: k for k, name in enumerate(classes)}
    return Pictures(
        packed=np.load(cache, mmap_mode="r", allow_pickle=False),
        labels=np.array([number[label] for label in labels], dtype=np.int64),
        images=images,
        classes=classes,
        rows={name: np.flatnonzero(np.array(splits) == name) for name in importer.SPLITS},
    )
