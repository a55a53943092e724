"""What is deleted is gone from the disk, and nothing else is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import files
from service.api import context
from service.api.context import Answer, Once
from service.datasets import versions
from service.db import Base, Database
from service.db.tables import Dataset, IdempotentAnswer
from service.ids import now
from service.settings import Settings
from tests.conftest import Fovea, colours_zip, make_zip, png
from tests.test_errors import check

ARCHIVE = b"an archive that two datasets have"
SHA256 = "ab" * 32
RANDOM = np.random.default_rng(0)


class Interleaved(Database):
    """Does something else once, between two of its transactions."""

    between: Callable[[], None] | None = None

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Session]:
        with super().write(durable=durable) as session:
            yield session
        if self.between:
            self.between, do = None, self.between
            do()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path)


@pytest.fixture
def database(settings: Settings) -> Iterator[Interleaved]:
    opened = Interleaved(settings.database)
    Base.metadata.create_all(opened.engine)
    yield opened
    opened.dispose()


def test_an_archive_that_arrives_again_while_its_dataset_is_deleted_stays(
    database: Interleaved, settings: Settings
) -> None:
    def bring(name: str) -> None:
        aside = files.write_aside(settings.uploads, ARCHIVE)
        with database.write() as session:
            dataset = versions.create_dataset(session, name)
            version, job = versions.add_version(session, dataset, SHA256, len(ARCHIVE))
            version.status, job.status = "ready", "succeeded"
            files.put(aside, versions.archive_path(settings, SHA256))

    bring("first")
    database.between = lambda: bring("second")
    versions.delete_dataset(database, settings, "first")
    assert versions.archive_path(settings, SHA256).read_bytes() == ARCHIVE
    versions.delete_dataset(database, settings, "second")
    assert not versions.archive_path(settings, SHA256).exists()
    with database.read() as session:
        assert not list(session.scalars(select(Dataset)))


def test_names_of_a_deleted_dataset_are_in_no_file(fovea: Fovea) -> None:
    fovea.start()
    marked = {
        f"{label}/{number}.png": png(RANDOM.integers(0, 255, (16, 16, 3), np.uint8))
        for label in ("zebramark", "other")
        for number in range(30)
    }
    fovea.dataset(make_zip(marked), "doomed")
    fovea.dataset(colours_zip(), "colours")
    assert fovea.http.delete("/v1/datasets/doomed").status_code == 204
    fovea.end()
    if "FOVEA_DATABASE_URL" not in fovea.environment:  # PostgreSQL's vacuum has its own time
        with fovea.database() as database, database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    kept = [path for path in fovea.data.rglob("*") if path.is_file()]
    assert not [path for path in kept if b"zebramark" in path.read_bytes()]


def test_an_answer_is_repeated_for_a_day_and_until_what_it_tells_of_is_removed(
    database: Interleaved, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(key: str, body: dict[str, str]) -> dict[str, str]:
        with database.write() as session:
            answer = Once("key_1", key, "POST /v1/x?").do(session, "", lambda: Answer(201, body))
            return {**answer.body}

    for key in ("old", "removed", "kept"):
        ask(key, {"id": f"pred_{key}"})
    assert ask("old", {}) == {"id": "pred_old"}
    with database.write() as session:
        Once.forget(session, "pred_removed")
        session.get_one(IdempotentAnswer, ("key_1", "old")).created_at = now() - context.REPEATED_SECONDS - 1
    Once.forget_old(database)
    assert [ask(key, {"id": "new"})["id"] for key in ("old", "removed", "kept")] == ["new", "new", "pred_kept"]


def test_an_import_that_is_cancelled_or_dies_leaves_a_version_that_failed(fovea: Fovea) -> None:
    fovea.start("service")
    queued = fovea.upload(colours_zip(), "colours")["job"]["id"]
    assert fovea.http.post(f"/v1/jobs/{queued}:cancel").json()["status"] == "cancelled"
    assert fovea.http.get("/v1/datasets/colours/versions/1").json()["status"] == "failed"
    refused = fovea.http.post("/v1/jobs", json={"type": "train", "model": "m", "dataset": "colours"})
    assert "wait" not in check(refused, 409, "dataset_not_ready")["hint"]
