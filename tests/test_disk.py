"""A disk that is full, or nearly so: named refusals, nothing half-written, and all goes on when there is room again."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from service import files, jobs
from service.db import Base, Database
from service.errors import InsufficientStorage
from tests.conftest import Fovea, colours_zip, png
from tests.test_errors import check

PLENTY = 2**60
ZIP, PNG = {"Content-Type": "application/zip"}, {"Content-Type": "image/png"}
PICTURE = png(np.zeros((16, 16, 3), np.uint8))


def test_a_full_database_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'fovea.db'}")
    Base.metadata.create_all(database.engine)
    with database.read() as session:
        session.execute(text("PRAGMA max_page_count = 80"))  # of this one connection of the pool
    with pytest.raises(InsufficientStorage) as caught:
        _submit_many(database)
    assert caught.value.code == "database_full"
    with database.write() as session:
        assert session.scalar(text("SELECT count(*) FROM jobs")) == 0
        session.execute(text("PRAGMA max_page_count = 100000"))
        jobs.submit(session, "train", spec={})
    database.dispose()


def _submit_many(database: Database) -> None:
    with database.write() as session:
        for _ in range(1000):
            jobs.submit(session, "train", spec={"filling": "x" * 1000})


def test_a_file_that_finds_no_room_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(InsufficientStorage, match="disk_full"):
        files.write_aside(tmp_path, b"picture")
    assert not list(tmp_path.iterdir())


def test_below_the_reserve_jobs_are_refused_and_those_that_wait_wait(fovea: Fovea) -> None:
    fovea.start()
    fovea.dataset(colours_zip(), "colours")
    fovea.end()
    fovea.environment["FOVEA_DISK_RESERVE_BYTES"] = str(PLENTY)
    with fovea.database() as database, database.write() as session:
        waiting = jobs.submit(session, "analyse", spec={}).id
    fovea.start(until="/livez")
    body = {"type": "train", "model": "m", "dataset": "colours"}
    check(fovea.http.post("/v1/jobs", json=body), 507, "disk_full")
    assert fovea.http.post("/v1/jobs?dry_run=true", json=body).status_code == 200
    log = fovea.data.parent / "workers.log"
    while "jobs wait" not in log.read_text():
        assert fovea.processes["workers"].poll() is None
    assert fovea.job(waiting)["status"] == "queued"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB, where this process may mount one."""
    folder = tmp_path / "data"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "fovea-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root mounts a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_job_whose_disk_fills_up_goes_on_when_there_is_room_again(small_disk: Path) -> None:
    fovea = Fovea(small_disk, FOVEA_DISK_RESERVE_BYTES="1", FOVEA_CHECKPOINT_SECONDS="0.1")
    filling = small_disk / "filling"
    try:
        fovea.start()
        fovea.dataset(colours_zip(), "colours")
        job = fovea.train("colours", "colours", {"network": "classic", "epochs": 10_000, "image_size": 16})
        fovea.wait_for(job["id"], lambda job: (job["progress"] or {}).get("epoch", 0) >= 2)
        _fill(filling)
        log = fovea.data.parent / "workers.log"
        fovea.wait_for(job["id"], lambda _: "database_full" in log.read_text() or "jobs wait" in log.read_text())
        assert fovea.http.get("/v1/datasets").status_code == 200
        check(fovea.http.post("/v1/datasets?name=a", content=colours_zip(), headers=ZIP), 507, "disk_full")
        assert all(process.poll() is None for process in fovea.processes.values())
        filling.unlink()
        fovea.wait_for(job["id"], lambda now: now["status"] == "running" and now["attempt"] > 1)
        assert fovea.http.post(f"/v1/jobs/{job['id']}:stop").status_code == 202
        assert fovea.wait(job["id"])["status"] == "succeeded"
        answer = fovea.http.post("/v1/models/colours/classify?store=true", content=PICTURE, headers=PNG)
        assert answer.status_code == 200, answer.text
    finally:
        filling.unlink(missing_ok=True)
        fovea.http.close()
        fovea.end()


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                return
