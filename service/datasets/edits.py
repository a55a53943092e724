"""A dataset's next version by changes to single pictures: another label, another split, or gone.

Only rows differ, so the new version shares the archive of the one it is made from, and its packed pixels are borrowed;
no picture is read. A picture is its SHA-256: where a version holds it several times, a change is for all of them.
It knows no HTTP; errors point into the request's `changes`.
"""

import unicodedata
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Annotated, Any, Literal, NamedTuple, cast

from pydantic import Field
from sqlalchemy import Table, bindparam, insert, literal, select, update
from sqlalchemy.orm import Session

from service.datasets import usable, versions
from service.datasets.contents import contents
from service.datasets.reports import after_edit
from service.db.tables import Dataset, DatasetVersion, Item
from service.errors import InvalidValue
from service.ids import new_id, now
from service.labels import SEPARATOR, is_portable, joined, name_fault
from service.layers import Strict

Action = Literal["relabel", "move", "remove"]
MAX_CHANGES = 5000  # of one request; so many fit into the largest JSON body


class Change(Strict):
    image: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the picture, as items have it")
    action: Action
    label: str | None = Field(None, description="relabel: what it shows; a new name makes a class")
    labels: list[str] | None = Field(None, max_length=1000, description="relabel, of several labels: all of them")
    split: Literal["train", "val", "test"] | None = Field(None, description="move: where to")


Changes = Annotated[list[Change], Field(min_length=1, max_length=MAX_CHANGES)]


class Row(NamedTuple):
    ordinal: int
    image: str
    path: str
    label: str
    split: str
    width: int
    height: int


@dataclass
class Plan:
    """What becomes of a version's rows, all of them read and judged before anything is locked."""

    base: DatasetVersion
    rows: list[Row]  # as they were
    after: dict[int, Row | None] = field(default_factory=dict)  # by ordinal, of those that change; None: removed
    columns: dict[str, Any] = field(default_factory=dict)  # of the new version

    @property
    def left(self) -> Iterator[Row]:
        """The new version's rows, with their old ordinals."""
        every = (self.after.get(row.ordinal, row) for row in self.rows)
        return (row for row in every if row is not None)


def plan(session: Session, base: DatasetVersion, changes: Sequence[Change]) -> Plan:
    """Raises InvalidValue, with a pointer to the change, for one that cannot be made or leaves too little."""
    columns = (Item.ordinal, Item.image, Item.path, Item.label, Item.split, Item.width, Item.height)
    found = session.execute(select(*columns).where(Item.version_id == base.id).order_by(Item.ordinal))
    made = Plan(base, [Row(*row) for row in found])
    touched = _apply(made, changes)
    several = versions.several_labels(base)
    left = list(made.left)
    usable.check(made.rows, left, touched, several=several)
    what = contents([(row.image, row.label, row.split) for row in left], several_labels=several)
    if what.digest == base.digest:
        raise InvalidValue(
            "nothing_changes", "every picture has that label and split already", hint="send changes", param="/changes"
        )
    made.columns = {
        "classes": what.classes,
        "splits": what.splits,
        "digest": what.digest,
        "image_count": len(left),
        "facts": {**base.facts, "median_side": int(median(min(row.width, row.height) for row in left))},
        "report": after_edit(base, left, what.classes, _counted(made)),
    }
    return made


def write(session: Session, dataset: Dataset, made: Plan) -> DatasetVersion:
    """The next version with all its rows, ready, in the caller's transaction."""
    version = DatasetVersion(
        id=new_id("dsv"),
        dataset_id=dataset.id,
        number=versions.newest_number(session, dataset) + 1,
        status="ready",
        archive_sha256=made.base.archive_sha256,
        archive_bytes=made.base.archive_bytes,
        image_size=made.base.image_size,
        created_at=now(),
        **made.columns,
    )
    session.add(version)
    session.flush()
    _copy(session, made, version.id)
    return version


def _apply(made: Plan, changes: Sequence[Change]) -> usable.Touched:
    """Fills `made.after`; which change was the last to touch each class and split."""
    named = {change.image for change in changes}
    held: dict[str, list[Row]] = {}
    for row in made.rows:
        if row.image in named:
            held.setdefault(row.image, []).append(row)
    touched = usable.Touched(several=versions.several_labels(made.base))
    classes = {str(one["name"]) for one in made.base.classes}
    seen: dict[str, int] = {}
    for number, change in enumerate(changes):
        where = f"/changes/{number}"
        _check_image(change.image, where, held, seen)
        seen[change.image] = number
        result = _result(change, where, classes, several=touched.several)
        for row in held[change.image]:
            after = None if result is None else row._replace(**result)
            made.after[row.ordinal] = after
            touched.note(where, row, after)
    return touched


def _check_image(image: str, where: str, held: dict[str, list[Row]], seen: dict[str, int]) -> None:
    if image in seen:
        raise InvalidValue(
            "picture_changed_twice",
            f"change {seen[image]} is about the same picture",
            hint="one change for each picture; a second edit makes a further version",
            param=f"{where}/image",
        )
    if image not in held:
        raise InvalidValue(
            "image_not_found",
            "this version has no such picture",
            hint="images are named by SHA-256, as the version's items list them",
            param=f"{where}/image",
        )


def _result(change: Change, where: str, classes: set[str], *, several: bool) -> dict[str, Any] | None:
    """The columns that the change sets; None removes the picture. Raises InvalidValue."""
    takes = {"relabel": ("label", "labels"), "move": ("split",), "remove": ()}[change.action]
    given = [name for name in ("label", "labels", "split") if getattr(change, name) is not None]
    for name in given:
        if name not in takes:
            raise InvalidValue("unknown_field", f"{change.action} takes no {name}", param=f"{where}/{name}")
    if takes and len(given) != 1:
        wanted = " or ".join(takes)
        raise InvalidValue(
            "invalid_value", f"{change.action} needs {wanted}, once", param=f"{where}/{(given or takes)[-1]}"
        )
    if change.action == "remove":
        return None
    if change.action == "move":
        return {"split": str(change.split)}
    return {"label": _label(change, where, classes, several=several)}


def _label(change: Change, where: str, classes: set[str], *, several: bool) -> str:
    if change.label is not None:
        return _name(change.label, f"{where}/label", classes, several=several)
    given = change.labels or []
    if len(given) != 1 and not several:
        raise InvalidValue("several_labels", "a picture of this dataset has exactly one label", param=f"{where}/labels")
    return joined(_name(one, f"{where}/labels/{k}", classes, several=several) for k, one in enumerate(given))


def _name(given: str, param: str, classes: set[str], *, several: bool) -> str:
    """A class that there is, or a name that a folder or a labels.csv could give to one."""
    name = unicodedata.normalize("NFC", given)
    if name in classes:
        return name
    why = name_fault(name) or (None if is_portable(name) else f"has {SEPARATOR!r} in it, or spaces around it")
    if why is not None:
        hint = "or take the name of a class that the version has"
        raise InvalidValue("invalid_label", f"no class can be named so: it {why}", hint=hint, param=param)
    return name


def _counted(made: Plan) -> dict[str, int]:
    """Pictures of each kind of change; to the same label or split is none."""
    pairs = [(row, made.after[row.ordinal]) for row in made.rows if row.ordinal in made.after]
    return {
        "from": made.base.number,
        "relabelled": sum(after is not None and after.label != row.label for row, after in pairs),
        "moved": sum(after is not None and after.split != row.split for row, after in pairs),
        "removed": sum(after is None for _, after in pairs),
    }


def _copy(session: Session, made: Plan, version_id: str) -> None:
    """The rows within the database, run after run between the removed ones; then what changed."""
    items = cast(Table, Item.__table__)
    same = [items.c[name] for name in ("image", "path", "label", "split", "width", "height", "flags", "entry")]
    chosen = select(literal(version_id), items.c.ordinal - bindparam("shift", type_=items.c.ordinal.type), *same).where(
        items.c.version_id == made.base.id, items.c.ordinal.between(bindparam("first"), bindparam("last"))
    )
    names = ["version_id", "ordinal", *(column.name for column in same)]
    connection = session.connection()
    removed = sorted(ordinal for ordinal, row in made.after.items() if row is None)
    connection.execute(insert(items).from_select(names, chosen), list(_runs(removed, len(made.rows))))
    changed = update(items).where(items.c.version_id == version_id, items.c.ordinal == bindparam("at"))
    values = [
        {"at": row.ordinal - bisect(removed, row.ordinal), "to_label": row.label, "to_split": row.split}
        for row in made.after.values()
        if row is not None
    ]
    if values:
        connection.execute(changed.values(label=bindparam("to_label"), split=bindparam("to_split")), values)


def _runs(removed: Sequence[int], total: int) -> Iterator[dict[str, int]]:
    """Ordinals `first` to `last` go down by `shift`, so that they stay without gaps."""
    first = 0
    for shift, ordinal in enumerate([*removed, total]):
        if ordinal > first:
            yield {"first": first, "last": ordinal - 1, "shift": shift}
        first = ordinal + 1
