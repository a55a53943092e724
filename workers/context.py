"""What a running job needs besides its own work, and how it learns that it should end early."""

import logging
import threading
import time
from dataclasses import dataclass, field

from service import jobs
from service.db import Database
from service.jobs import Hold, LeaseLost
from service.settings import Settings

log = logging.getLogger("fovea.job")


class Interrupted(Exception):
    """The job was asked to let go: what is worth keeping has been written."""


@dataclass
class Context:
    """What a running job needs besides its own work."""

    settings: Settings
    database: Database
    hold: Hold
    shutting_down: threading.Event
    _asked_at: float = field(default=0.0)
    _asked: str | None = field(default=None)

    def asked(self) -> str | None:
        """`pause`, `stop` or `shutdown` if the job should end early; looks into the database twice a second."""
        if self.shutting_down.is_set():
            return "shutdown"
        if time.monotonic() - self._asked_at >= self.settings.poll_seconds:
            self._asked_at = time.monotonic()
            self._asked = self._ask()
        return self._asked

    def _ask(self) -> str | None:
        with self.database.read() as session:
            job = jobs.get(session, self.hold.claimed.job_id)
            if job.attempt != self.hold.attempt:
                raise LeaseLost(f"attempt {job.attempt} has the job now")
            if job.status in ("pausing", "cancelling"):
                return "pause"
            return "stop" if job.stop_requested else None

    def warn(self, message: str) -> None:
        """Tells whoever reads the job's events or its log. Raises LeaseLost."""
        log.warning("%s", message)
        with self.database.write() as session:
            jobs.fenced(session, self.hold)
            jobs.record_event(session, self.hold.job_id, "warning", {"message": message})

    def let_go(self) -> None:
        """Raises Interrupted when the job should leave its work for a later attempt."""
        if self.asked() in ("pause", "shutdown"):
            raise Interrupted(self.asked())
