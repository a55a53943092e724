"""Several labels at once, from labels.csv to the answer of classify."""

import base64
from dataclasses import replace

import numpy as np
import pytest
import torch

from service.inference.score import sigmoids
from tests.conftest import Fovea, colours_zip, make_zip, png
from tests.test_errors import check
from workers.training import multilabel
from workers.training.losses import class_weights, loss_of, right
from workers.training.trust import Answers

COLOURS = ("red", "green", "blue")
LAYERS = [{"conv": {"filters": 8, "activation": "relu"}}, {"global_avg_pool": {}}, {"dense": {"units": 16}}]
SPEC = {
    "network": {"layers": LAYERS},
    "image_size": 16,
    "epochs": 20,
    "batch_size": 8,
    "augment": None,
    "optimizer": {"lr": 0.01},
}
CLASSIFY = "/v1/models/lights:1/classify"


def lights(*names: str, seed: int = 0) -> bytes:
    """A picture in which these of the three lights are on."""
    pixels = np.random.default_rng(seed).integers(0, 60, (16, 16, 3), dtype=np.uint8)
    for channel, name in enumerate(COLOURS):
        pixels[..., channel] += np.uint8(150 * (name in names))
    return png(pixels)


def lights_zip(each: int = 10) -> bytes:
    """All eight combinations, none included, `each` times."""
    files, lines = {}, ["path,label"]
    for code in range(8):
        names = [name for bit, name in enumerate(COLOURS) if code >> bit & 1]
        for number in range(each):
            path = f"p/{code}-{number}.png"
            files[path] = lights(*names, seed=100 * code + number)
            lines.append(f"{path},{';'.join(names)}")
    return make_zip({**files, "labels.csv": "\n".join(lines).encode()})


@pytest.fixture(scope="module")
def trained(shared: Fovea) -> tuple[Fovea, dict, dict]:
    """The dataset version and the finished job."""
    version = shared.dataset(lights_zip(), "lights")
    goal = {"metric": "mean_average_precision", "at_least": 1.0}
    return shared, version, shared.wait(shared.train("lights", "lights", SPEC, goal=goal)["id"])


def test_a_table_with_several_labels_makes_a_multi_label_version(trained: tuple[Fovea, dict, dict]) -> None:
    fovea, version, _ = trained
    assert version["task"] == "multi_label"
    assert version["classes"] == [{"name": name, "count": 40} for name in sorted(COLOURS)]
    assert sum(version["splits"].values()) == 80
    assert all(version["splits"][split] >= 9 for split in ("val", "test"))
    items = fovea.http.get("/v1/datasets/lights/versions/1/items", params={"label": "red", "limit": 200}).json()["data"]
    assert len(items) == 40
    assert all("red" in item["labels"] for item in items)
    assert {item["label"] for item in items} == {"red", "green;red", "blue;red", "blue;green;red"}
    assert not fovea.http.get("/v1/datasets/lights/versions/1/items", params={"label": "Red"}).json()["data"]


def test_training_ends_in_a_model_judged_by_its_precisions(trained: tuple[Fovea, dict, dict]) -> None:
    fovea, _, job = trained
    assert job["status"] == "succeeded", job
    assert job["spec"]["loss"]["name"] == "binary_cross_entropy"
    assert job["result"]["metrics"]["mean_average_precision"] > 0.9
    series = fovea.http.get(f"/v1/jobs/{job['id']}/metrics", params={"names": "val/mean_average_precision"}).json()
    values = [value for _, _, value, _ in series["series"][0]["points"]]
    assert (job["stop_reason"] == "goal_reached") == (values[-1] >= 1.0)
    found = fovea.http.get("/v1/models/lights:1/evaluation").json()
    assert found["mean_average_precision"] > 0.9
    assert found["confusion_matrix"] is None
    assert {row["label"] for row in found["per_class"]} == set(COLOURS)
    precisions = [row["average_precision"] for row in found["per_class"]]
    assert sum(precisions) / 3 == pytest.approx(found["mean_average_precision"])
    assert all(0 < row["threshold"] < 1 for row in found["per_class"])
    assert found["n"] - round(found["accuracy"]["value"] * found["n"]) == len(found["mistakes"])


def test_classify_names_every_label_from_its_threshold_on(trained: tuple[Fovea, dict, dict]) -> None:
    fovea, version, _ = trained
    items = fovea.http.get(
        f"/v1/datasets/lights/versions/{version['number']}/items", params={"split": "test", "limit": 200}
    ).json()["data"]
    mistakes = {row["image"]: row for row in fovea.http.get("/v1/models/lights:1/evaluation").json()["mistakes"]}
    for item in items:
        picture = fovea.http.get(f"/v1/datasets/lights/versions/1/items/{item['image']}").content
        result = fovea.http.post(CLASSIFY, content=picture).json()["results"][0]
        expected = mistakes[item["image"]]["predicted_labels"] if item["image"] in mistakes else item["labels"]
        assert sorted(result["labels"]) == sorted(expected)
        assert result["label"] == (result["labels"][0] if expected else None)
        for row in result["predictions"]:
            assert (row["probability"] >= row["threshold"]) == (row["label"] in expected)


def test_what_does_not_fit_several_labels_is_refused_with_the_reason(trained: tuple[Fovea, dict, dict]) -> None:
    fovea, _, _ = trained
    body = {"type": "train", "model": "x", "dataset": "lights", "spec": {"loss": {"name": "focal"}}}
    refused = fovea.http.post("/v1/jobs", json=body)
    assert (refused.status_code, refused.json()["code"]) == (422, "loss_does_not_fit")
    assert refused.json()["param"] == "/spec/loss/name"
    refused = fovea.http.post(f"{CLASSIFY}?coverage=0.9", content=lights("red"))
    assert (refused.status_code, refused.json()["code"]) == (422, "coverage_unsupported")


def test_versions_are_compared_by_whole_sets_of_labels(trained: tuple[Fovea, dict, dict]) -> None:
    fovea, _, _ = trained
    other = fovea.wait(fovea.train("lights", "lights", {**SPEC, "epochs": 1, "initial_weights": "lights:1"})["id"])
    assert other["status"] == "succeeded", other
    found = fovea.http.get("/v1/models/compare", params={"a": "lights:1", "b": "lights:2"}).json()
    assert found["n"] == found["both_right"] + found["both_wrong"] + found["right_to_wrong"] + found["wrong_to_right"]


# --- the arithmetic ---------------------------------------------------------------------------------------------------


def test_a_threshold_parts_where_f1_is_best() -> None:
    chances = np.array([[0.9, 0.4], [0.8, 0.3], [0.6, 0.2], [0.1, 0.1]])
    labels = np.array([[1, 0], [0, 0], [1, 0], [0, 0]], dtype=np.float32)
    first, second = multilabel.thresholds(chances, labels)
    assert first == pytest.approx((0.6 + 0.1) / 2)  # F1 of 0.8 for three, against 0.67 for the first alone
    assert second == 0.5
    tied = multilabel.thresholds(np.array([[0.7], [0.7], [0.1]]), np.array([[1], [0], [0]]))
    assert tied == pytest.approx([0.4])


def test_precisions_and_temperature_against_hand_made_numbers() -> None:
    scores = np.array([[4.0, 0.0], [3.0, 0.0], [2.0, 0.0]])
    labels = np.array([[0, 0], [1, 0], [1, 0]], dtype=np.float32)
    found = multilabel.average_precisions(scores, labels)
    assert found[0] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert np.isnan(found[1])
    assert multilabel.mean_average_precision(scores, labels) == pytest.approx(found[0])
    assert multilabel.mean_average_precision(scores, 0 * labels) == 0.0
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (4000, 3)).astype(np.float32)
    truth = (random.random(logits.shape) < sigmoids(logits, 1.0)).astype(np.float32)
    assert multilabel.temperature(3 * logits, truth) == pytest.approx(3, rel=0.1)


def test_a_model_is_judged_without_pictures_held_out() -> None:
    logits = np.array([[2.0, -2.0], [-2.0, 2.0]], dtype=np.float32)
    test = Answers(logits, np.zeros(2, np.float32), np.array([[1, 0], [1, 1]], np.float32))
    nobody = replace(test, logits=logits[:0], strangeness=np.zeros(0, np.float32), labels=test.labels[:0])
    judged = multilabel.judge("test", test, nobody, ["a", "b"], ["x", "y"])
    assert judged.card["thresholds"] == [0.5, 0.5]
    assert judged.evaluation["accuracy"]["value"] == 0.5
    mistake = judged.evaluation["mistakes"][0]
    assert (mistake["image"], mistake["labels"], mistake["predicted_labels"]) == ("y", ["a", "b"], ["b"])
    assert mistake["probability"] == pytest.approx(1 - sigmoids(logits, 1.0)[1, 0])
    assert (judged.labels, judged.predicted) == (["a", "a;b"], ["a", "b"])


def test_the_loss_of_several_labels_is_that_of_torch() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), (torch.rand(6, 3) > 0.7).float()
    spec = {"name": "binary_cross_entropy", "label_smoothing": 0.0, "class_weights": "balanced"}
    weights = class_weights("balanced", labels)
    assert weights is not None
    assert weights.tolist() == [(6 - n) / max(n, 1) for n in labels.sum(0).tolist()]
    wanted = torch.nn.BCEWithLogitsLoss(pos_weight=weights)(logits, labels)
    assert torch.equal(loss_of(spec, labels)(logits, labels), wanted)
    assert right(torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 0.0]])).tolist() == [True]


def test_other_protocols_and_kept_predictions_know_several_labels(trained: tuple[Fovea, dict, dict]) -> None:
    fovea, _, _ = trained
    pictures = [lights("red", "blue", seed=7001), lights(seed=7002)]
    files = [("file", ("a.png", picture)) for picture in pictures]
    answer = fovea.http.post(f"{CLASSIFY}?store=true", files=files).json()
    data = [base64.b64encode(picture).decode() for picture in pictures]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [2], "data": data}
    outputs = fovea.http.post("/v2/models/lights/infer", json={"inputs": [tensor]}).json()["outputs"]
    assert outputs[0]["data"] == [";".join(sorted(one["labels"])) for one in answer["results"]]
    url = f"/v1/predictions/{answer['id']}"
    assert fovea.http.post(f"{url}:replay").json()["equal"]

    for index, labels in enumerate((["red", "blue"], [])):
        assert fovea.http.post(f"{url}/label", json={"labels": labels, "index": index}).status_code == 200
    check(fovea.http.post(f"{url}/label", json={"label": "red", "labels": [], "index": 0}), 422, "invalid_value")
    assert [one["truth"] for one in fovea.http.get(url).json()["results"]] == ["blue;red", ""]
    fovea.dataset(colours_zip(3), "plain")
    grow = "versions:from_predictions"
    check(fovea.http.post(f"/v1/datasets/plain/{grow}", json={"model": "lights"}), 409, "several_labels")
    made = fovea.http.post(f"/v1/datasets/lights/{grow}", json={"model": "lights"}).json()
    assert fovea.wait(made["job"]["id"])["status"] == "succeeded"

    def labels_of(number: int) -> dict[str, tuple[str, str]]:
        rows = fovea.http.get(f"/v1/datasets/lights/versions/{number}/items?limit=1000").json()["data"]
        return {row["image"]: (row["label"], row["split"]) for row in rows}

    old, new = labels_of(1), labels_of(2)
    assert {image: new[image] for image in old} == old
    assert sorted(new[image] for image in new.keys() - old.keys()) == [("", "train"), ("blue;red", "train")]
