"""`fovea up`: both processes start together, stop together, and a job in hand is taken up again."""

import signal
import subprocess
import sys

import psutil
import pytest

from service.db.tables import Job
from tests.conftest import Fovea, colours_zip
from tests.test_recovery import SPEC


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_stops_both_and_the_next_start_goes_on(fovea: Fovea, number: int) -> None:
    up(fovea)
    fovea.dataset(colours_zip(), "colours")
    job = fovea.train("m", "colours", {**SPEC, "epochs": 10_000})["id"]
    fovea.wait_for(job, lambda now: bool(now["progress"]))
    family = psutil.Process(fovea.processes["up"].pid).children(recursive=True)
    assert len(family) >= 3, "service, worker, and the job's process"

    assert fovea.end("up", number=number) == [0]
    assert not any(process.is_running() for process in family)
    with fovea.database() as database, database.read() as session:
        left = session.get_one(Job, job)
        assert (left.status, left.deaths) == ("interrupted", 0)
        step = left.progress["step"]

    up(fovea)
    fovea.wait_for(job, lambda now: now["status"] == "running" and now["progress"]["step"] > step)
    assert fovea.end("up") == [0]


def up(fovea: Fovea) -> None:
    with (fovea.data.parent / "up.log").open("ab") as log:
        words = [sys.executable, "-m", "service.cli", "up"]
        fovea.processes["up"] = subprocess.Popen(words, env=fovea.environment, stdout=log, stderr=log)
    fovea.wait_ready()
