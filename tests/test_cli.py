"""The command line against a real service, as a person would type it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import KEY, Fovea, colours_zip, png


def run(fovea: Fovea | None, *words: str, key: str = KEY) -> subprocess.CompletedProcess[str]:
    url = fovea.url if fovea else "http://127.0.0.1:9"
    environment = {**os.environ, "FOVEA_URL": url, "FOVEA_API_KEY": key, "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "service.cli", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_push_train_classify_and_look(shared: Fovea, tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(colours_zip())
    pushed = run(shared, "datasets", "push", str(tmp_path / "photos.zip"), "--name", "photos", "--json")
    assert pushed.returncode == 0, pushed.stderr
    assert json.loads(pushed.stdout)["image_count"] == 60

    shown = json.loads(run(shared, "datasets", "show", "photos").stdout)
    assert shown["report"]["accepted"] == 60

    trained = run(shared, "train", "photos", "--network", "classic", "--epochs", "3", "--follow")
    assert trained.returncode == 0, trained.stderr
    assert "epoch   3/3" in trained.stdout
    assert "succeeded" in trained.stdout

    for name, colour in (("red.png", (200, 30, 30)), ("blue.png", (30, 30, 200))):
        (tmp_path / name).write_bytes(png(np.full((16, 16, 3), colour, np.uint8)))
    named = run(shared, "classify", "photos", str(tmp_path / "red.png"), str(tmp_path / "blue.png"), "--json")
    assert [row["label"] for row in json.loads(named.stdout)["results"]] == ["red", "blue"]
    assert json.loads(run(shared, "models", "ls", "--json").stdout)[0]["name"] == "photos"
    assert "train" in run(shared, "jobs", "ls").stdout
    assert run(shared, "datasets", "rm", "photos").returncode == 0
    assert json.loads(run(shared, "datasets", "ls", "--json").stdout) == []


def test_an_error_is_one_readable_line_and_exit_code_1(shared: Fovea) -> None:
    failed = run(shared, "train", "nothing")
    assert failed.returncode == 1
    assert failed.stderr.startswith("fovea: dataset_not_found: ")
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "key"), [(("train", "a\udcff"), KEY), (("jobs", "show", "a\nb"), KEY), (("jobs", "ls"), "ключ")]
)
def test_what_no_request_can_hold_is_said_so(shared: Fovea, words: tuple[str, ...], key: str) -> None:
    failed = run(shared, *words, key=key)
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
    assert failed.stderr.startswith("fovea: not_sendable: ")


def test_a_service_that_is_not_there_is_said_so() -> None:
    failed = run(None, "jobs", "ls")
    assert failed.returncode == 1
    assert "fovea up" in failed.stderr


def test_help_imports_neither_the_server_nor_an_engine() -> None:
    code = "import sys, service.cli; print(sorted({'torch', 'sqlalchemy', 'uvicorn', 'fastapi'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "[]"
