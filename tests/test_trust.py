"""What a model says beyond its first answer, over HTTP: sets, strangeness, abstaining, and where it looked."""

import base64
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Fovea, digits_zip, png
from tests.test_cli import run
from tests.test_errors import check

BODY = digits_zip()
LAYERS = [
    {"conv": {"filters": 32, "activation": "relu", "batch_norm": True}},
    {"max_pool": 2},
    {"conv": {"filters": 64, "activation": "relu", "batch_norm": True}},
    {"max_pool": 2},
    {"conv": {"filters": 64, "activation": "relu", "batch_norm": True}},
    {"global_avg_pool": {}},
]
PLAIN = [{"conv": {"filters": 8, "stride": 4, "activation": "relu"}}, {"dense": {"units": 16, "activation": "relu"}}]


@pytest.fixture(scope="module")
def trained(shared: Fovea) -> Fovea:
    """`digits:1` ends in the mean over all places, `digits:2` is small, flat and worse."""
    shared.dataset(BODY, "digits")
    for layers, epochs in ((LAYERS, 6), (PLAIN, 1)):
        spec = {"network": {"layers": layers}, "epochs": epochs, "batch_size": 64, "precision": "fp32"}
        job = shared.wait(shared.train("digits", "digits", spec, seed=3)["id"])
        assert job["status"] == "succeeded", job
    return shared


def test_sets_and_abstentions_over_http_are_those_of_the_evaluation(trained: Fovea) -> None:
    report = trained.http.get("/v1/models/digits:1/evaluation").json()
    assert "prediction_sets" in report
    url, params = "/v1/datasets/digits/versions/1/items", {"split": "test", "limit": 1000}
    items = trained.http.get(url, params=params).json()["data"]
    assert len(items) == report["n"]
    with zipfile.ZipFile(io.BytesIO(BODY)) as archive:
        pictures = [archive.read(item["path"]) for item in items]
    for row in report["prediction_sets"]:
        results = ask(trained, pictures, coverage=row["coverage"])
        held = [item["label"] in one["prediction_set"] for item, one in zip(items, results, strict=True)]
        assert np.mean(held) == pytest.approx(row["empirical"]["value"], abs=1e-9)
        assert np.mean([len(one["prediction_set"]) for one in results]) == pytest.approx(row["mean_size"], abs=0.02)
        assert row["kept"] is (row["empirical"]["value"] >= row["expected"]["low"])
        assert row["expected"]["low"] < row["coverage"] < row["expected"]["high"]
        assert all(one["prediction_set"][0] == one["label"] for one in results)
    for row in report["out_of_distribution"]:
        results = ask(trained, pictures, false_alarm=row["false_alarm"])
        share = np.mean([one["decision"] == "abstain" for one in results])
        assert share == pytest.approx(row["empirical"]["value"], abs=1 / len(items) + 1e-9)
        assert row["kept"] is (row["empirical"]["value"] <= row["expected"]["high"])
        assert row["expected"]["low"] < row["false_alarm"] < row["expected"]["high"]
    assert all(row["kept"] for row in report["prediction_sets"] + report["out_of_distribution"])


def ask(fovea: Fovea, pictures: list[bytes], **params: object) -> list[dict]:
    results = []
    for start in range(0, len(pictures), 100):
        files = [("file", ("a.png", picture)) for picture in pictures[start : start + 100]]
        answer = fovea.http.post("/v1/models/digits:1/classify", files=files, params=params)
        assert answer.status_code == 200, answer.text
        results += answer.json()["results"]
    return results


def test_pictures_that_are_no_digits_are_abstained_from(trained: Fovea) -> None:
    random = np.random.default_rng(0)
    noise = [png(random.integers(0, 255, (64, 64, 3), dtype=np.uint8)) for _ in range(20)]
    stripes = [png(np.tile(random.integers(0, 255, (1, 48, 3), dtype=np.uint8), (48, 1, 1))) for _ in range(20)]
    results = ask(trained, noise + stripes)
    assert np.mean([one["decision"] == "abstain" for one in results]) > 0.8
    assert results[0]["ood"]["p_value"] <= 0.05
    assert results[0]["prediction_set"] is None


def test_an_impossible_coverage_or_false_alarm_is_refused_and_a_rare_one_names_all(trained: Fovea) -> None:
    url, picture = "/v1/models/digits:1/classify", png(np.zeros((8, 8), np.uint8))
    for query in ("coverage=0.5", "coverage=1", "coverage=nan", "false_alarm=0", "false_alarm=0.9", "explain=lime"):
        problem = check(trained.http.post(f"{url}?{query}", content=picture), 422, "invalid_value")
        assert problem["param"] == query.partition("=")[0]
    everything = trained.http.post(f"{url}?coverage=0.999", content=picture).json()["results"][0]
    assert sorted(everything["prediction_set"]) == [str(digit) for digit in range(10)]  # 270 cannot speak for 1 in 1000


def test_a_class_activation_map_lights_up_where_the_digit_is(trained: Fovea) -> None:
    with zipfile.ZipFile(io.BytesIO(BODY)) as archive:
        digit = np.array(Image.open(io.BytesIO(archive.read("1/0001.png"))))
    page = np.zeros((16, 16), np.uint8)
    page[:8, 8:] = digit
    answer = trained.http.post("/v1/models/digits:1/classify?explain=cam", content=png(page)).json()["results"][0]
    seen = np.array(Image.open(io.BytesIO(base64.b64decode(answer["explanation"]["png"]))), dtype=float)
    assert answer["explanation"]["label"] == answer["label"]
    half = len(seen) // 2
    assert seen.shape == (half * 2, half * 2)
    assert seen.max() > 100
    refused = trained.http.post("/v1/models/digits:2/classify?explain=cam", content=png(page))
    assert check(refused, 422, "explain_unsupported")["param"] == "explain"
    bad = trained.http.post(
        "/v1/models/digits:1/classify?explain=cam&coverage=0.9",
        files=[("file", ("a.png", png(page))), ("file", ("b.png", b"hello"))],
    ).json()["results"]
    assert bad[1]["explanation"] is None
    assert set(bad[0]) == set(bad[1])


def test_two_trained_versions_are_compared_and_the_worse_one_is_kept_out(trained: Fovea) -> None:
    reports = [trained.http.get(f"/v1/models/digits:{number}/evaluation").json() for number in (1, 2)]
    found = trained.http.get("/v1/models/compare", params={"a": "digits:1", "b": "digits:2"}).json()
    assert found["accuracy"] == {
        "a": pytest.approx(reports[0]["accuracy"]["value"]),
        "b": pytest.approx(reports[1]["accuracy"]["value"]),
    }
    lost = {row["image"] for row in reports[1]["mistakes"]} - {row["image"] for row in reports[0]["mistakes"]}
    assert {row["image"] for row in found["changed"] if row["change"] == "right_to_wrong"} == lost

    assert run(trained, "models", "alias", "digits", "production", "1").returncode == 0
    refused = run(trained, "models", "alias", "digits", "production", "2", "--not-worse-than", "production")
    assert "significantly_worse" in refused.stderr
    picture = png(np.zeros((8, 8), np.uint8))
    named = [trained.http.post("/v1/models/digits/classify", content=picture).json()["model"]["version"]]
    assert run(trained, "models", "alias", "digits", "production", "2").returncode == 0
    named.append(trained.http.post("/v1/models/digits/classify", content=picture).json()["model"]["version"])
    assert named == [1, 2]
