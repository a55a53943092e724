"""Does a changed version still have what training and evaluation need? What was lacking before is no new fault."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from service.datasets.contents import SPLITS
from service.datasets.layout import MIN_CLASSES, MIN_PICTURES
from service.errors import InvalidValue
from service.labels import separate


class Row(Protocol):
    @property
    def label(self) -> str: ...
    @property
    def split(self) -> str: ...


@dataclass
class Touched:
    """Which change was the last to touch each class and split, for errors to point at."""

    several: bool
    classes: dict[str, str] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)

    def note(self, where: str, before: Row, after: Row | None) -> None:
        for row in (before, after) if after is not None else (before,):
            self.classes.update(dict.fromkeys(separate(row.label, several=self.several), where))
            self.splits[row.split] = where


def check(before: Sequence[Row], after: Sequence[Row], touched: Touched, *, several: bool) -> None:
    """Raises InvalidValue: too few classes, a class of one picture, a split or a class's train that was emptied."""
    counts, counted_before = (_counts(rows, several=several) for rows in (after, before))
    if len(counts) < MIN_CLASSES:
        raise InvalidValue(
            "too_few_classes",
            f"{len(after)} pictures would be left, in fewer than {MIN_CLASSES} classes",
            hint="leave two classes at least",
            param="/changes",
        )
    for name, count in sorted(counts.items()):
        if count < MIN_PICTURES and counted_before[name] != count:
            raise InvalidValue(
                "class_too_small",
                f"the class {name[:100]!r} would have one picture; it needs {MIN_PICTURES}",
                hint="give it another picture in the same edit, or leave none in it",
                param=touched.classes[name],
            )
    _check_splits(before, after, touched)
    _check_train(before, after, touched, several=several)


def _check_splits(before: Sequence[Row], after: Sequence[Row], touched: Touched) -> None:
    had, has = (Counter(row.split for row in rows) for rows in (before, after))
    for split in SPLITS:
        if had[split] and not has[split]:
            raise InvalidValue(
                "split_empty",
                f"no picture would be left in {split}",
                hint="move some there in the same edit",
                param=touched.splits[split],
            )


def _check_train(before: Sequence[Row], after: Sequence[Row], touched: Touched, *, several: bool) -> None:
    """A class that nothing is learned of can only be answered wrongly."""
    lacked, lacks = (
        set(_counts(rows, several=several)) - set(_counts(_in_train(rows), several=several)) for rows in (before, after)
    )
    for name in sorted(lacks - lacked):
        raise InvalidValue(
            "class_not_in_train",
            f"no picture of the class {name[:100]!r} would be left in train",
            hint="move one of them to train in the same edit",
            param=touched.classes[name],
        )


def _in_train(rows: Iterable[Row]) -> Iterable[Row]:
    return (row for row in rows if row.split == "train")


def _counts(rows: Iterable[Row], *, several: bool) -> Counter[str]:
    return Counter(name for row in rows for name in separate(row.label, several=several))
