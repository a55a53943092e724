"""Packed pixels that another version of the same archive has already: nothing is decoded twice.

An edited version has the pictures of the one before it. When it has the same in the same order, both names are links to
one file, so neither version's end touches the other; when some are missing, the rows are copied. It decodes nothing.
"""

import os
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.datasets import packing, versions
from service.db.tables import DatasetVersion
from service.settings import Settings


def borrow(session: Session, version: DatasetVersion, size: int, settings: Settings) -> bool:
    """True when the version's cache at this size is there now, made of another version's."""
    others = select(DatasetVersion).where(
        DatasetVersion.archive_sha256 == version.archive_sha256,
        DatasetVersion.status == "ready",
        DatasetVersion.id != version.id,
    )
    wanted: list[int] = []
    for other in session.scalars(others.order_by(DatasetVersion.created_at.desc())):
        if not versions.cache_path(settings, other.id, size).exists():
            continue
        wanted = wanted or _places(session, version)
        row_of = {place: row for row, place in enumerate(_places(session, other))}
        if all(place in row_of for place in wanted):
            rows = [row_of[place] for place in wanted]
            if _take(version, other, rows, len(row_of), size, settings):
                return True
    return False


def _places(session: Session, version: DatasetVersion) -> list[int]:
    """Which entry of the archive each row shows."""
    return [entry.header_offset for entry in versions.entries(session, version)]


def _take(
    version: DatasetVersion, other: DatasetVersion, rows: list[int], total: int, size: int, settings: Settings
) -> bool:
    source, target = (versions.cache_path(settings, one.id, size) for one in (other, version))
    try:
        if not packing.is_whole(source):
            return False
        if rows == list(range(total)):
            _link(source, target)
        else:
            packing.take_rows(source, rows, target)
    except OSError:  # the other's dataset was removed meanwhile, or there are no links here
        return False
    return True


def _link(source: Path, target: Path) -> None:
    """In the place of what may be there: damaged pixels, or the same, of a job that was faster."""
    half = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        os.link(source, half)
        half.rename(target)
    finally:
        half.unlink(missing_ok=True)  # it stays where both names were of one file already
