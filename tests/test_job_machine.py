"""The job state machine under any order of what clients, workers, deaths and takeovers may do (Hypothesis)."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule
from sqlalchemy import select

from service import artifacts, jobs
from service.db import Base, Database
from service.db.tables import Checkpoint, Event, Job
from service.errors import Conflict
from service.jobs import HELD, TERMINAL, Hold, LeaseLost

ME = {"machine": "here", "pid": 1, "started": 0.0}
MOST_DEATHS = 3
VERBS = {"cancel": jobs.cancel, "stop": jobs.stop, "pause": jobs.pause, "resume": jobs.resume}
CONFLICT, SAME = "conflict", "same"
AFTER = {  # each verb by what the job was before: what it is then
    "cancel": {
        **dict.fromkeys(("running", "pausing"), "cancelling"),
        **dict.fromkeys(("queued", "paused", "interrupted"), "cancelled"),
        **dict.fromkeys(("cancelling", "cancelled"), SAME),
        **dict.fromkeys(("succeeded", "failed"), CONFLICT),
    },
    "stop": {
        **dict.fromkeys(("queued", "running", "pausing", "interrupted"), SAME),
        "paused": "queued",
        **dict.fromkeys((*TERMINAL, "cancelling"), CONFLICT),
    },
    "pause": {
        "running": "pausing",
        **dict.fromkeys(("queued", "interrupted"), "paused"),
        **dict.fromkeys(("paused", "pausing"), SAME),
        **dict.fromkeys((*TERMINAL, "cancelling"), CONFLICT),
    },
    "resume": {
        "paused": "queued",
        **dict.fromkeys(("queued", "running", "interrupted"), SAME),
        **dict.fromkeys((*TERMINAL, "cancelling", "pausing"), CONFLICT),
    },
}
WORKER = {
    "heartbeat": lambda session, hold: jobs.heartbeat(session, hold, 30),
    "progressed": lambda session, hold: jobs.progressed(session, hold, progress={"step": 1}),
    "release": lambda session, hold: jobs.release(session, hold, "shutdown"),
    "died": lambda session, hold: jobs.died(session, hold, "killed", MOST_DEATHS),
    "succeed": lambda session, hold: jobs.succeed(session, hold, {"model": "m"}),
    "fail": lambda session, hold: jobs.fail(session, hold, {"code": "x", "message": "y", "hint": None}),
}
COLUMNS = [column.key for column in Job.__table__.columns]


def row_of(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in COLUMNS}


class Machine(RuleBasedStateMachine):
    ids = Bundle("ids")
    holds = Bundle("holds")  # every claim that was ever made: most of them are stale

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.database = Database(f"sqlite:///{Path(self.folder.name) / 'fovea.db'}")
        Base.metadata.create_all(self.database.engine)
        self.ended: dict[str, dict[str, Any]] = {}
        self.first = [self.submit("search"), self.submit("train")]

    def teardown(self) -> None:
        self.database.dispose()
        self.folder.cleanup()

    def rows(self) -> dict[str, dict[str, Any]]:
        with self.database.read() as session:
            return {job.id: row_of(job) for job in session.scalars(select(Job))}

    def refused(self, error: type[Exception], call: Any) -> None:
        """It raises this, and changes nothing."""
        before = self.rows()
        with pytest.raises(error), self.database.write() as session:
            call(session)
        assert self.rows() == before

    @initialize(target=ids)
    def begin(self) -> Any:
        return multiple(*self.first)

    @initialize(target=holds)
    def take(self) -> Any:
        return multiple(self.claim_oldest(), self.claim_oldest())

    def submit(self, kind: str) -> str:
        with self.database.write() as session:
            return jobs.submit(session, kind, spec={}).id

    @rule(target=ids, kind=st.sampled_from(["train", "search", "export"]))
    def post(self, kind: str) -> str:
        return self.submit(kind)

    def waiting(self) -> list[dict[str, Any]]:
        return [row for row in self.rows().values() if row["status"] in jobs.CLAIMABLE and row["parent"] is None]

    @precondition(lambda self: self.waiting())
    @rule(target=holds)
    def claim(self) -> Hold:
        return self.claim_oldest()

    def claim_oldest(self) -> Hold:
        oldest = min(self.waiting(), key=lambda row: (row["created_at"], row["id"]))
        with self.database.write() as session:
            job = jobs.claim(session, ME, 30)
            assert job is not None
            assert job.id == oldest["id"]
            return Hold(job.id, job.attempt)

    @precondition(lambda self: not self.waiting())
    @rule()
    def claim_nothing(self) -> None:
        with self.database.write() as session:
            assert jobs.claim(session, ME, 30) is None

    @rule(job_id=ids, verb=st.sampled_from(sorted(VERBS)))
    def steer(self, job_id: str, verb: str) -> None:
        job = self.rows()[job_id]
        wanted = AFTER[verb][job["status"]]
        if verb == "stop":
            if job["type"] == "export" or (not job["attempt"] and not job["stop_requested"]):
                wanted = CONFLICT
            elif job["stop_requested"] and job["status"] in ("succeeded", "failed", "cancelling"):
                wanted = SAME  # it was asked before: repeating is harmless
        if wanted == CONFLICT:
            self.refused(Conflict, lambda session: VERBS[verb](session, job_id))
            return
        with self.database.write() as session:
            VERBS[verb](session, job_id)
        after = self.rows()[job_id]
        assert after["status"] == (job["status"] if wanted == SAME else wanted)
        assert verb != "resume" or wanted == SAME or after["deaths"] == 0
        assert verb != "stop" or after["stop_requested"]

    @rule(hold=holds, act=st.sampled_from(sorted(WORKER)))
    def work(self, hold: Hold, act: str) -> None:
        job, claimed = self.rows()[hold.job_id], self.rows()[hold.claimed.job_id]
        valid = all(self.holds_it(hold, row) for row in (job, claimed))
        if not valid or (act == "succeed" and claimed["status"] == "cancelling"):
            self.refused(LeaseLost, lambda session: WORKER[act](session, hold))
            return
        if hold.search and act in ("release", "died"):
            return  # of a trial nobody says so: its search is released, or dies
        with self.database.write() as session:
            WORKER[act](session, hold)
        after, deaths = (self.rows()[hold.job_id][name] for name in ("status", "deaths"))
        assert deaths == {"progressed": 1, "release": job["deaths"] - 1}.get(act, job["deaths"])
        if job["status"] == "cancelling" and act in ("release", "died", "fail"):
            assert after == "cancelled"
        elif act in ("succeed", "fail"):
            assert after == act.replace("succeed", "succeeded").replace("fail", "failed")

    @rule(hold=holds)
    def checkpoint(self, hold: Hold) -> None:
        job, claimed = self.rows()[hold.job_id], self.rows()[hold.claimed.job_id]
        if not all(self.holds_it(hold, row) for row in (job, claimed)):
            return  # whoever writes one fences it first: `progressed`
        blob = artifacts.write_chunks(self.database, b"weights")
        with self.database.write() as session:
            artifacts.add_checkpoint(session, hold, blob, epoch=1, step=1, best=True)

    @staticmethod
    def holds_it(hold: Hold, row: dict[str, Any]) -> bool:
        return bool(row["attempt"] == hold.attempt and row["status"] in HELD)

    @rule(target=holds, hold=holds)
    def try_something(self, hold: Hold) -> Any:
        """A search takes up its open trial, or begins the next."""
        row, trials = self.rows()[hold.job_id], [row for row in self.rows().values() if row["parent"] == hold.job_id]
        if row["type"] != "search" or hold.search is not None:
            return multiple()
        if not self.holds_it(hold, row):
            self.refused(LeaseLost, lambda session: jobs.start_trial(session, hold, 1, {}, {}))
            self.refused(LeaseLost, lambda session: jobs.take_up_trial(session, hold))
            return multiple()
        with self.database.write() as session:
            trial = jobs.take_up_trial(session, hold)
            if trial is None:
                trial = jobs.start_trial(session, hold, len(trials) + 1, {}, {})
            return Hold(trial.id, hold.attempt, hold)

    @rule(hold=holds)
    def lose(self, hold: Hold) -> None:
        """The worker is found to be gone, whether its claim is the newest or not."""
        with self.database.write() as session:
            for job in [one for one in jobs.held(session) if one.id == hold.job_id]:
                jobs.rescue(session, job, "silent", MOST_DEATHS)

    @invariant()
    def what_has_ended_stays(self) -> None:
        rows = self.rows()
        for job_id, row in self.ended.items():
            assert rows[job_id] == row
        self.ended |= {job_id: row for job_id, row in rows.items() if row["status"] in TERMINAL}

    @invariant()
    def rows_agree_with_themselves(self) -> None:
        with self.database.read() as session:
            for job in session.scalars(select(Job)):
                assert (job.finished_at is not None) == (job.status in TERMINAL) == (job.stop_reason is not None)
                assert (job.result is not None) == (job.status == "succeeded")
                assert (job.error is not None) == (job.status == "failed")
                assert job.parent or (job.worker is not None) == (job.status in HELD)
                assert 0 <= job.deaths <= min(job.attempt, MOST_DEATHS)
                told = select(Event).where(Event.job_id == job.id, Event.type == "status").order_by(Event.number.desc())
                assert session.scalars(told.limit(1)).one().data["status"] == job.status

    @invariant()
    def trials_follow_their_search(self) -> None:
        rows = self.rows()
        for row in rows.values():
            if row["parent"] and row["status"] not in TERMINAL:
                search = rows[row["parent"]]["status"]
                waits = ("interrupted", "paused")  # until it is taken up
                may_be = {**dict.fromkeys(HELD, ("running", *waits)), "queued": waits}
                assert row["status"] in may_be.get(search, (search,))

    @invariant()
    def what_has_ended_keeps_no_checkpoint(self) -> None:
        with self.database.read() as session:
            kept = session.scalars(select(Job.status).join(Checkpoint, Checkpoint.job_id == Job.id)).all()
        assert not {*kept} & {*TERMINAL}


Machine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, derandomize=True, phases=[Phase.generate]
)
TestJobMachine = Machine.TestCase
