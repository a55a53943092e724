"""Fills a dataset version: decodes every picture once, in sandboxed children, into the packed cache; then one commit.

Nothing of a half-done import is visible: rows appear together with `ready`, and the cache is renamed into place. An
import that was interrupted starts again.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from sqlalchemy import insert
from sqlalchemy.orm import Session

from service.datasets import borrowing, duplicates, packing, versions
from service.datasets.archive import damaged, inspect, read
from service.datasets.contents import contents
from service.datasets.layout import MIN_CLASSES, MIN_PICTURES, Candidate, Layout, arrange, table_bytes
from service.datasets.packing import Result
from service.datasets.split import Row, assign
from service.datasets.zip_format import Entry, quoted
from service.db.tables import DatasetVersion, Item
from service.errors import InvalidValue
from service.labels import joined
from service.settings import Settings

log = logging.getLogger("fovea")

REPORT_ROWS = 1000  # of each kind in a report; more would only hide the first


@dataclass(frozen=True)
class Imported:
    items: list[dict[str, Any]]
    classes: list[dict[str, Any]]
    splits: dict[str, int]
    digest: str
    image_size: int
    facts: dict[str, Any]
    report: dict[str, Any]


def run(version: DatasetVersion, settings: Settings, on_progress: Callable[[int, int], None]) -> Imported:
    """Decodes the version's archive. `on_progress(done, total)` may raise to end the import, leaving nothing behind.

    Raises InvalidValue when too little of the archive is usable, InternalError when it is not there.
    """
    archive = versions.archive_path(settings, version.archive_sha256)
    if not archive.is_file():
        raise damaged("is missing")
    layout = read_layout(archive, settings)
    entries = [candidate.entry for candidate in layout.candidates]
    size = packing.choose_size(archive, entries, settings)
    cache = versions.cache_path(settings, version.id, size)
    results = sorted(packing.pack(archive, entries, cache, size, settings, on_progress), key=lambda one: one.row)
    kept, rejected = _usable(layout.candidates, results)
    if len(kept) < len(results):
        packing.keep_rows(cache, [one.row for one in kept])
    candidates = [layout.candidates[one.row] for one in kept]
    packed = np.load(cache, mmap_mode="r", allow_pickle=False)
    groups = duplicates.find(
        [one.sha256 for one in kept], [one.pixel_sha256 for one in kept], [one.dhash for one in kept], packed
    )
    splits = _splits(kept, candidates, groups)
    items = [_item(row, *one) for row, one in enumerate(zip(kept, candidates, splits, strict=True))]
    counts = Counter(label for candidate in candidates for label in candidate.labels)
    report = {
        "accepted": len(kept),
        "rejected": rejected,
        "skipped": layout.skipped[:REPORT_ROWS],
        **_duplicate_report(groups, items),
        "warnings": warnings(rejected, counts),
    }
    return _summary(items, kept, size, report, layout.several_labels)


def read_layout(archive: Path, settings: Settings) -> Layout:
    """Which entries of an archive are pictures of which class. Raises InvalidValue for what cannot be trained on."""
    entries = inspect(archive, settings)
    limit = min(table_bytes(len(entries)), settings.max_image_bytes)
    with archive.open("rb") as file:
        return arrange(entries, lambda table: read(file, table, limit))


def publish(session: Session, version_id: str, imported: Imported) -> None:
    """Writes the rows and makes the version ready, in the caller's transaction."""
    version = session.get_one(DatasetVersion, version_id)
    session.execute(insert(Item), [{"version_id": version_id, **item} for item in imported.items])
    version.status = "ready"
    version.classes, version.splits, version.digest = imported.classes, imported.splits, imported.digest
    version.image_count, version.image_size = len(imported.items), imported.image_size
    version.facts, version.report = imported.facts, imported.report


def ensure_cache(
    session: Session,
    version: DatasetVersion,
    size: int,
    settings: Settings,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    warn: Callable[[str], None] = log.warning,
) -> Path:
    """The packed pixels of a ready version at this size; missing ones are another version's, or decoded again.

    So are those that are not what was written, of which `warn` is told. `on_progress(done, total)` is told of what is
    decoded, and may raise to end it, leaving nothing behind. Raises InternalError (code `archive_damaged`).
    """
    cache = versions.cache_path(settings, version.id, size)
    if cache.exists():
        if packing.is_whole(cache):
            return cache
        warn(f"the packed pixels at {size} px are damaged on the disk; they are made again")
    if borrowing.borrow(session, version, size, settings):
        return cache
    entries = versions.entries(session, version)
    archive = versions.archive_path(settings, version.archive_sha256)
    for result in packing.pack(archive, entries, cache, size, settings, on_progress):
        if result.error is not None:
            cache.unlink(missing_ok=True)
            raise damaged(f"is damaged: {quoted(result.name)} was decoded at import, and cannot be any more")
    return cache


def _usable(candidates: list[Candidate], results: list[Result]) -> tuple[list[Result], list[dict[str, Any]]]:
    """The pictures to keep, and the rejected with their reasons; a class left with one picture goes too."""
    kept = _without_lonely(candidates, [one for one in results if one.error is None])
    if len({label for one in kept for label in candidates[one.row].labels}) < MIN_CLASSES:
        broken = next((one.error for one in results if one.error is not None), None)
        raise InvalidValue(
            "too_few_classes",
            f"{len(kept)} of {len(results)} pictures are usable, in fewer than two classes",
            hint=f"the first rejected: {broken['message']}" if broken else "zip one folder of pictures for each class",
        )
    lonely = {"code": "class_too_small", "message": "the only usable picture of its class", "hint": "add pictures"}
    keep = {one.row for one in kept}
    rejected = [{"path": candidates[one.row].path, **(one.error or lonely)} for one in results if one.row not in keep]
    return kept, rejected


def _without_lonely(candidates: list[Candidate], decoded: list[Result]) -> list[Result]:
    """Without the pictures of classes that have too few; as one may have several labels, this can leave others few."""
    while True:
        counts = Counter(label for one in decoded for label in candidates[one.row].labels)
        kept = [one for one in decoded if all(counts[label] >= MIN_PICTURES for label in candidates[one.row].labels)]
        if len(kept) == len(decoded):
            return kept
        decoded = kept


def _splits(kept: list[Result], candidates: list[Candidate], groups: list[duplicates.Group]) -> list[str]:
    """A picture with several labels counts for its rarest, which is then found in every split."""
    ids = duplicates.group_ids(len(kept), groups)
    counts = Counter(label for candidate in candidates for label in candidate.labels)

    def rarest(candidate: Candidate) -> str:
        return min(candidate.labels, key=counts.__getitem__, default="")

    rows = [
        Row(
            one.sha256,
            candidate.path,
            rarest(candidate),
            group,
            candidate.split,
        )
        for one, candidate, group in zip(kept, candidates, ids, strict=True)
    ]
    return assign(rows)


def _item(ordinal: int, result: Result, candidate: Candidate, split: str) -> dict[str, Any]:
    return {
        "ordinal": ordinal,
        "image": result.sha256,
        "path": candidate.path,
        "label": joined(candidate.labels),
        "split": split,
        "width": result.width,
        "height": result.height,
        "flags": [],
        "entry": {name: getattr(candidate.entry, name) for name in Entry.__slots__},
    }


def _duplicate_report(groups: list[duplicates.Group], items: list[dict[str, Any]]) -> dict[str, Any]:
    def shape(group: duplicates.Group) -> list[dict[str, Any]]:
        return [{key: items[row][key] for key in ("path", "label", "split")} for row in group.rows]

    leaking = duplicates.leaks(groups, [item["split"] for item in items])
    return {
        "duplicates": [shape(group) for group in groups if group.kind == "exact"][:REPORT_ROWS],
        "near_duplicates": [shape(group) for group in groups if group.kind == "near"][:REPORT_ROWS],
        "leaks": [shape(group) for group in leaking][:REPORT_ROWS],
    }


def warnings(rejected: list[dict[str, Any]], counts: Counter[str]) -> list[dict[str, str]]:
    """What a report warns of; `counts` are the pictures of each class."""
    found = []
    if rejected:
        hint = "see `rejected` for the reason of each"
        found.append({"code": "rejected", "message": f"{len(rejected)} pictures were left out", "hint": hint})
    if max(counts.values()) > 10 * min(counts.values()):
        hint = "add pictures to the small classes, or set loss.class_weights to 'balanced'"
        found.append({"code": "imbalanced", "message": "some classes have ten times others' pictures", "hint": hint})
    return found


def _summary(
    items: list[dict[str, Any]],
    kept: list[Result],
    size: int,
    report: dict[str, Any],
    several_labels: bool,
) -> Imported:
    rows = ((item["image"], item["label"], item["split"]) for item in items)
    found = contents(rows, several_labels=several_labels)
    return Imported(
        items=items,
        classes=found.classes,
        splits=found.splits,
        digest=found.digest,
        image_size=size,
        facts={
            "median_side": int(median(min(one.width, one.height) for one in kept)),
            "grey": sum(one.grey for one in kept) > 0.9 * len(kept),
            "several_labels": several_labels,
        },
        report=report,
    )
