"""The main job with the tables on a PostgreSQL server instead of SQLite: the same contract."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Fovea, colours_zip, fovea_in, png
from tests.postgresql import database_for
from tests.test_errors import check
from tests.test_shadows import PIXELS

SPEC = {"network": "classic", "image_size": 16, "batch_size": 16, "epochs": 3}


@pytest.fixture
def served(tmp_path: Path, postgresql: str) -> Iterator[Fovea]:
    with fovea_in(tmp_path, FOVEA_DATABASE_URL=database_for(tmp_path, postgresql)) as instance:
        instance.start()
        yield instance


def test_upload_train_with_a_kill_and_classify(served: Fovea) -> None:
    served.dataset(colours_zip(), "colours")
    job = served.train("m", "colours", {**SPEC, "epochs": 10_000})["id"]
    served.wait_for(job, lambda now: bool(now["progress"]))
    served.job_process().send_signal(signal.SIGKILL)
    served.wait_for(job, lambda now: now["attempt"] >= 2 and now["status"] == "running")
    assert served.http.post(f"/v1/jobs/{job}:stop").status_code == 202
    assert served.wait(job)["status"] == "succeeded"

    served.end(number=signal.SIGKILL)
    served.start()
    info = served.http.get("/v1/info").json()
    assert (info["database"], info["storage"]["tables"] > 0) == ("postgresql", True)
    answer = served.http.post("/v1/models/m/classify", content=png(PIXELS[0])).json()
    assert answer["results"][0]["label"] in {"red", "green", "blue"}
    assert not (served.data / "fovea.db").exists()


def test_a_revoked_key_and_a_moved_alias_count_at_once(served: Fovea) -> None:
    served.dataset(colours_zip(), "colours")
    for _ in range(2):
        assert served.wait(served.train("m", "colours", {**SPEC, "epochs": 1})["id"])["status"] == "succeeded"
    made = served.http.post("/v1/keys", json={"name": "phone", "scopes": ["predict"]}).json()
    ask = {"content": png(PIXELS[0]), "headers": {"Authorization": f"Bearer {made['key']}"}}
    for version in (1, 2, 1):
        etag = served.http.get("/v1/models/m/aliases/production").headers.get("ETag")
        condition = {"If-Match": etag} if etag else {"If-None-Match": "*"}
        body = {"version": version}
        assert served.http.put("/v1/models/m/aliases/production", json=body, headers=condition).is_success
        found = served.http.post("/v1/models/m@production/classify", **ask).json()
        assert found["model"]["version"] == version
    assert served.http.delete(f"/v1/keys/{made['id']}").is_success
    check(served.http.post("/v1/models/m@production/classify", **ask), 401, "unauthorized")


def test_a_nul_is_refused_by_name_wherever_it_stands(served: Fovea) -> None:
    ask, nul = served.http, "\0"
    for answer in (
        ask.get("/v1/jobs", params={"model": nul}),
        ask.get("/v1/datasets/%00"),
        ask.post("/v1/models/%00/classify", content=png(PIXELS[0])),
        ask.delete("/v1/keys/%00"),
        ask.post("/v1/keys", json={"name": nul, "scopes": ["predict"]}),
        ask.post("/v1/jobs", json={"type": "train", "model": "m", "dataset": nul}),
    ):
        check(answer, 422, "invalid_value")
