"""What was read of the database, kept for as long as nobody writes to it: a commit of any process forgets all of it.

So a moved alias or a revoked key takes effect with the next request, in every process, and a request between two
commits reads nothing. Where the database cannot tell (`Database.changes`), everything is read anew.
"""

import threading
from collections.abc import Callable, Hashable
from typing import TypeVar

from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from service.db.engine import Database

MOST = 200  # answers kept

T = TypeVar("T")


class Remembered:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: dict[Hashable, object] = {}
        self._at: int | None = None
        self._lock = threading.Lock()

    def look(self) -> None:
        """Forgets all if anybody has committed. Every request begins with it."""
        self._forget_unless(self._database.changes())

    async def get(self, key: Hashable, read: Callable[[Session], T]) -> T:
        """What `read` returned for this key since the last `look` that saw a commit, or returns now; what it raises is
        not kept.

        The key says whose answer it is: no two `read` share one. What is kept is shared, and not to be changed.
        """
        kept: T | None = self._kept.get(key)  # type: ignore[assignment]
        return kept if kept is not None else await run_in_threadpool(self._read, key, read)

    def _read(self, key: Hashable, read: Callable[[Session], T]) -> T:
        before = self._database.changes()
        self._forget_unless(before)
        with self._database.read() as session:
            found = read(session)
        with self._lock:
            if before is not None and before == self._at:
                if len(self._kept) >= MOST:
                    self._kept.clear()
                self._kept[key] = found
        return found

    def _forget_unless(self, changes: int | None) -> None:
        with self._lock:
            if changes is None or changes != self._at:
                self._kept = {}
                self._at = changes
