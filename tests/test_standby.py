"""Real processes that wait for a job: who has torch, whose job takes which, and what becomes of a fork."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from service.db import Database
from service.db.migrate import upgrade
from service.settings import Settings
from workers.standby import Child, Forked, Standby, Started

ORDER = {"job_id": "job_none", "attempt": 1}  # there is no such job, so its process dies of it


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    data = tmp_path_factory.mktemp("standby")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("FOVEA_DATA", str(data))
        settings = Settings(data=data)
        database = Database(settings.database)
        upgrade(database)
        database.dispose()
        yield settings


@pytest.fixture(scope="module")
def standby(settings: Settings) -> Iterator[Standby]:
    """One for all: each start of it imports torch."""
    standby = Standby()
    yield standby
    standby.close()


@pytest.fixture
def patient(settings: Settings) -> dict:
    """An order whose process waits for ever: for somebody to read the pipe that is its log."""
    settings.logs.mkdir(exist_ok=True)
    if not (log := settings.logs / "job_patient.log").exists():
        os.mkfifo(log)
    return {"job_id": "job_patient", "attempt": 1}


def test_a_fork_can_be_killed_before_it_is_there_and_after(standby: Standby, patient: dict) -> None:
    early = standby.give("train", patient)
    assert early.pid is None
    early.kill()
    assert early.poll() == -signal.SIGKILL
    child = standby.give("train", patient)
    child.send_signal(signal.SIGSTOP)  # kept until there is a process to stop
    source, job = of_kind("forking"), forked(child)
    source.terminate()  # which is for jobs only: it stays
    assert source.children() == [job]
    until(lambda: job.status() == psutil.STATUS_STOPPED)
    child.kill()
    assert child.poll() == -signal.SIGKILL
    assert source.children() == []
    assert standby.give("train", ORDER).wait(60) == 1


def test_an_import_leaves_the_process_with_torch_to_the_training_that_follows(standby: Standby) -> None:
    light, heavy = standby.give("import", ORDER), standby.give("train", ORDER)
    assert (type(light), type(heavy)) == (Started, Forked)
    assert light.wait(60) == 1
    assert heavy.wait(60) == 1
    forking = of_kind("forking")
    assert "libtorch" in Path(f"/proc/{forking.pid}/maps").read_text()
    assert forking.num_threads() <= os.cpu_count() * 2  # numpy's and scipy's, which know how to fork; none of Python's


def test_a_second_job_finds_all_imported_and_ended_ones_leave_nothing(standby: Standby) -> None:
    first = standby.give("train", ORDER)
    assert first.wait(60) == 1
    source = of_kind("forking")
    for _ in range(3):
        child = standby.give("train", ORDER)
        assert child.wait(10) == 1
    assert of_kind("forking").pid == source.pid
    assert source.children() == []


def test_a_signal_for_one_that_has_ended_meanwhile_is_nobodys(standby: Standby) -> None:
    child = standby.give("train", ORDER)
    child.send_signal(signal.SIGTERM)
    source = of_kind("forking")
    until(lambda: bool(source.children()))
    until(lambda: not source.children())  # reaped, and nothing of it heard yet
    assert child.wait(60) in (1, -signal.SIGTERM)


def test_a_fork_dies_with_its_source_and_another_is_started(standby: Standby, patient: dict) -> None:
    child = standby.give("train", patient)
    source, job = of_kind("forking"), forked(child)
    source.kill()
    assert child.wait(10) == -signal.SIGKILL
    until(lambda: not job.is_running() or job.status() == psutil.STATUS_ZOMBIE)
    assert standby.give("train", ORDER).wait(60) == 1
    assert of_kind("forking").pid != source.pid


def test_what_forks_does_not_ask_for_a_graphics_card_where_there_may_be_one(settings: Settings, tmp_path: Path) -> None:
    """CUDA serves no fork of a process in which it was as much as asked; it then loads the driver."""

    def asks(device: str) -> bool:
        """The linker tells who loads what."""
        told = {"LD_DEBUG": "files", "LD_DEBUG_OUTPUT": str(tmp_path / device), "FOVEA_DEVICE": device}
        command = [sys.executable, "-m", "workers.run_job", "forking"]
        subprocess.run(command, input=json.dumps(ORDER).encode(), env=os.environ | told, timeout=120, check=True)
        text = "".join(path.read_text() for path in tmp_path.glob(f"{device}.*"))
        assert "libtorch_cpu.so" in text
        return bool(re.search(r"file=libcuda\.so\S* .*dynamically loaded by \S*libcudart", text))

    assert not asks("cuda")
    assert asks("cpu")  # exporting does


def test_jobs_of_a_processor_see_no_graphics_card(settings: Settings) -> None:
    code = "import os; from workers import run_job; run_job.main('light'); print(os.environ['CUDA_VISIBLE_DEVICES'])"
    for device, seen in (("cpu", "\n"), ("auto", "0\n")):
        environment = os.environ | {"FOVEA_DEVICE": device, "CUDA_VISIBLE_DEVICES": "0"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, input=b"", env=environment, capture_output=True, timeout=60, check=True)
        assert done.stdout.decode() == seen


def test_where_a_process_cannot_be_forked_each_job_has_one_of_its_own(
    standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.standby.FORKS", False)
    standby.prepare()
    before = of_kind("heavy").pid
    child: Child = standby.give("train", ORDER)
    assert (type(child), child.pid) == (Started, before)
    assert child.wait(60) == 1


def test_a_process_that_died_of_waiting_is_replaced(standby: Standby) -> None:
    standby.prepare()
    dead = {process.pid: process for process in psutil.Process().children()}
    for process in dead.values():
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    standby.prepare()
    assert not {of_kind(kind).pid for kind in ("light", "forking")} & set(dead)


def forked(child: Child) -> psutil.Process:
    until(lambda: child.poll() is None and child.pid is not None)
    return psutil.Process(child.pid)


def of_kind(kind: str) -> psutil.Process:
    """The one that waits; for a moment after its start a process has no words."""

    def found() -> list[psutil.Process]:
        alive = [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]
        return [one for one in alive if one.cmdline()[-1:] == [kind]]

    until(lambda: len(found()) == 1)
    return found()[0]


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
