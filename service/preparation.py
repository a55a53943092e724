"""What happens once before a service answers, however many processes answer then. It knows no HTTP."""

from sqlalchemy import select

from service import artifacts, keys, predictions, uploads
from service.db import Database
from service.db.migrate import upgrade
from service.db.tables import DatasetVersion
from service.settings import Settings


def prepare(database: Database, settings: Settings) -> None:
    """Schema, admin key, and what an earlier process left half-done."""
    upgrade(database)
    keys.ensure_admin(database, settings)
    uploads.recover(database, settings)
    with database.write() as session:
        artifacts.sweep(session)
        kept = set(session.scalars(select(DatasetVersion.archive_sha256)))
    predictions.sweep(database, settings)
    for path in settings.archives.glob("*/*.zip"):
        if path.stem not in kept:
            path.unlink(missing_ok=True)
