"""Upload, train, classify: the whole path through real processes."""

import base64
import io
import struct
import zipfile
import zlib

import numpy as np
import pytest

from service.api import examples
from tests.conftest import Fovea, digits_zip, png

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

    http_equals_evaluation(shared, body, report)


def http_equals_evaluation(fovea: Fovea, body: bytes, report: dict, ref: str = "digits:1") -> None:
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
            answer = fovea.http.post(f"/v1/models/{ref}/classify", files=files)
            assert answer.status_code == 200, answer.text
            for item, result in zip(chunk, answer.json()["results"], strict=True):
                if result["label"] != item["label"]:
                    wrong[item["image"]] = (item["label"], result["label"])
    assert report["accuracy"]["value"] == pytest.approx(1 - len(wrong) / len(items), abs=1e-12)
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
    for newest, begin in ((3, -3), (1000, 0)):
        last = shared.http.get(f"/v1/jobs/{job['id']}/events", params={"newest": newest, "limit": 1000}).json()["data"]
        assert last == events[begin:]


def test_the_examples_in_the_documentation_have_the_fields_of_real_answers(shared: Fovea) -> None:
    get = shared.http.get
    job = get("/v1/jobs", params={"type": "train"}).json()["data"][0]
    real = {
        "JOB": job,
        "DATASET": get("/v1/datasets/digits").json(),
        "VERSION": get("/v1/datasets/digits/versions/1").json(),
        "ITEM": get("/v1/datasets/digits/versions/1/items", params={"limit": 1}).json()["data"][0],
        "EVENT": get(f"/v1/jobs/{job['id']}/events").json()["data"][0],
        "MODEL": get("/v1/models/digits").json(),
        "MODEL_VERSION": get("/v1/models/digits/versions/1").json(),
        "EVALUATION": get("/v1/models/digits/evaluation").json(),
        "CLASSIFIED": shared.http.post("/v1/models/digits/classify", content=png(np.zeros((8, 8), np.uint8))).json(),
        "NEW_KEY": shared.http.post("/v1/keys", json={"name": "x", "scopes": ["predict"]}).json(),
        "NETWORK": get("/v1/networks").json()["data"][-1],
        "NETWORK_DETAILS": get("/v1/networks/compact").json(),
        "CALIBRATION": get("/v1/estimates/calibration").json(),
        "INFO": get("/v1/info").json(),
        "READY": get("/readyz").json(),
        "PROBLEM": get("/v1/jobs/nothing").json(),
        "DRY_RUN": shared.http.post(
            "/v1/jobs", params={"dry_run": True}, json={"type": "train", "model": "m", "dataset": "digits"}
        ).json(),
    }
    for name, answer in real.items():
        assert set(getattr(examples, name)) == set(answer), name
    assert set(examples.SPEC) == set(job["spec"])
    assert {"inside", "actual_seconds"} <= set(job["estimate"])
    assert set(examples.REPORT) == set(real["VERSION"]["report"])


def test_every_json_answer_in_the_documentation_has_an_example_and_a_schema(shared: Fovea) -> None:
    without = []
    for path, methods in shared.http.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            good = [
                body.get("content", {}) for status, body in operation["responses"].items() if status.startswith("2")
            ]
            shown = [kinds["application/json"] for kinds in good if "application/json" in kinds]
            without += [f"{method} {path}" for body in shown if not {"example", "examples"} & set(body)]
            said = [{"$ref", "properties", "additionalProperties"} & body["schema"].keys() for body in shown]
            without += [f"{method} {path}" for keys in said if not keys]
    assert without == []


def test_a_bad_picture_is_named_alone_and_refused_when_it_is_the_only_one(shared: Fovea) -> None:
    good = png(np.full((8, 8), 90, np.uint8))
    url = "/v1/models/digits/classify"
    for body, status, code in (
        (b"hello", 415, "not_a_picture"),
        (good[:50], 422, "image_truncated"),
        (huge_png(20_000, 10_000), 422, "too_many_pixels"),
        (b"", 422, "empty_picture"),
    ):
        answer = shared.http.post(url, content=body, headers={"Content-Type": "image/png"})
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.json()["hint"]

    several = shared.http.post(url, files=[("file", ("good.png", good)), ("file", ("bad.png", b"hello"))]).json()
    assert several["results"][0]["error"] is None
    assert several["results"][1]["error"]["code"] == "not_a_picture"
    encoded = base64.b64encode(good).decode()
    posted = shared.http.post(url, json={"images": [encoded]}, params={"top_k": 3}).json()
    assert len(posted["results"][0]["predictions"]) == 3
    assert posted["results"][0]["label"] == several["results"][0]["label"]
    assert set(posted["timing_ms"]) == {"decode", "queue", "model", "total"}
    alone = shared.http.post(url, json={"images": ["?"]}).json()
    assert (alone["code"], alone["param"]) == ("invalid_base64", "/images/0")
    beside = shared.http.post(url, json={"images": [encoded, "?", encoded]}).json()["results"]
    assert [row["error"] and row["error"]["code"] for row in beside] == [None, "invalid_base64", None]
    empty = shared.http.post(url, files=[("file", ("a", good)), ("file", ("b", b""))]).json()["results"]
    assert [row["error"] and row["error"]["code"] for row in empty] == [None, "empty_picture"]
    most = [row["error"] for row in shared.http.post(url, json={"images": [encoded] * 256}).json()["results"]]
    assert most == [None] * 256
    for body in ({"json": {"images": [encoded] * 257}}, {"files": [("file", ("a", good))] * 257}):
        too_many = shared.http.post(url, **body)
        assert (too_many.status_code, too_many.json()["code"]) == (413, "too_many_images")
    other = shared.http.post(url, files={"image": good})
    assert (other.status_code, other.json()["code"], other.json()["param"]) == (422, "no_picture", "file")


def huge_png(width: int, height: int) -> bytes:
    """A few kilobytes that claim to be a picture of hundreds of megapixels."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body
