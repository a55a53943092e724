"""Tables, engine and migrations. Whatever only SQLite does is in here and nowhere else."""

from service.db.engine import Database
from service.db.tables import Base

__all__ = ["Base", "Database"]
