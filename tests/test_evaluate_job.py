"""A model version is asked about another dataset: how well it answers, and how strange the pictures look to it."""

import io
import json
import os
import signal
import zipfile
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from service.api import examples
from service.cli.models import _evaluated
from service.inference.programs import Outputs
from tests.conftest import Fovea, colours_zip, digits_zip, make_zip, png
from tests.test_cli import run
from tests.test_errors import check
from workers.evaluate_job import _evaluation
from workers.pictures import Pictures
from workers.training import trust

SPEC = {
    "network": {"layers": [{"conv": {"filters": 16, "activation": "relu"}}, {"max_pool": 4}, {"global_avg_pool": {}}]},
    "image_size": 24,
    "epochs": 12,
    "batch_size": 16,
    "optimizer": {"lr": 0.02},
}


@pytest.fixture(scope="module")
def asked(shared: Fovea) -> Fovea:
    """`colours:1` has learned `own@1`; `other@1` has two of its classes, `digits@1` none."""
    shared.dataset(colours_zip(per_class=60), "own")
    shared.dataset(without_green(colours_zip(per_class=20, seed=7)), "other")
    shared.dataset(digits_zip(120), "digits")
    job = shared.wait(shared.train("colours", "own", SPEC)["id"])
    assert job["status"] == "succeeded", job
    return shared


def without_green(body: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        return make_zip({name: archive.read(name) for name in archive.namelist() if not name.startswith("green")})


def body_of(dataset: str, **more: Any) -> dict:
    return {"type": "evaluate", "model": "colours:1", "dataset": dataset, **more}


def evaluated(fovea: Fovea, dataset: str, **more: Any) -> dict:
    answer = fovea.http.post("/v1/jobs", json=body_of(dataset, **more))
    assert answer.status_code == 202, answer.text
    job = fovea.wait(answer.json()["id"])
    assert job["status"] == "succeeded", job
    return job


def test_other_pictures_of_the_same_classes_are_judged_as_classify_answers_them(asked: Fovea) -> None:
    job = evaluated(asked, "other")
    assert set(job) == set(examples.EVALUATE_JOB)
    assert set(job["spec"]) == set(examples.EVALUATE_JOB["spec"])
    found, known = job["result"], examples.EVALUATE_JOB["result"]
    assert set(found) == set(known)
    assert set(found["ood"]) == set(known["ood"])
    assert set(found["evaluation"]) == set(examples.EVALUATION)
    assert [found[key] for key in ("model", "version", "dataset", "split", "n")] == ["colours", 1, "other@1", "all", 40]
    assert (found["why"], found["foreign_classes"]) == (None, [])
    assert (found["seen_in_training"], found["warnings"]) == (0, [])
    assert found["evaluation"]["accuracy"]["value"] > 0.8
    assert found["evaluation"]["confusion_matrix"]["labels"] == ["blue", "green", "red"]
    assert [row["support"] for row in found["evaluation"]["per_class"]] == [20, 0, 20]
    assert found["ood"]["auroc"]["value"] < 0.75, "they are of the same kind"
    answers = classified(asked, "other")
    right = np.mean([one["label"] == truth for truth, one in answers])
    assert found["evaluation"]["accuracy"]["value"] == pytest.approx(right)
    abstained = np.mean([one["decision"] == "abstain" for _, one in answers])
    assert found["ood"]["abstained"]["value"] == pytest.approx(abstained, abs=1 / 40 + 1e-9)
    (row,) = asked.http.get("/v1/jobs", params={"type": "evaluate", "model": "colours"}).json()["data"]
    assert set(row["result"]["evaluation"]) == {"split", "n", "accuracy"}, "a list leaves out what is long"
    assert row["result"]["ood"] == found["ood"]


def classified(fovea: Fovea, dataset: str) -> list[tuple[str, dict]]:
    """The truth and the served answer, of every picture."""
    url = f"/v1/datasets/{dataset}/versions/1/items"
    items = fovea.http.get(url, params={"limit": 1000}).json()["data"]
    files = [("file", (item["path"], fovea.http.get(f"{url}/{item['image']}").content)) for item in items]
    results = fovea.http.post("/v1/models/colours:1/classify", files=files).json()["results"]
    return [(item["label"], one) for item, one in zip(items, results, strict=True)]


def test_its_own_test_split_is_judged_as_after_training_and_told_in_words(asked: Fovea) -> None:
    told = run(asked, "models", "evaluate", "colours", "own", "--split", "test")
    for words in ("colours:1 on 27 pictures of own@1 (test): accuracy ", "27 of its own", "AUROC 0.5000", "precision"):
        assert words in told.stdout, told
    found = newest(asked)["result"]
    assert found["evaluation"] == asked.http.get("/v1/models/colours:1/evaluation").json()
    assert found["ood"]["auroc"]["value"] == 0.5
    assert found["ood"]["n_own"] == found["n"] == 27
    assert found["seen_in_training"] == 0
    failed = run(asked, "models", "evaluate", "nobody", "other")
    assert (failed.returncode, failed.stderr.startswith("fovea: model_not_found")) == (1, True)


def newest(fovea: Fovea) -> dict:
    """The evaluate job that was made last."""
    (row,) = fovea.http.get("/v1/jobs", params={"type": "evaluate", "limit": 1}).json()["data"]
    return fovea.job(row["id"])


def test_what_it_has_learned_is_counted_and_warned_of(asked: Fovea) -> None:
    splits = asked.http.get("/v1/datasets/own/versions/1").json()["splits"]
    told = run(asked, "models", "evaluate", "colours:1", "own@1", "--json")
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert (found["n"], found["seen_in_training"]) == (180, splits["train"])
    (warning,) = found["warnings"]
    assert warning["code"] == "seen_in_training"
    events = asked.http.get(f"/v1/jobs/{newest(asked)['id']}/events").json()["data"]
    assert warning["message"] in [event["data"].get("message") for event in events if event["type"] == "warning"]
    assert any(warning["message"] in line for line in _evaluated(found))


def test_pictures_of_another_kind_are_told_by_their_strangeness(asked: Fovea) -> None:
    found = evaluated(asked, "digits")["result"]
    assert found["evaluation"] is None
    assert "10 of the classes" in found["why"]
    assert found["foreign_classes"] == [str(digit) for digit in range(10)]
    assert found["ood"]["auroc"]["value"] > 0.95
    assert 0.8 < found["ood"]["auroc"]["low"] <= found["ood"]["auroc"]["value"] <= found["ood"]["auroc"]["high"] <= 1
    assert found["ood"]["abstained"]["value"] > 0.9


def test_what_cannot_be_evaluated_is_refused_with_the_field_named(asked: Fovea) -> None:
    def post(body: dict, **params: Any) -> Any:
        return asked.http.post("/v1/jobs", json=body, params=params)

    check(post(body_of("nobody")), 404, "dataset_not_found")
    check(post(body_of("other@9")), 404, "version_not_found")
    check(post(body_of("other", model="nobody")), 404, "model_not_found")
    check(post(body_of("other", model="colours:9")), 404, "model_not_found")
    assert check(post(body_of("other", split="tset")), 422, "invalid_value")["param"] == "/split"
    assert check(post(body_of("other", seed=1)), 422, "unknown_field")["param"] == "/seed"
    assert check(post({"type": "evaluate", "model": "colours"}), 422, "invalid_value")["param"] == "/dataset"
    assert check(post(body_of("other@x")), 422, "invalid_value")["param"] == "/dataset"
    check(post(body_of("other"), dry_run=True), 422, "invalid_value")
    asked.dataset(make_zip({f"{k % 2}/{k}.png": png(np.full((16, 16, 3), 60 * k, np.uint8)) for k in range(4)}), "tiny")
    assert check(post(body_of("tiny", split="val")), 422, "split_empty")["param"] == "/split"
    pushed = asked.upload(digits_zip(1797), "late")
    check(post(body_of("late")), 409, "dataset_not_ready")
    assert asked.wait(pushed["job"]["id"])["status"] == "succeeded"


@pytest.mark.parametrize("wrong", ["evalute", "import", None, ["train"], 7, {}])
def test_an_unknown_type_is_told_all_that_there_are(asked: Fovea, wrong: Any) -> None:
    problem = check(asked.http.post("/v1/jobs", json={"type": wrong, "model": "m"}), 422, "invalid_value")
    assert problem["param"] == "/type"
    assert "train, search, evaluate, export, analyse" in problem["detail"]


def test_it_survives_kills_and_pauses_and_a_cancelled_one_leaves_no_result(asked: Fovea) -> None:
    def begun() -> str:
        job_id = asked.http.post("/v1/jobs", json=body_of("late")).json()["id"]
        asked.wait_for(job_id, lambda job: bool(job["progress"]))
        return str(job_id)

    first = begun()
    assert first == begun(), "the same work is done once"
    assert asked.http.delete("/v1/datasets/late").json()["code"] == "dataset_in_use"
    asked.http.post(f"/v1/jobs/{first}:cancel")
    ended = asked.wait(first)
    assert (ended["status"], ended["result"]) == ("cancelled", None)
    second = begun()
    os.kill(asked.job_process().pid, signal.SIGKILL)
    asked.wait_for(second, lambda job: job["attempt"] == 2 and job["status"] == "running")
    asked.http.post(f"/v1/jobs/{second}:pause")
    asked.wait_for(second, lambda job: job["status"] == "paused")
    asked.http.post(f"/v1/jobs/{second}:resume")
    job = asked.wait(second)
    assert (job["status"], job["attempt"], job["result"]["n"]) == ("succeeded", 3, 1797), job


def test_without_the_pictures_that_it_learned_from_there_is_no_auroc(asked: Fovea) -> None:
    assert asked.http.delete("/v1/datasets/own").status_code == 204
    found = evaluated(asked, "other")["result"]
    assert found["ood"]["auroc"] is None
    assert "deleted" in found["ood"]["why"]
    assert (found["ood"]["n_own"], found["seen_in_training"]) == (0, None)
    assert found["evaluation"]["n"] == 40


# --- the parts alone -------------------------------------------------------------------------------------------------


def test_marks_are_those_of_the_models_classes_and_kinds_of_labels_are_not_mixed() -> None:
    marks = np.array([[1, 0], [1, 1], [0, 0]], np.float32)
    pictures = Pictures(np.zeros((3, 8, 8, 3), np.uint8), marks, ["x", "y", "z"], ["moon", "sun"], {})
    card = {"task": "multi_label", "classes": ["sun", "star", "moon"], "temperature": 1.0, "thresholds": [0.5] * 3}
    logits = np.array([[-4, -4, 4], [4, -4, 4], [-4, 4, -4]], np.float32)
    found = _evaluation(card, "all", pictures, np.arange(3), Outputs(logits))
    assert (found["why"], found["foreign_classes"]) == (None, [])
    assert found["evaluation"]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert [row["support"] for row in found["evaluation"]["per_class"]] == [1, 0, 2]
    assert found["evaluation"]["mistakes"][0]["predicted_labels"] == ["star"]
    one = {"task": "single_label", "classes": ["moon", "sun"], "temperature": 1.0}
    mixed = _evaluation(one, "all", pictures, np.arange(3), Outputs(logits))
    assert mixed["evaluation"] is None
    assert mixed["why"] == "the pictures have several labels, and the model was made for one label each"


@pytest.mark.parametrize("apart", [0.0, 1.0, 2.5])
def test_the_area_is_the_known_one_and_its_interval_covers_as_often_as_it_says(apart: float) -> None:
    from scipy.stats import norm

    random, held = np.random.default_rng(0), 0
    for _ in range(100):
        a, b = random.normal(size=30).round(1), (random.normal(size=40) + apart).round(1)
        found = trust.auroc(a, b)
        assert found["value"] == pytest.approx(roc_auc_score(np.repeat([0, 1], [30, 40]), np.r_[a, b]))
        held += found["low"] <= norm.cdf(apart / np.sqrt(2)) <= found["high"]
    assert held >= 90  # 95 are meant


def test_where_all_are_told_apart_few_pictures_prove_little() -> None:
    few, many = (trust.auroc(np.zeros(n), np.ones(n)) for n in (5, 500))
    assert few["value"] == few["high"] == many["value"] == 1
    assert few["low"] < 0.8 < 0.99 < many["low"] < 1
    assert trust.auroc(np.ones(5), np.array([0.0, -1])) == pytest.approx({"value": 0, "low": 0, "high": 0.5}, abs=0.15)
    assert trust.auroc(np.zeros(5), np.array([np.inf, 1]))["value"] == 1
