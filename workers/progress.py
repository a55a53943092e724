"""How a job without epochs tells how far it is; where it does, it also lets go when it is asked to."""

import time

from service import jobs
from workers.context import Context

SECONDS = 0.5  # between two tellings


class Progress:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._told_at = 0.0

    def tell(self, done: int, total: int) -> None:
        """Writes it down, at most twice a second. Raises Interrupted when the job should let go."""
        self._context.let_go()
        if time.monotonic() - self._told_at < SECONDS:
            return
        self._told_at = time.monotonic()
        progress = {"epoch": 0, "epochs": 0, "step": done, "steps": total, "fraction": done / max(total, 1)}
        with self._context.database.write() as session:
            jobs.fenced(session, self._context.hold, progress=progress)
