"""A backup is proved by what is restored from it: the same rows, files and answers, on another machine's folder."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service import backup
from service.errors import ServiceError
from service.settings import Settings
from tests.conftest import Fovea, colours_zip, fovea_in
from tests.postgresql import GIVEN
from tests.test_predictions import LAYERS, files_of, picture, rows_of

pytestmark = pytest.mark.skipif(GIVEN is not None, reason="PostgreSQL has backups of its own")

SPEC = {"network": {"layers": LAYERS}, "image_size": 16, "epochs": 2, "precision": "fp32"}
MADE_AGAIN = ("cache", "logs", "uploads")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fovea]:
    """A service that has a dataset, a model and a kept prediction."""
    with fovea_in(tmp_path_factory.mktemp("full")) as fovea:
        fovea.start()
        fovea.dataset(colours_zip(), "colours")
        job = fovea.wait(fovea.train("colours", "colours", SPEC, seed=1)["id"])
        assert job["status"] == "succeeded", job
        keep(fovea)
        yield fovea


def keep(fovea: Fovea) -> dict:
    answer = fovea.http.post("/v1/models/colours/classify", content=picture(), params={"store": True})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def command(data: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FOVEA_DATA": str(data)}
    words = (sys.executable, "-m", "service.cli", *words)
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)


def lasting(data: Path) -> set[str]:
    return {name for name in files_of(data) if not name.startswith(MADE_AGAIN)}


def test_what_is_restored_answers_as_the_original_did(full: Fovea, tmp_path: Path) -> None:
    """Backed up under load, begun anew from nothing but the copy."""
    kept, image = keep(full), picture()
    asked = full.http.post("/v1/models/colours/classify", content=image).json()
    evaluation = full.http.get("/v1/models/colours/evaluation").json()
    stop, failed = threading.Event(), []

    def load() -> None:
        while not stop.is_set():
            try:
                prediction = keep(full)
                gone = full.http.delete(f"/v1/predictions/{prediction['id']}").status_code
                assert gone == 204
            except Exception as error:  # noqa: BLE001 - told below
                failed.append(error)
                return

    thread = threading.Thread(target=load)
    thread.start()
    try:
        done = command(full.data, "backup", str(tmp_path / "copy"), "--json")
    finally:
        stop.set()
        thread.join(60)
    assert failed == []
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    assert manifest["rows"]["model_versions"] == 1
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o700

    with fovea_in(tmp_path) as other:
        restored = command(other.data, "restore", str(tmp_path / "copy"))
        assert restored.returncode == 0, restored.stderr
        assert restored.stdout.startswith(f"restored into {other.data}: ")
        with_rows = {table: rows for table, rows in rows_of(other).items() if rows}
        assert with_rows == {table: rows for table, rows in manifest["rows"].items() if rows}
        other.start()
        answer = other.http.post("/v1/models/colours/classify", content=image).json()
        assert answer["results"] == asked["results"]
        assert other.http.get("/v1/models/colours/evaluation").json() == evaluation
        replayed = other.http.post(f"/v1/predictions/{kept['id']}:replay")
        assert replayed.status_code == 200, replayed.text
        assert replayed.json()["equal"] is True
        again = other.wait(other.train("more", "colours", SPEC, seed=1)["id"])
        first = full.job(full.http.get("/v1/models/colours/versions/1").json()["lineage"]["job"])
        assert again["result"]["weights_sha256"] == first["result"]["weights_sha256"]


def test_only_a_whole_backup_is_there_and_only_a_right_one_is_restored(full: Fovea, tmp_path: Path) -> None:
    settings, copy = Settings(data=full.data), tmp_path / "copy"
    manifest = backup.write(settings, copy)
    assert lasting(copy) - {"manifest.json"} == lasting(full.data)
    with pytest.raises(ServiceError, match="target_exists"):
        backup.write(settings, copy)
    with pytest.raises(ServiceError, match="data_exist"):
        backup.restore(settings, copy)

    empty = Settings(data=tmp_path / "empty")
    with pytest.raises(ServiceError, match="no_data"):
        backup.write(empty, tmp_path / "nothing")
    with pytest.raises(ServiceError, match="not_a_backup"):
        backup.restore(empty, tmp_path)
    archive = next(copy.glob("archives/*/*.zip"))
    whole = archive.read_bytes()
    for damaged in (whole[:-1], whole[:100] + bytes([whole[100] ^ 1]) + whole[101:], None):
        archive.unlink()
        if damaged is not None:
            archive.write_bytes(damaged)
        with pytest.raises(ServiceError, match="backup_damaged"):
            backup.restore(empty, copy)
        assert not any(empty.data.iterdir())
        archive.write_bytes(whole)
    for name in ("../outside", "/outside"):
        (copy / "manifest.json").write_text(
            manifest.model_copy(update={"files": {**manifest.files, name: "0"}}).model_dump_json()
        )
        with pytest.raises(ServiceError, match="backup_damaged"):
            backup.restore(empty, copy)
    (copy / "manifest.json").write_text(manifest.model_copy(update={"files": {}}).model_dump_json())
    with pytest.raises(ServiceError, match="not_a_backup"):
        backup.restore(empty, copy)
    (copy / "manifest.json").write_text(manifest.model_copy(update={"format": 99}).model_dump_json())
    with pytest.raises(ServiceError, match="newer_backup"):
        backup.restore(empty, copy)
    (copy / "manifest.json").write_text(manifest.model_dump_json())
    assert backup.restore(empty, copy) == manifest
    assert lasting(empty.data) == lasting(full.data)


def test_a_file_that_goes_while_it_is_copied_means_another_moment(
    full: Fovea, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, copied, prediction = Settings(data=full.data), backup._copy_file, keep(full)

    def removed_meanwhile(path: Path, copy: Path) -> str:
        if path.parent.parent.name == "predictions":
            full.http.delete(f"/v1/predictions/{prediction['id']}")
        return copied(path, copy)

    monkeypatch.setattr(backup, "_copy_file", removed_meanwhile)
    before = rows_of(full)["predictions"]
    assert backup.write(settings, tmp_path / "copy").rows["predictions"] == before - 1
    assert {*lasting(tmp_path / "copy")} - {"manifest.json"} == lasting(full.data)


def test_a_damaged_file_is_named_and_nothing_is_left_of_the_backup(full: Fovea, tmp_path: Path) -> None:
    keep(full)
    victim = next((full.data / "predictions").glob("*/*"))
    whole = victim.read_bytes()
    try:
        victim.write_bytes(whole[:-1])
        failed = command(full.data, "backup", str(tmp_path / "copy"))
        assert failed.returncode == 1
        assert failed.stderr.startswith("fovea: file_damaged: ")
        assert victim.name in failed.stderr
        victim.unlink()
        failed = command(full.data, "backup", str(tmp_path / "copy"))
        assert failed.stderr.startswith("fovea: file_missing: ")
    finally:
        victim.write_bytes(whole)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_backup_is_none_and_the_next_one_is(full: Fovea, tmp_path: Path) -> None:
    slow = f"""
import time
from pathlib import Path
from service import backup
from service.settings import Settings
backup.write(Settings(data=Path({str(full.data)!r})), Path({str(tmp_path / "copy")!r}), lambda *_: time.sleep(60))
"""
    process = subprocess.Popen([sys.executable, "-c", slow])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list((tmp_path / "copy.part").glob("archives/*/*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "copy").exists()
    backup.write(Settings(data=full.data), tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_uploads_under_way_stay_behind_and_postgresql_has_its_own(full: Fovea, tmp_path: Path) -> None:
    begun = full.http.post("/v1/uploads", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "1000"})
    assert begun.status_code == 201, begun.text
    assert backup.write(Settings(data=full.data), tmp_path / "copy").rows["uploads"] == 0
    assert rows_of(full)["uploads"] == 1
    url = "postgresql+psycopg://somebody@localhost/fovea"
    with pytest.raises(ServiceError, match="not_sqlite"):
        backup.write(Settings(data=full.data, database_url=url), tmp_path / "other")
