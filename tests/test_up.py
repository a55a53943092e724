"""`fovea up`: both processes start together, stop together, are replaced when they die, and a job goes on by itself."""

import signal
import socket
import subprocess
import sys
import time

import psutil

from service.db.tables import Job
from tests.conftest import Fovea, colours_zip
from tests.test_recovery import SPEC


def test_up_stops_both_by_either_signal_and_the_next_start_goes_on(fovea: Fovea) -> None:
    up(fovea)
    fovea.dataset(colours_zip(), "colours")
    job = fovea.train("m", "colours", {**SPEC, "epochs": 10_000})["id"]
    step = stopped(fovea, job, signal.SIGINT, beyond=0)
    up(fovea)
    stopped(fovea, job, signal.SIGTERM, beyond=step)


def stopped(fovea: Fovea, job: str, number: int, beyond: int) -> int:
    """The step at which `fovea up` leaves the job, told to go when that has come beyond a step."""
    fovea.wait_for(job, lambda now: now["status"] == "running" and bool(now["progress"]))
    fovea.wait_for(job, lambda now: now["progress"]["step"] > beyond)
    family = psutil.Process(fovea.processes["up"].pid).children(recursive=True)
    assert len(family) >= 3, "service, worker, and the job's process"
    assert fovea.end("up", number=number) == [0]
    assert not any(process.is_running() for process in family)
    with fovea.database() as database, database.read() as session:
        left = session.get_one(Job, job)
        assert (left.status, left.deaths) == ("interrupted", 0)
        return int(left.progress["step"])


def test_a_killed_worker_or_service_is_started_again_and_the_job_goes_on(fovea: Fovea) -> None:
    up(fovea)
    fovea.dataset(colours_zip(), "colours")
    job = fovea.train("m", "colours", {**SPEC, "epochs": 10_000})["id"]
    for name in ("workers", "service"):
        now = fovea.wait_for(job, lambda now: now["status"] == "running" and bool(now["progress"]))
        child(fovea, name).kill()
        fovea.wait_ready()
        step = now["progress"]["step"]
        fovea.wait_for(job, lambda now, step=step: now["status"] == "running" and now["progress"]["step"] > step)
        assert child(fovea, name).is_running()
    assert fovea.job(job)["attempt"] == 2
    assert fovea.end("up") == [0]


def test_a_service_that_cannot_start_ends_up_with_the_reason(fovea: Fovea) -> None:
    with socket.create_server(("127.0.0.1", fovea.port)):
        launch(fovea)
        assert fovea.processes.pop("up").wait(60) == 1
    told = (fovea.data.parent / "up.log").read_text()
    assert "Address already in use" in told
    assert "fovea up: service ended by itself (exit code 3); see its messages above" in told


def child(fovea: Fovea, name: str) -> psutil.Process:
    """Service or workers, as soon as it is there."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for process in psutil.Process(fovea.processes["up"].pid).children():
            if process.cmdline()[-1:] == [name]:
                return process
        time.sleep(0.05)
    raise AssertionError((fovea.data.parent / "up.log").read_text())


def up(fovea: Fovea) -> None:
    launch(fovea)
    fovea.wait_ready()


def launch(fovea: Fovea) -> None:
    with (fovea.data.parent / "up.log").open("ab") as log:
        words = [sys.executable, "-m", "service.cli", "up"]
        fovea.processes["up"] = subprocess.Popen(words, env=fovea.environment, stdout=log, stderr=log)
