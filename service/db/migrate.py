"""Brings a database to the newest schema with Alembic. Run by the service at start; workers wait for it.

A migration's file is named by its revision, and revisions sort: so whether anything is missing can be told without
importing Alembic, which takes a quarter of a second that an ordinary start does not have to spend.
"""

from pathlib import Path

from sqlalchemy import inspect, text

from service.db.engine import Database
from service.errors import InternalError

MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(database: Database) -> None:
    """Runs every missing migration in one transaction: a killed start leaves the old schema or the new one."""
    if is_current(database):
        return
    from alembic import command
    from alembic.config import Config

    with database.engine.execution_options(fovea_write=True).begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def is_current(database: Database) -> bool:
    with database.engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return False
        present = connection.scalar(text("SELECT version_num FROM alembic_version"))
    if present is not None and present > newest():
        raise InternalError(
            "schema_too_new",
            f"the database has schema {present}, this version of Fovea knows {newest()}",
            hint="start the newer version that wrote it, or restore a backup",
        )
    return bool(present == newest())


def newest() -> str:
    """The newest revision that this code knows."""
    return max(path.stem.partition("_")[0] for path in (MIGRATIONS / "versions").glob("*.py"))
