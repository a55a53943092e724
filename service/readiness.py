"""Whether requests can be served, and what is in the way."""

from sqlalchemy import text

from service import disk
from service.db import Database
from service.settings import Settings


def checks(db: Database, settings: Settings) -> dict[str, str]:
    """`ok`, or what is wrong, by part."""
    return {"database": _database(db), "disk": _disk(settings)}


def is_ready(found: dict[str, str]) -> bool:
    return all(state == "ok" for state in found.values())


def _database(db: Database) -> str:
    try:
        with db.read() as session:
            session.execute(text("SELECT 1 FROM alembic_version"))
    except Exception as error:  # noqa: BLE001 - whatever is wrong, the answer is "not ready", with the kind
        return f"unreachable: {type(error).__name__}"
    return "ok"


def _disk(settings: Settings) -> str:
    return f"only {disk.free(settings)} bytes free" if disk.is_low(settings) else "ok"
