"""Real processes that wait for a job: who has torch, and whose job takes which."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.standby import Child, Standby, kill


@pytest.fixture
def standby(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standby]:
    monkeypatch.setenv("FOVEA_DATA", str(tmp_path))
    standby = Standby()
    yield standby
    standby.close()


def test_an_import_leaves_the_process_with_torch_to_the_training_that_follows(standby: Standby) -> None:
    standby.prepare()
    light = standby.take("import")
    standby.prepare()
    heavy = standby.take("train")
    try:
        _until_it_has_torch(heavy)
        assert not _has_torch(light)
    finally:
        for child in (light, heavy):
            kill(child)


def test_a_process_that_died_of_waiting_is_replaced(standby: Standby) -> None:
    before = _children()
    standby.prepare()
    dead = _children() - before
    for pid in dead:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    standby.prepare()
    replaced = standby.take("train")
    try:
        assert replaced.pid not in dead
        assert replaced.poll() is None
    finally:
        kill(replaced)


def _children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def _until_it_has_torch(child: Child) -> None:
    deadline = time.monotonic() + 60
    while not _has_torch(child):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _has_torch(child: Child) -> bool:
    return "libtorch" in Path(f"/proc/{child.pid}/maps").read_text()
