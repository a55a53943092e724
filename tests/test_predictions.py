"""Predictions that were asked to be kept: looked up, replayed, labelled, and turned into training data."""

import io
import json
import signal
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from sqlalchemy import func, select

from service import artifacts, jobs, predictions
from service.api import examples
from service.datasets import growth
from service.db import Base, Database
from service.db.migrate import upgrade
from service.db.tables import Prediction, PredictionItem
from service.errors import InsufficientStorage
from service.ids import new_id
from service.settings import Settings
from tests.conftest import Fovea, colours_zip, png
from tests.test_cli import run
from tests.test_errors import check

RANDOM = np.random.default_rng(7)
LAYERS = [{"conv": {"filters": 8, "activation": "relu"}}, {"global_avg_pool": {}}]


@pytest.fixture(scope="module")
def trained(shared: Fovea) -> Fovea:
    shared.dataset(colours_zip(), "colours")
    spec = {"network": {"layers": LAYERS}, "image_size": 16, "epochs": 2, "precision": "fp32"}
    job = shared.wait(shared.train("colours", "colours", spec, seed=1)["id"])
    assert job["status"] == "succeeded", job
    return shared


def picture() -> bytes:
    return png(RANDOM.integers(0, 256, (20, 24, 3), dtype=np.uint8))


def keep(trained: Fovea, *pictures: bytes, **params: object) -> dict:
    files = [("file", (f"{place}.png", one)) for place, one in enumerate(pictures)]
    answer = trained.http.post("/v1/models/colours/classify", files=files, params={"store": True, **params})
    assert answer.status_code == 200, answer.text
    return answer.json()


def files_of(data: Path) -> set[str]:
    return {str(path.relative_to(data)) for path in data.rglob("*") if path.is_file() and "fovea.db" not in path.name}


def rows_of(fovea: Fovea) -> dict[str, int]:
    with fovea.database() as database, database.read() as session:
        tables = Base.metadata.sorted_tables
        return {table.name: session.scalar(select(func.count()).select_from(table)) or 0 for table in tables}


def test_what_was_not_asked_to_be_kept_leaves_no_row_and_no_file(trained: Fovea) -> None:
    one = picture()
    before = (files_of(trained.data), rows_of(trained))
    answer = trained.http.post("/v1/models/colours/classify?store=false", content=one)
    assert answer.status_code == 200
    trained.http.post("/v1/models/colours/classify", files=[("file", ("a.png", one))] * 2)
    trained.http.post("/predictions/colours", content=one)
    more = {name: count for name, count in rows_of(trained).items() if count > before[1][name]}
    assert (files_of(trained.data) - before[0], more) == (set(), {})
    check(trained.http.get(f"/v1/predictions/{answer.json()['id']}"), 404, "prediction_not_found")


def test_a_kept_prediction_is_the_answer_with_its_pictures_and_origin(trained: Fovea) -> None:
    one, two = picture(), picture()
    answer = keep(trained, one, b"hello", two, coverage=0.8)
    kept = trained.http.get(f"/v1/predictions/{answer['id']}").json()
    assert kept.keys() == examples.PREDICTION.keys()
    assert kept["results"][0].keys() == examples.PREDICTION["results"][0].keys()
    assert (kept["model"], kept["ref"]) == (answer["model"], "colours")
    assert kept["parameters"] == {"top_k": 5, "coverage": 0.8, "false_alarm": 0.05}
    for row, said in zip(kept["results"], answer["results"], strict=True):
        assert {key: row[key] for key in said} == said
    assert [row["image"] is None for row in kept["results"]] == [False, True, False]

    shown = trained.http.get(f"/v1/predictions/{answer['id']}/image?index=2")
    assert (shown.content, shown.headers["content-type"]) == (two, "image/png")
    assert shown.headers["content-disposition"] == "attachment"
    url = f"/v1/predictions/{answer['id']}"
    check(trained.http.get(f"{url}/image"), 422, "index_missing")
    check(trained.http.get(f"{url}/image?index=1"), 404, "image_not_found")
    check(trained.http.get(f"{url}/image?index=9"), 404, "image_not_found")
    check(trained.http.post(f"{url}/label", json={"label": "red"}), 422, "index_missing")
    check(trained.http.post(f"{url}/label", json={"label": "red;blue", "index": 0}), 422, "invalid_value")
    for name in ("x" * 201, "a\u202eb", "a\0", ""):
        check(trained.http.post(f"{url}/label", json={"label": name, "index": 0}), 422, "invalid_value")
    check(trained.http.post(f"{url}/label", json={"index": 0}), 422, "invalid_value")
    check(trained.http.post(f"{url}/label", json={"labels": ["red"], "index": 0}), 422, "one_label")


def test_a_replay_says_equal_or_what_differs(trained: Fovea) -> None:
    answer = keep(trained, picture(), b"hello", coverage=0.8)
    url = f"/v1/predictions/{answer['id']}:replay"
    found = trained.http.post(url).json()
    assert found.keys() == examples.REPLAY.keys()
    assert (found["equal"], found["differences"]) == (True, [])
    assert found["results"] == answer["results"]
    with trained.database() as database, database.write() as session:
        item = session.get_one(PredictionItem, (answer["id"], 0))
        item.result = {**item.result, "label": "mauve"}
    found = trained.http.post(url).json()
    [difference] = found["differences"]
    assert difference == {"index": 0, "field": "label", "before": "mauve", "after": answer["results"][0]["label"]}
    assert found["equal"] is False


def test_lists_are_filtered_and_need_the_scope_data(trained: Fovea) -> None:
    answer = keep(trained, picture())
    said = answer["results"][0]

    def ids(**params: object) -> list[str]:
        answer = trained.http.get("/v1/predictions", params=params)
        assert answer.status_code == 200, answer.text
        return [row["id"] for row in answer.json()["data"]]

    fits = {"model": "colours", "version": 1, "label": said["label"], "decision": said["decision"]}
    assert ids(**fits, labelled=False, max_probability=1)[0] == answer["id"]
    assert answer["id"] not in ids(version=2)
    assert answer["id"] not in ids(max_probability=said["probability"] - 0.01)
    assert answer["id"] not in ids(decision="abstain" if said["decision"] == "accept" else "accept")
    trained.http.post(f"/v1/predictions/{answer['id']}/label", json={"label": "red"})
    assert answer["id"] in ids(labelled=True)
    page = trained.http.get("/v1/predictions?limit=1").json()
    assert page["has_more"]
    assert ids(limit=1, after=page["next"])[0] != page["data"][0]["id"]

    key = trained.http.post("/v1/keys", json={"name": "app", "scopes": ["predict"]}).json()["key"]
    with httpx.Client(base_url=trained.url, headers={"Authorization": f"Bearer {key}"}) as app:
        check(app.get("/v1/predictions"), 403, "scope_missing")
        check(app.delete(f"/v1/predictions/{answer['id']}"), 403, "scope_missing")
        assert app.get(f"/v1/predictions/{answer['id']}").status_code == 200
        labelled = app.post(f"/v1/predictions/{answer['id']}/label", json={"label": None}).json()
        assert labelled["results"][0]["truth"] is None


def test_a_prediction_is_kept_once_however_often_it_is_sent(trained: Fovea) -> None:
    one, two = picture(), picture()
    before = rows_of(trained)["predictions"]

    def send(data: bytes, key: str, **params: object) -> httpx.Response:
        files, headers = {"file": ("a.png", data)}, {"Idempotency-Key": key}
        return trained.http.post("/v1/models/colours/classify", files=files, params=params, headers=headers)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: send(one, "once", store=True), range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert rows_of(trained)["predictions"] == before + 1
    assert trained.http.get(f"/v1/predictions/{answers[0].json()['id']}").status_code == 200
    check(send(two, "once", store=True), 422, "idempotency_key_reused")
    check(send(two, 256 * "x", store=True), 422, "invalid_value")
    check(send(one, "once", store=True, top_k=1), 422, "idempotency_key_reused")
    assert send(two, "twice").json()["id"] != send(two, "twice").json()["id"]  # nothing is created
    assert rows_of(trained)["predictions"] == before + 1


def test_a_deleted_prediction_takes_only_pictures_that_no_other_names(trained: Fovea) -> None:
    one, two = picture(), picture()
    first, second = keep(trained, one, two), keep(trained, one)
    assert trained.http.delete(f"/v1/predictions/{first['id']}").status_code == 204
    check(trained.http.get(f"/v1/predictions/{first['id']}"), 404, "prediction_not_found")
    assert trained.http.get(f"/v1/predictions/{second['id']}/image").content == one
    before = files_of(trained.data)
    assert trained.http.delete(f"/v1/predictions/{second['id']}").status_code == 204
    assert len(before - files_of(trained.data)) == 1


def test_labelled_predictions_become_the_next_version_and_the_test_split_stays(trained: Fovea) -> None:
    pictures = [picture() for _ in range(3)]
    shown = [keep(trained, one)["id"] for one in pictures]
    alone = keep(trained, picture())["id"]  # the only one of its class, for which the others need not wait
    for prediction, label in zip((*shown, alone), ("red", "violet", "violet", "mauve"), strict=True):
        assert trained.http.post(f"/v1/predictions/{prediction}/label", json={"label": label}).status_code == 200
    again = keep(trained, pictures[0])["id"]  # the same picture once more, corrected
    trained.http.post(f"/v1/predictions/{again}/label", json={"label": "blue"})

    url = "/v1/datasets/colours/versions:from_predictions"
    body = {"model": "colours"}
    check(trained.http.post(url, json={"take": "uncertain"}), 422, "guesses_in_training")
    check(trained.http.post("/v1/datasets/none/versions:from_predictions", json=body), 404, "dataset_not_found")
    once = {"Idempotency-Key": "grow"}
    answer = trained.http.post(url, json=body, headers=once)
    assert answer.status_code == 202, answer.text
    made = answer.json()
    assert made.keys() == examples.GROWN.keys()
    assert trained.http.post(url, json=body, headers=once).json() == made
    assert trained.wait(made["job"]["id"])["status"] == "succeeded"
    assert trained.http.get("/v1/datasets/colours/versions/2").json()["status"] == "ready"

    old, new = (items(trained, "colours", number) for number in (1, 2))
    assert {image: new[image] for image in old} == old
    added = {image: row for image, row in new.items() if image not in old}
    assert len(added) == made["added"] == made["of"] - 1
    assert {split for _, split in added.values()} == {"train"}
    kept = [trained.http.get(f"/v1/predictions/{one}").json()["results"][0] for one in (*shown, again)]
    assert [added[one["image"]][0] for one in kept] == ["blue", "violet", "violet", "blue"]
    nothing = check(trained.http.post(url, json=body), 409, "nothing_to_add")
    assert "1 whose class has no other picture" in nothing["detail"]
    assert list((trained.data / "uploads").iterdir()) == []


def items(trained: Fovea, dataset: str, number: int) -> dict[str, tuple[str, str]]:
    rows = trained.http.get(f"/v1/datasets/{dataset}/versions/{number}/items?limit=1000").json()["data"]
    return {row["image"]: (row["label"], row["split"]) for row in rows}


def test_the_same_from_the_command_line(trained: Fovea, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / "b.png").write_bytes(picture())
    files = [str(tmp_path / name) for name in ("a.png", "b.png")]
    answer = json.loads(run(trained, "classify", "colours", *files, "--store", "--json").stdout)
    assert "index_missing" in run(trained, "predictions", "label", answer["id"], "red").stderr
    labelled = run(trained, "predictions", "label", answer["id"], "red", "--index", "1", "--json")
    assert [row["truth"] for row in json.loads(labelled.stdout)["results"]] == [None, "red"]
    assert answer["id"] in run(trained, "predictions", "ls", "--model", "colours", "--labelled").stdout
    assert json.loads(run(trained, "predictions", "show", answer["id"]).stdout)["id"] == answer["id"]
    assert run(trained, "predictions", "replay", answer["id"]).stdout == "equal\n"
    before = trained.http.get("/v1/datasets/colours").json()["versions"]
    grown = json.loads(run(trained, "datasets", "grow", "colours", "--json").stdout)
    assert (grown["number"], grown["status"]) == (before + 1, "ready")


def test_uncertain_predictions_fill_a_dataset_of_their_own_under_the_guess(trained: Fovea) -> None:
    kept = [keep(trained, picture())["id"] for _ in range(4)]
    guesses = {}
    with trained.database() as database, database.write() as session:  # what a network guesses is not for a test to say
        for item in session.query(PredictionItem):
            item.decision, item.probability = "accept", 1.0
        for guess, prediction in zip(("red", "blue", "red", "blue"), kept, strict=True):
            for item in session.query(PredictionItem).filter_by(prediction_id=prediction):
                item.label, item.probability, item.result = guess, 0.5, {**item.result, "labels": [guess]}
                guesses[item.image] = guess
    trained.http.post("/v1/datasets", json={"name": "unsure"})
    body = {"take": "uncertain", "mode": "replace", "max_probability": 0.5}
    answer = trained.http.post("/v1/datasets/unsure/versions:from_predictions", json=body)
    assert answer.status_code == 202, answer.text
    assert trained.wait(answer.json()["job"]["id"])["status"] == "succeeded"
    found = items(trained, "unsure", 1)
    assert {image: found[image][0] for image in guesses} == guesses
    assert len(guesses) == 4


def test_what_was_acknowledged_outlives_a_kill_and_what_was_not_is_swept(trained: Fovea) -> None:
    acknowledged: list[tuple[str, bytes]] = []
    going = threading.Event()

    def ask() -> None:
        while True:
            one = picture()
            try:
                answer = keep(trained, one)
            except httpx.TransportError:
                return
            acknowledged.append((answer["id"], one))
            if len(acknowledged) > 5:
                going.set()

    thread = threading.Thread(target=ask)
    thread.start()
    assert going.wait(60)
    trained.end("service", number=signal.SIGKILL)
    thread.join(60)
    lost = predictions.picture_path(Settings(data=trained.data), "ab" * 32)
    lost.parent.mkdir(parents=True, exist_ok=True)
    lost.write_bytes(b"half of")
    trained.start("service")
    for prediction, one in acknowledged:
        assert trained.http.get(f"/v1/predictions/{prediction}/image").content == one
    with trained.database() as database, database.read() as session:
        named = {image for image in session.scalars(select(PredictionItem.image)) if image}
    assert {path.name for path in (trained.data / "predictions").glob("*/*")} == named


# without a service


RESULT = {"filename": None, "label": "a", "labels": ["a"], "probability": 0.5, "decision": None, "error": None}


@pytest.fixture
def database(tmp_path: Path) -> Database:
    found = Database(f"sqlite:///{tmp_path / 'fovea.db'}")
    upgrade(found)
    program = artifacts.write_chunks(found, b"no program")
    with found.write() as session:
        job = jobs.submit(session, "train", spec={}, model="m")
        card = {"weights_sha256": "w", "parameters": 1}
        artifacts.add_model_version(session, "m", job.id, program, card=card, evaluation={})
    return found


def store(database: Database, settings: Settings, *pictures: bytes) -> str:
    with database.read() as session:
        _, version = artifacts.find_version(session, "m")
    made = Prediction(id=new_id("pred"), version_id=version.id, ref="m", parameters={}, by="", created_at=0.0)
    time.sleep(0.002)  # ids sort by milliseconds
    predictions.keep(database, settings, made, [predictions.Shown(one, RESULT) for one in pictures])
    return made.id


def test_the_oldest_without_a_truth_make_room_and_the_labelled_never(database: Database, tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, max_predictions=3, max_prediction_bytes=1000)
    first, second, third = (store(database, settings, bytes([number])) for number in range(3))
    with database.write() as session:
        row = predictions.find(session, first)
        predictions.set_truth(session, row, predictions.item(session, row, None), "a")
    fourth = store(database, settings, b"four", b"five")

    def kept() -> list[str]:
        with database.read() as session:
            return sorted(row.id for row in session.scalars(predictions.matching()))

    assert kept() == [first, fourth]
    names = {path.name for path in settings.predictions.glob("*/*")}
    assert len(names) == 3
    with pytest.raises(InsufficientStorage, match="predictions_full"):
        store(database, settings, b"large" * 300)
    assert kept() == [first, fourth]
    assert {path.name for path in settings.predictions.glob("*/*")} == names
    assert list(settings.uploads.iterdir()) == []
    tight = settings.model_copy(update={"disk_reserve_bytes": 10**18})
    with pytest.raises(InsufficientStorage, match="disk_full"):
        store(database, tight, b"six")
    assert {second, third} & set(kept()) == set()
    database.dispose()


def test_an_archive_made_twice_of_the_same_pictures_is_the_same(database: Database, tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    store(database, settings, picture(), picture())
    with database.read() as session:
        found = growth.chosen(session, "uncertain", None, 0.5)
    for name in ("a.zip", "b.zip"):
        growth.write(tmp_path / name, None, [], found, settings)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(io.BytesIO((tmp_path / "a.zip").read_bytes())) as archive:
        assert archive.read("labels.csv").count(b"predictions/") == 2
    database.dispose()
