"""Claims jobs and gives each to a child process; heartbeats, cancels, and turns any death into a row.

It never runs a job itself and never imports torch, so nothing a job does can stop its heartbeat.
"""

import logging
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy.orm import Session

from service import artifacts, disk, jobs
from service.db import Database
from service.db.migrate import is_current
from service.db.tables import Job
from service.errors import InsufficientStorage, Overloaded
from service.ids import now
from service.jobs import Hold, LeaseLost
from service.processes import identity, is_gone
from service.settings import Settings
from workers.forking import COULD_NOT_WRITE
from workers.standby import Child, Standby

log = logging.getLogger("fovea.worker")

CANNOT_WRITE = (Overloaded, InsufficientStorage)  # the database, now: what was to be written is tried again
GRACE_SECONDS = 60.0  # for a child that was asked to write its checkpoint and go


class Supervisor:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(settings.database)
        self._me = identity()
        self._closing = threading.Event()
        self._standby = Standby()
        self._room = True

    def shut_down(self) -> None:
        self._closing.set()

    def run(self) -> None:
        """Until `shut_down`: one job at a time."""
        if not self._wait_for_schema():
            return
        log.info("waiting for jobs")
        try:
            while not self._closing.is_set():
                self._standby.prepare()
                if (job := self._claim()) is not None:
                    self._watch(job.type, Hold(job.id, job.attempt))
                else:
                    self._tidy()
                    self._closing.wait(self._settings.poll_seconds)
        finally:
            self._standby.close()
            self._database.dispose()

    def _wait_for_schema(self) -> bool:
        while not self._closing.is_set():
            if is_current(self._database):
                return True
            self._closing.wait(self._settings.poll_seconds)
        return False

    def _claim(self) -> Job | None:
        try:
            self._rescue_orphans()
            if not self._has_room():
                return None
            with self._database.write() as session:
                return jobs.claim(session, self._me, self._settings.lease_seconds)
        except CANNOT_WRITE as error:
            log.warning("%s", error)
            return None

    def _has_room(self) -> bool:
        """A job that could keep nothing is better not begun."""
        before, self._room = self._room, not disk.is_low(self._settings)
        if before and not self._room:
            log.warning("jobs wait: only %d bytes of the disk are free", disk.free(self._settings))
        return self._room

    def _rescue_orphans(self) -> None:
        """Frees the jobs of workers that are certainly dead, or silent beyond their lease."""
        with self._database.read() as session:
            if not any(self._orphaned(job) for job in jobs.held(session)):
                return
        with self._database.write() as session:
            for job in jobs.held(session):
                if self._orphaned(job):
                    log.warning("taking over %s", job.id)
                    jobs.rescue(session, job, "its worker is gone", self._settings.max_crashes)

    def _orphaned(self, job: Job) -> bool:
        return (job.lease_expires_at or 0) < now() or is_gone(job.worker)

    def _tidy(self) -> None:
        with suppress(*CANNOT_WRITE):
            artifacts.prune(self._database)

    def _watch(self, job_type: str, hold: Hold) -> None:
        """Gives the job to a process and stays with it to the end, whatever the end is."""
        log.info("running %s, attempt %d", hold.job_id, hold.attempt)
        child = self._standby.give(job_type, {"job_id": hold.job_id, "attempt": hold.attempt})
        next_beat, deadline, stillness = 0.0, float("inf"), _Stillness()
        while child.poll() is None:
            if self._closing.is_set() and deadline == float("inf"):
                child.send_signal(signal.SIGTERM)
                deadline = time.monotonic() + GRACE_SECONDS
            if time.monotonic() > deadline or self._unwanted(hold, beat=time.monotonic() >= next_beat):
                child.kill()
            if time.monotonic() >= next_beat:
                if stillness.seconds(self._progress(hold)) > self._settings.stuck_seconds:
                    self._end_stuck(hold, child)
                next_beat = time.monotonic() + self._settings.lease_seconds / 3
            try:
                child.wait(min(self._settings.poll_seconds, 0.2))
            except subprocess.TimeoutExpired:
                continue
        self._settle(hold, child.wait())

    def _unwanted(self, hold: Hold, *, beat: bool) -> bool:
        """True when the child must be killed: the job was cancelled, or is no longer ours."""
        try:
            if not beat:
                with self._database.read() as session:
                    job = jobs.get(session, hold.job_id)
                    return job.status == "cancelling" or job.attempt != hold.attempt
            with self._database.write() as session:
                return jobs.heartbeat(session, hold, self._settings.lease_seconds) == "cancelling"
        except LeaseLost:
            # either the child has just written its end, or another worker has the job
            with self._database.read() as session:
                job = jobs.get(session, hold.job_id)
                return job.attempt != hold.attempt
        except CANNOT_WRITE as error:
            log.warning("no heartbeat: %s", error)
            return False

    def _progress(self, hold: Hold) -> Any:
        with self._database.read() as session:
            job = jobs.get(session, hold.job_id)
            return job.progress, job.status

    def _end_stuck(self, hold: Hold, child: Child) -> None:
        seconds = self._settings.stuck_seconds
        error = {
            "code": "stuck",
            "message": f"the job made no step for {seconds:.0f} seconds",
            "hint": "read the job's log; FOVEA_STUCK_SECONDS allows longer steps",
        }
        child.kill()
        with suppress(LeaseLost):
            self._written(lambda session: jobs.fail(session, hold, error))

    def _settle(self, hold: Hold, returncode: int) -> None:
        """Writes down a death; a child that ended well has written its own end, one that could not write lets go."""
        reason = _reason(returncode)
        try:
            if returncode == COULD_NOT_WRITE:
                self._written(lambda session: jobs.release(session, hold, reason))
            else:
                self._written(lambda session: jobs.died(session, hold, reason, self._settings.max_crashes))
        except LeaseLost:
            log.info("%s ended (%s)", hold.job_id, "ok" if returncode == 0 else reason)
        else:
            log.warning("%s: %s", hold.job_id, reason)

    def _written(self, change: Callable[[Session], object]) -> None:
        """As soon as the database can be written; at a shutdown the next start finds out by itself."""
        while True:
            try:
                with self._database.write() as session:
                    change(session)
                return
            except CANNOT_WRITE as error:
                log.warning("%s", error)
                if self._closing.wait(self._settings.poll_seconds):
                    return


class _Stillness:
    """For how many seconds a value has not changed."""

    def __init__(self) -> None:
        self._last: Any = None
        self._since = time.monotonic()

    def seconds(self, value: Any) -> float:
        if value != self._last:
            self._last, self._since = value, time.monotonic()
        return time.monotonic() - self._since


def _reason(returncode: int) -> str:
    if returncode == COULD_NOT_WRITE:
        return "the database could not be written"
    return f"the process was killed by {_signal_name(-returncode)}" if returncode < 0 else f"exit code {returncode}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
