"""Tables, engine and migrations. Whatever only SQLite does is in here and nowhere else."""

from service.db.engine import CANNOT_WRITE, Database
from service.db.tables import Base

__all__ = ["CANNOT_WRITE", "Base", "Database"]
