"""Upload, train, classify: the whole path through real processes."""

import io
import zipfile

from tests.conftest import Fovea, digits_zip

SPEC = {"network": "classic", "epochs": 4, "batch_size": 64, "precision": "fp32"}


def test_digits_are_learned_and_answered_over_http_exactly_as_evaluated(shared: Fovea) -> None:
    body = digits_zip()
    version = shared.dataset(body, "digits")
    assert version["image_count"] == 1797
    assert len(version["classes"]) == 10
    assert set(version["splits"]) == {"train", "val", "test"}

    job = shared.train("digits", "digits", SPEC, seed=7)
    job = shared.wait(job["id"])
    assert job["status"] == "succeeded", job
    assert job["result"]["version"] == 1
    assert job["stop_reason"] == "completed"

    report = shared.http.get("/v1/models/digits/evaluation").json()
    assert report["accuracy"]["value"] > 0.9
    assert report["accuracy"]["low"] < report["accuracy"]["value"] < report["accuracy"]["high"]
    card = shared.http.get("/v1/models/digits/versions/1").json()
    assert card["certificate"]["passed"]
    assert card["weights_sha256"] == job["result"]["weights_sha256"]

    _http_equals_evaluation(shared, body, report)


def _http_equals_evaluation(fovea: Fovea, body: bytes, report: dict) -> None:
    items, after = [], None
    while True:
        page = fovea.http.get(
            "/v1/datasets/digits/versions/1/items",
            params={"split": "test", "limit": 100, **({"after": after} if after else {})},
        ).json()
        items += page["data"]
        if not page["has_more"]:
            break
        after = page["next"]
    assert len(items) == report["n"]
    wrong = {}
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        for start in range(0, len(items), 100):
            chunk = items[start : start + 100]
            files = [("file", (item["path"], archive.read(item["path"]), "image/png")) for item in chunk]
            answer = fovea.http.post("/v1/models/digits:1/classify", files=files)
            assert answer.status_code == 200, answer.text
            for item, result in zip(chunk, answer.json()["results"], strict=True):
                if result["label"] != item["label"]:
                    wrong[item["image"]] = (item["label"], result["label"])
    assert 1 - len(wrong) / len(items) == report["accuracy"]["value"]
    assert wrong == {row["image"]: (row["label"], row["predicted"]) for row in report["mistakes"]}


def test_metrics_and_events_tell_the_story_of_the_job(shared: Fovea) -> None:
    job = shared.http.get("/v1/jobs", params={"type": "train"}).json()["data"][0]
    series = {row["name"]: row["points"] for row in shared.http.get(f"/v1/jobs/{job['id']}/metrics").json()["series"]}
    assert set(series) == {
        "train/loss",
        "train/accuracy",
        "val/loss",
        "val/accuracy",
        "lr",
        "images_per_second",
    }
    assert [point[1] for point in series["val/loss"]] == [1, 2, 3, 4]
    events = shared.http.get(f"/v1/jobs/{job['id']}/events", params={"limit": 1000}).json()["data"]
    statuses = [event["data"]["status"] for event in events if event["type"] == "status"]
    assert statuses == ["queued", "running", "succeeded"]
    assert sum(event["type"] == "metrics" for event in events) == 4
    with shared.http.stream(
        "GET", f"/v1/jobs/{job['id']}/events", headers={"Accept": "text/event-stream", "Last-Event-ID": events[0]["id"]}
    ) as stream:
        ids = [line.removeprefix("id: ") for line in stream.iter_lines() if line.startswith("id: ")]
    assert ids == [event["id"] for event in events[1:]]
