"""What became of the pictures from one version of a dataset to another. A picture is its SHA-256, whatever its name."""

from collections.abc import Set
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.db.tables import DatasetVersion, Item

Json = dict[str, Any]


class Picture(NamedTuple):
    path: str
    label: str
    split: str


Pictures = dict[str, Picture]


def differences(session: Session, before: DatasetVersion, after: DatasetVersion, most: int) -> Json:
    """Counts, and of each kind the first `most` by name. Who changed label and split is both relabelled and moved.

    Of the same picture several times in one version the last counts.
    """
    old, new = _pictures(session, before), _pictures(session, after)
    both = old.keys() & new.keys()
    kinds = {
        "added": [_listed(image, new[image]) for image in new.keys() - old.keys()],
        "removed": [_listed(image, old[image]) for image in old.keys() - new.keys()],
        "relabelled": _changed(both, old, new, "label"),
        "moved": _changed(both, old, new, "split"),
    }
    found = {kind: sorted(rows, key=lambda row: str(row["path"])) for kind, rows in kinds.items()}
    return {
        "from": before.number,
        "to": after.number,
        "pictures": {"from": len(old), "to": len(new), "both": len(both)},
        "counts": {kind: len(rows) for kind, rows in found.items()},
        **{kind: rows[:most] for kind, rows in found.items()},
    }


def _pictures(session: Session, version: DatasetVersion) -> Pictures:
    columns = select(Item.image, Item.path, Item.label, Item.split)
    rows = session.execute(columns.where(Item.version_id == version.id).order_by(Item.ordinal))
    return {image: Picture(*rest) for image, *rest in rows}


def _listed(image: str, one: Picture) -> Json:
    return {"image": image, **one._asdict()}


def _changed(both: Set[str], old: Pictures, new: Pictures, what: str) -> list[Json]:
    pairs = ((image, getattr(old[image], what), getattr(new[image], what)) for image in both)
    return [
        {**_listed(image, new[image]), "from": before, "to": after} for image, before, after in pairs if before != after
    ]
