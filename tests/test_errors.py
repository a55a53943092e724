"""Bad input gets a clear error with a code and a hint, and leaves nothing behind."""

import json

import httpx
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from service import complaints
from service.api.jobs import JobRequest
from tests.conftest import Fovea, colours_zip, make_zip, png


@pytest.fixture(scope="module")
def ready(shared: Fovea) -> Fovea:
    shared.dataset(colours_zip(per_class=4), "colours")
    return shared


def check(answer: httpx.Response, status: int, code: str) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == code
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem


OPEN_TO_ALL = {
    "get /livez",
    "get /readyz",
    "get /ping",
    "get /v2/health/live",
    "get /v2/health/ready",
    "options /v1/uploads",
    "post /v1/session",
}
ONE = png(np.zeros((8, 8), np.uint8))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(b"this is no zip", "archive_not_a_zip", id="not-a-zip"),
        pytest.param(colours_zip(2)[:-30], "archive_truncated", id="truncated"),
        pytest.param(make_zip({}), "archive_empty", id="empty"),
        pytest.param(make_zip({"../a/1.png": ONE, "b/1.png": ONE}), "archive_name", id="dot-dot"),
        pytest.param(make_zip({"/a/1.png": ONE, "b/1.png": ONE}), "archive_name", id="absolute"),
        pytest.param(make_zip({"a/1.png": ONE, "a/2.png": ONE}), "too_few_classes", id="one-class"),
        pytest.param(make_zip({"a/1.png": ONE, "a/2.png": ONE, "b/1.png": ONE}), "class_too_small", id="one-picture"),
    ],
)
def test_an_unusable_archive_is_refused_before_anything_exists(ready: Fovea, body: bytes, code: str) -> None:
    answer = ready.http.post("/v1/datasets?name=bad", content=body, headers={"Content-Type": "application/zip"})
    assert check(answer, 422, code)["hint"]
    assert ready.http.get("/v1/datasets/bad").status_code == 404
    assert list((ready.data / "uploads").iterdir()) == []


def test_names_in_any_script_and_broken_pictures_do_not_fail_an_import(ready: Fovea) -> None:
    files = {
        f"{label}/{k}.png": png(np.full((9, 9, 3), 40 * k, np.uint8)) for label in ("猫", "собака") for k in range(4)
    }
    version = ready.dataset(make_zip({**files, "猫/broken.png": ONE[:40], "猫/text.jpg": b"hello"}), "животные")
    assert [row["name"] for row in version["classes"]] == ["собака", "猫"]
    assert {row["code"] for row in version["report"]["rejected"]} == {"image_truncated", "not_a_picture"}


@pytest.mark.parametrize(
    ("spec", "code", "param"),
    [
        ({"colour": 1}, "unknown_field", "/spec/colour"),
        ({"network": "resnet9000"}, "invalid_value", "/spec/network"),
        ({"network": {"layers": [{"conv": {"filters": 0}}]}}, "invalid_value", "/spec/network/layers/0/conv/filters"),
        (
            {"network": {"layers": [{"max_pool": 2}] * 6}, "image_size": 32},
            "impossible_shape",
            "/spec/network/layers/5/max_pool",
        ),
        (
            {"network": {"layers": [{"flatten": {}}, {"conv": {"filters": 3}}]}},
            "impossible_shape",
            "/spec/network/layers/1/conv",
        ),
        (
            {"network": {"layers": [{"dense": {"units": 65536}}] * 4}},
            "network_too_large",
            "/spec/network",
        ),
        ({"loss": {"class_weights": [1.0]}}, "class_weights_count", "/spec/loss/class_weights"),
        ({"epochs": -1}, "invalid_value", "/spec/epochs"),
        ({"augment": {"flip": True}}, "unknown_field", "/spec/augment/flip"),
    ],
)
def test_an_impossible_spec_is_refused_with_the_field_named(ready: Fovea, spec: dict, code: str, param: str) -> None:
    answer = ready.http.post("/v1/jobs", json={"type": "train", "model": "m", "dataset": "colours", "spec": spec})
    assert check(answer, 422, code)["param"] == param


@pytest.mark.parametrize(
    ("spec", "param", "words"),
    [
        ({"schedule": {"name": "step"}}, "/spec/schedule/name", "'constant', 'cosine', 'one_cycle' or 'linear'"),
        ({"schedule": {"name": "cosine", "warmup": 0.9}}, "/spec/schedule/warmup", "less than or equal to 0.5"),
        ({"augment": {"crop": 0.9}}, "/spec/augment/crop", "less than or equal to 0.5"),
        ({"augment": {"flip": True}}, "/spec/augment/flip", "not permitted"),
        ({"augment": {"horizontal_flip": 1}}, "/spec/augment/horizontal_flip", "a valid boolean or 'alternating'"),
        ({"ema": {"decay": 1}}, "/spec/ema/decay", "less than 1"),
        ({"ema": True}, "/spec/ema", "'auto' or an object"),
        ({"progressive": {"start": 0.1}}, "/spec/progressive/start", "greater than or equal to 0.25"),
        ({"optimizer": {"name": "lamb"}}, "/spec/optimizer/name", "'auto', 'adam', 'adamw', 'sgd' or 'muon'"),
        ({"optimizer": {"lr": "x"}}, "/spec/optimizer/lr", "'auto' or a valid number"),
        ({"image_size": "32"}, "/spec/image_size", "'auto' or a valid integer"),
        ({"loss": {"class_weights": [-1]}}, "/spec/loss/class_weights/0", "greater than 0"),
        ({"initialisation": {"whitening": {"eps": 0}}}, "/spec/initialisation/whitening/eps", "greater than 0"),
        ({"network": {"layers": [{"conv": {}}]}}, "/spec/network/layers/0/conv/filters", "required"),
        ({"network": {"layers": [{"max_pool": {"size": 0}}]}}, "/spec/network/layers/0/max_pool/size", "than or equal"),
        ({"network": {"layers": [{"max_pool": 0}]}}, "/spec/network/layers/0/max_pool", "greater than or equal to 1"),
    ],
)
def test_of_several_kinds_the_complaint_is_about_the_one_that_was_given(spec: dict, param: str, words: str) -> None:
    body = {"type": "train", "model": "m", "dataset": "d", "spec": spec}
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(JobRequest).validate_python(body)
    where, _, message = complaints.told(caught.value.errors(), body)
    assert where == param
    assert words in message


def test_of_a_word_or_a_number_the_complaint_is_about_what_was_given(ready: Fovea) -> None:
    for spec, words in (({"optimizer": {"lr": 20}}, "less than or equal to 10"), ({"epochs": 0}, "greater than")):
        answer = ready.http.post("/v1/jobs", json={"model": "m", "dataset": "colours", "spec": spec})
        assert answer.status_code == 422
        assert words in answer.json()["detail"]


def test_json_that_is_no_json_is_400_and_nan_is_no_number(ready: Fovea) -> None:
    head = {"Content-Type": "application/json"}
    check(ready.http.post("/v1/jobs", content=b"{", headers=head), 400, "malformed_json")
    nan = b'{"type":"train","model":"m","dataset":"colours","spec":{"optimizer":{"lr":NaN}}}'
    check(ready.http.post("/v1/jobs", content=nan, headers=head), 422, "invalid_value")
    deep = b"[" * 100_000
    assert ready.http.post("/v1/jobs", content=deep, headers=head).status_code in (400, 422)
    check(ready.http.post("/v1/jobs", content=b"x" * 2_000_000, headers=head), 413, "body_too_large")
    check(ready.http.post("/v1/datasets?name=x", content=b"x", headers={"Content-Type": "text/plain"}), 415,
          "unsupported_media_type")  # fmt: skip


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/jobs", b'{"type": "train", "model": "m", "dataset": "colours"}'),
        ("POST", "/v1/keys", b'{"name": "app", "scopes": ["predict"]}'),
        ("POST", "/v1/session", b'{"key": "x"}'),
        ("PUT", "/v1/models/none/aliases/production", b'{"version": 1}'),
    ],
)
def test_json_that_does_not_say_so_is_415(ready: Fovea, method: str, path: str, body: bytes, kind: str | None) -> None:
    head = {} if kind is None else {"Content-Type": kind}
    problem = check(ready.http.request(method, path, content=body, headers=head), 415, "unsupported_media_type")
    assert problem["hint"] == "send Content-Type: application/json"
    assert (kind or "without Content-Type") in problem["detail"]


def test_json_that_says_so_in_any_way_is_read_and_no_body_is_no_type(ready: Fovea) -> None:
    body = b'{"name": "app", "scopes": ["predict"]}'
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/vnd.fovea+json"):
        answer = ready.http.post("/v1/keys", content=body, headers={"Content-Type": kind})
        assert answer.status_code == 201, answer.text
    check(ready.http.post("/v1/keys"), 422, "invalid_value")
    check(ready.http.post("/v1/keys", headers={"Content-Type": "text/plain"}), 422, "invalid_value")
    assert ready.http.post("/v1/session/links", content=b"x", headers={"Content-Type": "text/plain"}).status_code == 201


def test_unknown_things_are_404_and_wrong_methods_405(ready: Fovea) -> None:
    check(ready.http.get("/nowhere"), 404, "not_found")
    check(ready.http.get("/v1/jobs/job_0"), 404, "job_not_found")
    check(ready.http.get("/v1/datasets/none"), 404, "dataset_not_found")
    check(ready.http.get("/v1/datasets/colours/versions/9"), 404, "version_not_found")
    check(ready.http.post("/v1/models/none:1/classify", content=ONE), 404, "model_not_found")
    for path, methods in (
        ("/v1/datasets", "GET, POST"),
        ("/v1/datasets/none", "DELETE, GET"),
        ("/v1/models/none/aliases/production/shadow", "DELETE, GET, PUT"),
        ("/static/main.js", "GET, HEAD"),
    ):
        answer = ready.http.patch(path)
        check(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == methods


def test_an_upload_names_its_methods_hidden_ones_too(ready: Fovea) -> None:
    head = {"Tus-Resumable": "1.0.0"}
    for method in ("PUT", "POST"):
        answer = ready.http.request(method, "/v1/uploads/up_0", headers=head)
        check(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == "DELETE, HEAD, OPTIONS, PATCH, POST"


def test_keys_and_scopes_are_checked(ready: Fovea) -> None:
    with httpx.Client(base_url=ready.url) as stranger:
        assert check(stranger.get("/v1/datasets"), 401, "unauthorized")
        wrong = {"Authorization": "Bearer fov_wrong"}
        assert "www-authenticate" in stranger.get("/v1/jobs", headers=wrong).headers
        assert stranger.get("/livez").status_code == 200
        made = ready.http.post("/v1/keys", json={"name": "app", "scopes": ["predict"]}).json()
        narrow = {"Authorization": f"Bearer {made['key']}"}
        check(stranger.get("/v1/datasets", headers=narrow), 403, "scope_missing")
        assert stranger.get("/v1/models", headers=narrow).status_code == 200
        assert ready.http.delete(f"/v1/keys/{made['id']}").status_code == 204
        check(stranger.get("/v1/models", headers=narrow), 401, "unauthorized")


def test_a_repeated_request_with_the_same_key_is_done_once(ready: Fovea) -> None:
    body = colours_zip(per_class=3, seed=5)
    head = {"Content-Type": "application/zip", "Idempotency-Key": "one"}
    first, second = (ready.http.post("/v1/datasets?name=once", content=body, headers=head) for _ in range(2))
    assert first.status_code == second.status_code == 202
    assert first.json() == second.json()
    other = ready.http.post("/v1/datasets?name=once", content=colours_zip(3, seed=6), headers=head)
    check(other, 422, "idempotency_key_reused")
    again = ready.http.post("/v1/datasets?name=once", content=body, headers={"Content-Type": "application/zip"})
    check(again, 409, "dataset_exists")


def test_lists_are_paged_by_cursor(ready: Fovea) -> None:
    seen, after = [], None
    while True:
        params = {"limit": 5, **({"after": after} if after else {})}
        page = ready.http.get("/v1/datasets/colours/versions/1/items", params=params).json()
        seen += [row["path"] for row in page["data"]]
        after = page["next"]
        if not page["has_more"]:
            break
    assert len(seen) == len(set(seen)) == 12


def test_every_route_is_documented_with_the_key_it_needs_and_how_it_fails(ready: Fovea) -> None:
    document = json.loads(ready.http.get("/openapi.json").text)
    paths = document["paths"]
    assert {"/livez", "/v1/datasets", "/v1/jobs", "/v1/models/{ref}/classify", "/v1/keys"} <= set(paths)
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    routes = {f"{method} {path}": route for path, methods in paths.items() for method, route in methods.items()}
    open_to_all = {name for name, route in routes.items() if {"key": []} not in route.get("security", ())}
    assert open_to_all == OPEN_TO_ALL
    assert all({"4XX", "5XX"} <= route["responses"].keys() for route in routes.values())
    operations = [route["operationId"] for route in routes.values()]
    assert len(operations) == len(set(operations))
    titles = [schema["title"] for schema in document["components"]["schemas"].values() if "title" in schema]
    assert len(titles) == len(set(titles))  # generated clients name their types so
    for name in open_to_all:
        assert ready.http.request(*name.split(), headers={"Authorization": "Bearer wrong"}).status_code != 401
    assert ready.http.get("/docs").status_code == 200


def test_an_archive_over_the_limit_is_cut_off_however_it_is_sent(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("small")
    (folder / "data").mkdir()
    small = Fovea(folder / "data", FOVEA_MAX_UPLOAD_BYTES="5000")
    try:
        small.start("service")
        head = {"Content-Type": "application/zip"}
        body = b"x" * 200_000
        check(small.http.post("/v1/datasets?name=a", content=body, headers=head), 413, "body_too_large")
        chunked = (body[start : start + 1000] for start in range(0, len(body), 1000))
        check(small.http.post("/v1/datasets?name=a", content=chunked, headers=head), 413, "body_too_large")
        check(small.http.post("/v1/datasets?name=a", files={"file": ("a.zip", body)}), 413, "body_too_large")
        assert list((folder / "data/uploads").iterdir()) == []
    finally:
        small.http.close()
        small.end()
    assert small.processes == {}


def test_a_zip_arrives_as_multipart_too(ready: Fovea) -> None:
    answer = ready.http.post("/v1/datasets?name=form", files={"file": ("a.zip", colours_zip(3, seed=9))})
    assert answer.status_code == 202, answer.text
    check(ready.http.post("/v1/datasets?name=form2", files={"other": ("a.zip", b"x")}), 400, "file_field")
    head = {"Content-Type": "multipart/form-data; boundary=b"}
    check(ready.http.post("/v1/datasets?name=form2", content=b"--b\r\nnonsense", headers=head), 400,
          "malformed_multipart")  # fmt: skip


def test_more_jobs_than_may_wait_are_refused(fovea: Fovea) -> None:
    fovea.environment["FOVEA_MAX_QUEUED_JOBS"] = "2"
    fovea.start("service")
    waiting = [fovea.upload(colours_zip(3, seed=seed), f"a{seed}")["job"]["id"] for seed in range(2)]
    head = {"Content-Type": "application/zip"}
    refused = fovea.http.post("/v1/datasets?name=a2", content=colours_zip(3, seed=2), headers=head)
    check(refused, 429, "too_many_jobs")
    assert refused.headers["retry-after"] == "60"
    check(fovea.http.get("/v1/datasets/a2"), 404, "dataset_not_found")
    assert not list((fovea.data / "uploads").iterdir())
    assert fovea.http.post(f"/v1/jobs/{waiting[0]}:cancel").is_success
    fovea.upload(colours_zip(3, seed=2), "a2")


def test_a_full_disk_is_said_before_anything_is_written(fovea: Fovea) -> None:
    fovea.environment["FOVEA_DISK_RESERVE_BYTES"] = str(10**18)
    fovea.start("service", until="/livez")
    answer = fovea.http.get("/readyz")
    assert answer.status_code == 503
    assert "bytes free" in answer.json()["checks"]["disk"]
    head = {"Content-Type": "application/zip"}
    check(fovea.http.post("/v1/datasets?name=a", content=colours_zip(), headers=head), 507, "disk_full")
    assert list((fovea.data / "uploads").iterdir()) == []
    assert fovea.http.get("/v1/datasets").json()["data"] == []
