"""The report of a version that was made by an edit: what is still true of the one before it. It reads no pictures."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from service.datasets.importer import REPORT_ROWS, warnings
from service.db.tables import DatasetVersion

Json = dict[str, Any]
Group = list[Json]  # of path, label, split


class Row(Protocol):
    @property
    def path(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def split(self) -> str: ...


def after_edit(base: DatasetVersion, rows: Iterable[Row], classes: list[Json], edited: dict[str, int]) -> Json:
    """Groups of alike pictures with their labels and splits of now; what a move tears apart is a leak.

    Of a report that was cut at REPORT_ROWS groups only these are known.
    """
    by_path = {row.path: row for row in rows}
    kinds = {kind: _groups(base.report.get(kind, []), by_path) for kind in ("duplicates", "near_duplicates", "leaks")}
    every = {tuple(one["path"] for one in group): group for groups in kinds.values() for group in groups}
    leaks = [group for group in every.values() if len({one["split"] for one in group}) > 1]
    return {
        "accepted": len(by_path),
        "rejected": [],
        "skipped": [],
        **kinds,
        "leaks": leaks[:REPORT_ROWS],
        "warnings": warnings([], Counter({str(one["name"]): int(one["count"]) for one in classes})),
        "edited": edited,
    }


def _groups(found: Sequence[Group], by_path: dict[str, Row]) -> list[Group]:
    """Without the pictures that are gone, and without groups of one."""
    now = ([by_path[one["path"]] for one in group if one["path"] in by_path] for group in found)
    return [[{"path": row.path, "label": row.label, "split": row.split} for row in group] for group in now if group[1:]]
