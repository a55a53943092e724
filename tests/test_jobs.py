"""The job state machine on a real database, and the database itself."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import select, text, update

from service import artifacts, jobs
from service.db import Base, Database, engine
from service.db.engine import check_sqlite
from service.db.migrate import is_current, upgrade
from service.db.tables import Blob, Checkpoint, Chunk, Event, Job
from service.errors import Conflict, InternalError, Overloaded
from service.jobs import Hold, LeaseLost
from service.processes import identity, is_gone
from service.settings import Settings
from tests.postgresql import database_for
from workers import train_job
from workers.context import Context
from workers.run_job import _run

ME = {"machine": "here", "pid": 1, "started": 0.0}


@pytest.fixture(params=["sqlite", "postgresql"])
def database(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path / 'fovea.db'}")
    else:
        database = Database(database_for(tmp_path, request.getfixturevalue("postgresql")))
    upgrade(database)
    yield database
    database.dispose()


def submit(database: Database) -> str:
    with database.write() as session:
        return jobs.submit(session, "train", spec={}).id


def claim(database: Database) -> Hold:
    with database.write() as session:
        job = jobs.claim(session, ME, 30)
        assert job is not None
        return Hold(job.id, job.attempt)


def test_the_migrations_make_exactly_the_tables(database: Database) -> None:
    assert is_current(database)
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_a_database_of_a_newer_version_is_refused_and_left_alone(database: Database) -> None:
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InternalError, match="schema_too_new"):
        upgrade(database)


def test_what_was_written_soon_is_there_after_a_sync(database: Database) -> None:
    with database.write(durable=False) as session:
        session.add(Blob(id="b", sha256="", bytes=0, chunks=0, doomed=False))
    database.sync()
    with database.read() as session:
        assert session.get(Blob, "b") is not None


def test_an_old_sqlite_is_refused() -> None:
    with pytest.raises(InternalError, match="sqlite_too_old"):
        check_sqlite((3, 51, 2))


def test_a_job_that_dies_three_times_without_progress_fails_with_the_reason(database: Database) -> None:
    job_id = submit(database)
    for death in range(3):
        hold = claim(database)
        assert hold.attempt == death + 1
        with database.write() as session:
            job = jobs.died(session, hold, "killed by SIGSEGV", 3)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error["code"] == "worker_died"
    assert "SIGSEGV" in job.error["message"]
    with database.write() as session:
        assert jobs.claim(session, ME, 30) is None
        assert jobs.get(session, job_id).attempt == 3


def test_an_exception_that_nobody_foresaw_is_told_in_the_jobs_error(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(context: Context, job: Job) -> None:
        raise ValueError("Expected more than 1 value per channel " + 400 * ".")

    monkeypatch.setattr("workers.train_job.run", run)
    job_id = submit(database)
    for _ in range(3):
        _run(Context(Settings(data=tmp_path), database, claim(database), threading.Event()))
    with database.read() as session:
        job = jobs.get(session, job_id)
        warnings = session.scalars(select(Event).where(Event.type == "warning")).all()
    assert job.error is not None
    assert (job.status, job.error["code"], job.attempt) == ("failed", "worker_died", 3)
    assert "ValueError: Expected more than 1 value per channel ..." in job.error["message"]
    assert len(job.error["message"]) < 400
    assert len(warnings) == 2  # of the attempts before


def test_progress_forgives_earlier_deaths_and_letting_go_is_none(database: Database) -> None:
    submit(database)
    for _ in range(5):
        hold = claim(database)
        with database.write() as session:
            jobs.progressed(session, hold, progress={"step": 1})
        with database.write() as session:
            assert jobs.died(session, hold, "killed", 3).status == "interrupted"
    for _ in range(5):
        hold = claim(database)
        with database.write() as session:
            assert jobs.release(session, hold, "shutdown").status == "interrupted"


def test_resuming_forgets_deaths_too(database: Database) -> None:
    job_id = submit(database)
    for _ in range(2):
        for _ in range(2):
            hold = claim(database)
            with database.write() as session:
                assert jobs.died(session, hold, "killed", 3).status == "interrupted"
        with database.write() as session:
            jobs.pause(session, job_id)
            jobs.resume(session, job_id)


def test_who_does_not_get_the_writers_lock_in_time_is_told_to_try_again(
    monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_SECONDS", 0.1)
    other = Database(database.url)
    with database.write() as session:
        jobs.submit(session, "train", spec={})
        with pytest.raises(Overloaded) as caught:
            submit(other)
    assert caught.value.code == "database_busy"
    submit(other)
    other.dispose()


def test_no_two_workers_claim_the_same_job(database: Database) -> None:
    posted = {submit(database) for _ in range(24)}
    with ThreadPoolExecutor(8) as pool:
        holds = list(pool.map(lambda _: claim(database), posted))
    assert {hold.job_id for hold in holds} == posted
    assert {hold.attempt for hold in holds} == {1}


def test_a_worker_that_lost_its_lease_writes_nothing(database: Database) -> None:
    submit(database)
    stale = claim(database)
    with database.write() as session:
        jobs.rescue(session, jobs.get(session, stale.job_id), "silent", 3)
    fresh = claim(database)
    assert fresh.attempt == stale.attempt + 1
    for write in (
        lambda session: jobs.heartbeat(session, stale, 30),
        lambda session: jobs.progressed(session, stale, progress={}),
        lambda session: jobs.succeed(session, stale, {}),
        lambda session: jobs.fail(session, stale, {}),
        lambda session: jobs.release(session, stale, "x"),
    ):
        with pytest.raises(LeaseLost), database.write() as session:
            write(session)
    with database.write() as session:
        assert jobs.succeed(session, fresh, {"by": "fresh"}).result == {"by": "fresh"}


def test_cancel_beats_a_finish_and_a_retry(database: Database) -> None:
    submit(database)
    hold = claim(database)
    with database.write() as session:
        assert jobs.cancel(session, hold.job_id).status == "cancelling"
    with pytest.raises(LeaseLost), database.write() as session:
        jobs.succeed(session, hold, {})
    with database.write() as session:
        assert jobs.died(session, hold, "killed", 3).status == "cancelled"
    with pytest.raises(Conflict), database.write() as session:
        jobs.resume(session, hold.job_id)


def test_a_job_that_was_told_to_stop_and_to_pause_ends_when_it_is_told_to_stop_again(database: Database) -> None:
    job_id = submit(database)
    hold = claim(database)
    with database.write() as session:
        assert jobs.stop(session, job_id).status == "running"
        assert jobs.pause(session, job_id).status == "pausing"
        assert jobs.release(session, hold, "pausing").status == "paused"
        assert jobs.stop(session, job_id).status == "queued"


def test_only_last_and_best_checkpoints_are_kept_with_their_bytes(database: Database) -> None:
    submit(database)
    hold = claim(database)
    for step, best in ((1, True), (2, True), (3, False), (4, False)):
        blob = artifacts.write_chunks(database, bytes([step]) * (artifacts.CHUNK_BYTES + 5))
        with database.write() as session:
            artifacts.add_checkpoint(session, hold, blob, epoch=step, step=step, best=best)
        artifacts.prune(database)
    with database.read() as session:
        rows = session.query(Checkpoint).order_by(Checkpoint.step).all()
        assert [(row.step, row.is_last, row.is_best) for row in rows] == [(2, False, True), (4, True, False)]
        assert session.query(Chunk).count() == 4
        assert session.query(Blob).count() == 2
        assert artifacts.read_blob(session, rows[0].id)[:1] == b"\x02"


def test_bytes_that_changed_on_disk_are_never_used(database: Database) -> None:
    blob = artifacts.write_chunks(database, b"weights")
    with database.write() as session:
        session.add(blob)
    with database.write() as session:
        session.get_one(Chunk, (blob.id, 0)).data = b"weightz"
    with database.read() as session, pytest.raises(InternalError, match="blob_corrupt"):
        artifacts.read_blob(session, blob.id)


def test_bytes_that_are_read_in_pieces_come_whole_or_not(database: Database) -> None:
    data = os.urandom(2 * artifacts.CHUNK_BYTES + 5)
    blob = artifacts.write_chunks(database, data)
    with database.write() as session:
        session.add(blob)
    pieces = list(artifacts.pieces(database, blob))
    assert [len(piece) for piece in pieces] == [artifacts.CHUNK_BYTES, artifacts.CHUNK_BYTES, 5]
    assert b"".join(pieces) == data
    with database.write() as session:
        session.execute(update(Chunk).where(Chunk.number == 0).values(data=b"x" + data[1 : artifacts.CHUNK_BYTES]))
    given = artifacts.pieces(database, blob)
    assert sum(len(next(given)) for _ in range(2)) == 2 * artifacts.CHUNK_BYTES
    with pytest.raises(InternalError, match="blob_corrupt"):
        next(given)


def test_a_process_is_gone_only_when_that_is_certain() -> None:
    me = identity()
    assert not is_gone(me)
    assert is_gone({**me, "started": me["started"] - 100})  # the pid is somebody else's now
    assert is_gone({**me, "pid": 2**22 + 1})
    assert not is_gone({**me, "machine": "elsewhere", "pid": 2**22 + 1})


def test_a_card_that_torch_cannot_use_is_told_where_the_processor_trains_instead(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Enough(Exception):
        pass

    def load(*_: object) -> None:
        raise Enough

    monkeypatch.setattr("workers.train_job.load_pictures", load)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    submit(database)
    context = Context(Settings(data=tmp_path, threads=1), database, claim(database), threading.Event())
    told = []
    for drivers in ((), (tmp_path,)):
        monkeypatch.setattr("service.settings.GPU_DRIVERS", drivers)
        with database.read() as session:
            job = jobs.get(session, context.hold.job_id)
        with pytest.raises(Enough):
            train_job.learn(context, job)
        with database.read() as session:
            told.append([event.data["message"] for event in session.scalars(select(Event).filter_by(type="warning"))])
    assert told[0] == []
    assert "no card that torch can use" in told[1][0]
