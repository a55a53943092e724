"""Bytes on the disk have become others, or are gone: it is said, nobody learns of them, and what can be is mended."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from service.artifacts import is_whole
from service.datasets import packing
from service.datasets.versions import archive_path
from service.db.tables import Blob, Checkpoint, Chunk, Event, ModelVersion
from service.settings import Settings
from tests.conftest import Fovea, colours_zip, png
from tests.test_errors import check
from tests.test_recovery import SPEC, act

SHORT = {**SPEC, "epochs": 2}
ARCHIVE = colours_zip()


@pytest.fixture
def archive(shared: Fovea) -> Iterator[Path]:
    """Of a dataset with the pictures of `ARCHIVE`; whole again afterwards."""
    if shared.http.get("/v1/datasets/colours").status_code == 404:
        shared.dataset(ARCHIVE, "colours")
    path = archive_path(Settings(data=shared.data), hashlib.sha256(ARCHIVE).hexdigest())
    yield path
    path.write_bytes(ARCHIVE)


def item(fovea: Fovea) -> str:
    where = "/v1/datasets/colours/versions/1/items"
    return f"{where}/{fovea.http.get(where).json()['data'][0]['image']}"


def invert(path: Path, begin: int = 0, end: int | None = None) -> None:
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    data[begin:end] ^= 255
    path.write_bytes(data.tobytes())


def flip(fovea: Fovea, blob_id: str) -> None:
    """One bit of what the database holds."""
    with fovea.database() as database, database.write() as session:
        chunk = session.scalars(select(Chunk).where(Chunk.blob_id == blob_id)).first()
        assert chunk is not None
        middle = len(chunk.data) // 2
        chunk.data = chunk.data[:middle] + bytes([chunk.data[middle] ^ 1]) + chunk.data[middle + 1 :]


def warnings_of(fovea: Fovea, job: str) -> list[str]:
    with fovea.database() as database, database.read() as session:
        rows = session.scalars(select(Event).where(Event.job_id == job, Event.type == "warning"))
        return [row.data["message"] for row in rows]


# --- archives --------------------------------------------------------------------------------------------------------


def test_a_picture_of_a_damaged_archive_is_our_fault_and_says_what_to_do(shared: Fovea, archive: Path) -> None:
    picture = item(shared)
    invert(archive, 30, 2000)
    for path in (picture, f"{picture}/thumbnail"):
        assert "upload the same zip again" in check(shared.http.get(path), 500, "archive_damaged")["hint"]
    archive.unlink()
    for path in (picture, f"{picture}/thumbnail"):
        assert "missing" in check(shared.http.get(path), 500, "archive_damaged")["detail"]


def test_the_same_zip_mends_a_damaged_archive_for_all_its_versions(shared: Fovea, archive: Path) -> None:
    picture = item(shared)
    whole = shared.http.get(picture).content
    for number, harm in enumerate((lambda: invert(archive), lambda: archive.write_bytes(ARCHIVE[:99]))):
        harm()
        assert shared.http.get(picture).status_code == 500
        shared.dataset(ARCHIVE, f"again-{number}")
        assert archive.read_bytes() == ARCHIVE
        assert shared.http.get(picture).content == whole
    before = archive.stat().st_ino
    shared.dataset(ARCHIVE, "unharmed")
    assert archive.stat().st_ino == before
    assert list((shared.data / "uploads").iterdir()) == []


def test_a_training_that_must_decode_a_missing_or_damaged_archive_says_so(shared: Fovea, archive: Path) -> None:
    for harm in (lambda: invert(archive, 30, 2000), archive.unlink):
        harm()
        job = shared.wait(shared.train("never", "colours", {**SHORT, "image_size": 40})["id"])
        assert (job["status"], job["error"]["code"]) == ("failed", "archive_damaged")
        assert job["error"]["hint"]
        assert job["attempt"] == 1
    assert not list((shared.data / "cache").glob("*-40.npy*"))


# --- packed pixels ---------------------------------------------------------------------------------------------------


def test_packed_pixels_that_have_become_others_are_made_again(shared: Fovea, archive: Path) -> None:
    def train() -> dict:
        job = shared.wait(shared.train("pixels", "colours@1", {**SHORT, "image_size": 24}, seed=1)["id"])
        assert (job["status"], job["attempt"]) == ("succeeded", 1), job
        return job

    first = train()
    assert warnings_of(shared, first["id"]) == []
    cache = cache_of(shared, 1, 24)
    whole = cache.read_bytes()
    for harm in (lambda: invert(cache, 200), lambda: cache.write_bytes(whole[:-5000]), lambda: cache.write_bytes(b"")):
        harm()
        again = train()
        assert again["result"]["weights_sha256"] == first["result"]["weights_sha256"]
        (told,) = warnings_of(shared, again["id"])
        assert "packed pixels at 24 px are damaged" in told
        assert cache.read_bytes() == whole


def test_damaged_pixels_are_not_borrowed(shared: Fovea, archive: Path) -> None:
    spec = {**SHORT, "image_size": 48}
    assert shared.wait(shared.train("lender", "colours@1", spec)["id"])["status"] == "succeeded"
    lender = cache_of(shared, 1, 48)
    rows = np.load(lender)
    invert(lender, 200)
    gone = item(shared)[-64:]
    for change in ({"image": gone, "action": "relabel", "label": "blue"}, {"image": gone, "action": "remove"}):
        answer = shared.http.post("/v1/datasets/colours/versions/1:edit", json={"changes": [change]})
        assert answer.status_code == 201, answer.text
        number = answer.json()["number"]
        assert shared.wait(shared.train("borrower", f"colours@{number}", spec)["id"])["status"] == "succeeded"
        assert np.array_equal(np.load(cache_of(shared, number, 48)), rows[-answer.json()["image_count"] :])
    assert not packing.is_whole(lender)


def cache_of(fovea: Fovea, number: int, size: int) -> Path:
    version = fovea.http.get(f"/v1/datasets/colours/versions/{number}").json()
    return fovea.data / "cache" / f"{version['id']}-{size}.npy"


# --- checkpoints -----------------------------------------------------------------------------------------------------


LONG = {**SPEC, "epochs": 200}


@pytest.fixture(scope="module")
def calm(shared: Fovea) -> str:
    """The weights of a job that nothing happened to."""
    if shared.http.get("/v1/datasets/colours").status_code == 404:
        shared.dataset(ARCHIVE, "colours")
    job = shared.wait(shared.train("calm", "colours@1", LONG, seed=3)["id"])
    return job["result"]["weights_sha256"]


def paused(fovea: Fovea) -> tuple[str, dict[str, str]]:
    """A job with different checkpoints for last and best; their ids."""
    job = fovea.train("harmed", "colours@1", LONG, seed=3)["id"]
    step = 0
    for _ in range(20):
        fovea.wait_for(job, lambda now, least=step: bool(now["progress"]) and now["progress"]["step"] > least)
        act(fovea, job, "pause")
        step = fovea.wait_for(job, lambda now: now["status"] == "paused")["progress"]["step"]
        with fovea.database() as database, database.read() as session:
            rows = list(session.scalars(select(Checkpoint).where(Checkpoint.job_id == job)))
        if len(rows) == 2:
            return job, {"last" if row.is_last else "best": row.id for row in rows}
        act(fovea, job, "resume")
    raise AssertionError("the last checkpoint was always the best")


@pytest.mark.parametrize("harmed", [("last",), ("best",), ("last", "best")])
def test_a_damaged_checkpoint_costs_time_and_the_weights_are_the_same(
    shared: Fovea, calm: str, harmed: tuple[str, ...]
) -> None:
    job, checkpoints = paused(shared)
    for name in harmed:
        flip(shared, checkpoints[name])
    act(shared, job, "resume")
    ended = shared.wait(job)
    assert ended["status"] == "succeeded", ended
    (told,) = [one for one in warnings_of(shared, job) if "checkpoint is damaged" in one]
    assert ("the beginning" in told) == ("best" in harmed)
    assert ended["result"]["weights_sha256"] == calm
    points = {row["name"]: row["points"] for row in shared.http.get(f"/v1/jobs/{job}/metrics").json()["series"]}
    assert [point[1] for point in points["val/loss"]] == list(range(1, LONG["epochs"] + 1))


# --- programs and kept pictures --------------------------------------------------------------------------------------


def test_a_damaged_program_is_503_with_what_to_do(shared: Fovea, archive: Path) -> None:
    job = shared.wait(shared.train("program", "colours@1", SHORT)["id"])
    assert job["status"] == "succeeded", job
    with shared.database() as database, database.read() as session:
        version = session.scalars(select(ModelVersion).where(ModelVersion.job_id == job["id"])).one()
        assert is_whole(session, version.program_id)
    flip(shared, version.program_id)
    with shared.database() as database, database.read() as session:
        assert session.get(Blob, version.program_id) is not None
        assert not is_whole(session, version.program_id)
    for _ in range(2):
        answer = shared.http.post("/v1/models/program/classify", content=png(np.zeros((9, 9, 3), np.uint8)))
        assert "another version" in check(answer, 503, "program_damaged")["hint"]


def test_a_kept_picture_that_is_damaged_is_mended_by_the_same_one(shared: Fovea, archive: Path) -> None:
    assert shared.wait(shared.train("keeper", "colours@1", SHORT)["id"])["status"] == "succeeded"
    body = png(np.full((20, 20, 3), 7, np.uint8))

    def keep() -> str:
        answer = shared.http.post("/v1/models/keeper/classify?store=true", content=body)
        assert answer.status_code == 200, answer.text
        return f"/v1/predictions/{answer.json()['id']}/image"

    picture = keep()
    sha256 = hashlib.sha256(body).hexdigest()
    path = shared.data / "predictions" / sha256[:2] / sha256
    invert(path)
    check(shared.http.get(picture), 500, "picture_corrupt")
    keep()
    assert shared.http.get(picture).content == body
