"""Clients of other servers get the answers of classify: the Open Inference Protocol and TorchServe, over HTTP."""

import base64
import json
import struct

import httpx
import numpy as np
import pytest

from service.api import examples
from tests.conftest import Fovea, colours_zip, png
from tests.test_errors import check

RANDOM = np.random.default_rng(5)
PIXELS = [RANDOM.integers(0, 256, (20, 24, 3), dtype=np.uint8) for _ in range(3)]
PICTURES = [png(pixels) for pixels in PIXELS]
LAYERS = [{"conv": {"filters": 8, "activation": "relu"}}, {"global_avg_pool": {}}]


@pytest.fixture(scope="module")
def trained(shared: Fovea) -> Fovea:
    shared.dataset(colours_zip(), "colours")
    spec = {"network": {"layers": LAYERS}, "image_size": 16, "epochs": 2, "precision": "fp32"}
    job = shared.wait(shared.train("colours", "colours", spec, seed=1)["id"])
    assert job["status"] == "succeeded", job
    return shared


def classified(trained: Fovea, pictures: list[bytes]) -> list[dict]:
    files = [("file", ("a.png", picture)) for picture in pictures]
    answer = trained.http.post("/v1/models/colours/classify", files=files)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def tensor(datatype: str, shape: list[int], data: object = None, **parameters: object) -> dict:
    body = {"name": "image", "datatype": datatype, "shape": shape}
    return {**body, "data": data} if data is not None else {**body, "parameters": parameters}


def infer(trained: Fovea, *inputs: dict, path: str = "colours", **more: object) -> httpx.Response:
    return trained.http.post(f"/v2/models/{path}/infer", json={"inputs": list(inputs), **more})


def binary(trained: Fovea, one: dict, data: bytes, **more: object) -> httpx.Response:
    """What tritonclient sends: the JSON, its length in a header, then the tensor's bytes."""
    head = json.dumps({"inputs": [one], **more}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    return trained.http.post("/v2/models/colours/infer", content=head + data, headers=headers)


def agrees(outputs: list[dict], results: list[dict]) -> None:
    by_name = {one["name"]: one for one in outputs}
    assert by_name["labels"]["data"] == [one["label"] for one in results]
    chances = np.array(by_name["probabilities"]["data"]).reshape(by_name["probabilities"]["shape"])
    assert chances.max(axis=1) == pytest.approx([one["probability"] for one in results], abs=2e-6)
    assert by_name["p_values"]["data"] == pytest.approx([one["ood"]["p_value"] for one in results], abs=2e-6)


def test_health_and_metadata_are_the_protocols(trained: Fovea) -> None:
    with httpx.Client(base_url=trained.url) as stranger:
        assert stranger.get("/v2/health/live").json() == {"live": True}
        assert stranger.get("/v2/health/ready").json() == {"ready": True, "live": True}
        assert stranger.get("/ping").json() == {"status": "Healthy"}
        for path in ("/v2", "/v2/models/colours"):
            refused = check(stranger.get(path), 401, "unauthorized")
            assert refused["error"] == refused["detail"]
    assert trained.http.get("/v2").json().keys() == examples.SERVER_METADATA.keys()
    for path in ("/v2/models/colours", "/v2/models/colours/versions/1"):
        found = trained.http.get(path).json()
        assert found.keys() == examples.MODEL_METADATA.keys()
        assert (found["versions"], found["classes"]) == (["1"], ["blue", "green", "red"])
        assert trained.http.get(f"{path}/ready").json() == {"name": "colours", "ready": True}
    missing = check(trained.http.get("/v2/models/colours/versions/9"), 404, "model_not_found")
    assert missing["error"] == missing["detail"]
    check(trained.http.get("/v2/models/none/ready"), 404, "model_not_found")


def test_encoded_pictures_and_their_pixels_get_the_answers_of_classify(trained: Fovea) -> None:
    results = classified(trained, PICTURES)
    texts = [base64.b64encode(picture).decode() for picture in PICTURES]
    stacked = np.stack(PIXELS)
    shape = list(stacked.shape)
    floats = (stacked / np.float32(255)).astype("<f4")
    lengths = b"".join(struct.pack("<I", len(one)) + one for one in PICTURES)
    for answer in (
        infer(trained, tensor("BYTES", [3], texts), id="42"),
        infer(trained, tensor("BYTES", [3, 1], [[text] for text in texts]), path="colours/versions/1"),
        infer(trained, tensor("UINT8", shape, stacked.ravel().tolist())),
        infer(trained, tensor("UINT8", shape, stacked.tolist())),
        infer(trained, tensor("FP32", shape, floats.ravel().tolist())),
        binary(trained, tensor("BYTES", [3], binary_data_size=len(lengths)), lengths),
        binary(trained, tensor("UINT8", shape, binary_data_size=stacked.size), stacked.tobytes()),
        binary(trained, tensor("FP32", shape, binary_data_size=floats.nbytes), floats.tobytes()),
    ):
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body.keys() == examples.INFERENCE.keys()
        assert (body["model_name"], body["model_version"]) == ("colours", "1")
        agrees(body["outputs"], results)
    assert infer(trained, tensor("BYTES", [1], texts[:1]), id="42").json()["id"] == "42"


def test_wanted_outputs_come_alone_and_as_binary_data(trained: Fovea) -> None:
    one = tensor("UINT8", [1, 20, 24, 3], PIXELS[0].tolist())
    [result] = classified(trained, PICTURES[:1])
    assert [got["name"] for got in infer(trained, one, outputs=[{"name": "labels"}]).json()["outputs"]] == ["labels"]
    wanted = [{"name": "probabilities", "parameters": {"binary_data": True}}, {"name": "labels"}]
    answer = infer(trained, one, outputs=wanted)
    end = int(answer.headers["inference-header-content-length"])
    head = json.loads(answer.content[:end])
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 12}
    assert np.frombuffer(answer.content[end:], "<f4").max() == pytest.approx(result["probability"], abs=2e-6)
    every = infer(trained, one, parameters={"binary_data_output": True})
    end = int(every.headers["inference-header-content-length"])
    label = result["label"].encode()
    assert every.content[end:].startswith(struct.pack("<I", len(label)) + label)
    unknown = infer(trained, one, outputs=[{"name": "logits"}])
    assert check(unknown, 422, "unknown_output")["param"] == "/outputs/0/name"


NOT_SQUARE = tensor("UINT8", [1, 2, 2, 3], [0] * 12)


@pytest.mark.parametrize(
    ("one", "code"),
    [
        ({**NOT_SQUARE, "name": "input__0"}, "unknown_input"),
        ({**NOT_SQUARE, "datatype": "INT64"}, "datatype_unsupported"),
        ({**NOT_SQUARE, "shape": [1, 3, 2, 2]}, "shape_mismatch"),
        ({**NOT_SQUARE, "shape": [1, 2, 3, 3]}, "shape_mismatch"),
        ({**NOT_SQUARE, "shape": [0, 2, 2, 3], "data": []}, "shape_mismatch"),
        ({**NOT_SQUARE, "shape": [1, 2**31, 2**31, 3]}, "shape_mismatch"),
        ({**NOT_SQUARE, "shape": [1, -2, -2, 3]}, "invalid_value"),
        ({**NOT_SQUARE, "data": [256] * 12}, "pixel_range"),
        ({**NOT_SQUARE, "data": ["0"] * 12}, "invalid_value"),
        ({**NOT_SQUARE, "data": [[0], [0, 0]]}, "invalid_value"),
        ({**NOT_SQUARE, "data": [2**70] * 12}, "invalid_value"),
        ({**NOT_SQUARE, "datatype": "FP32", "data": [200] * 12}, "pixel_range"),
        ({**NOT_SQUARE, "datatype": "FP32", "data": [-0.5] * 12}, "pixel_range"),
        (tensor("BYTES", [1], ["%%"]), "invalid_base64"),
        (tensor("BYTES", [1], [7]), "invalid_value"),
        (tensor("BYTES", [2], ["aGVsbG8="]), "shape_mismatch"),
        (tensor("BYTES", [1]), "data_missing"),
        (tensor("BYTES", [1], binary_data_size=9), "binary_data_size"),
        (tensor("BYTES", [100_000], ["aGVsbG8="]), "too_many_images"),
        (tensor("BYTES", [1], ["aGVsbG8="]), "not_a_picture"),
        (tensor("BYTES", [2], [base64.b64encode(PICTURES[0]).decode(), "aGVsbG8="]), "not_a_picture"),
    ],
)
def test_a_tensor_that_cannot_be_right_is_refused_with_the_place(trained: Fovea, one: dict, code: str) -> None:
    problem = check(answer := infer(trained, one), answer.status_code, code)
    assert answer.status_code in (413, 415, 422)
    assert problem["error"] == problem["detail"]
    assert problem["param"] is None or problem["param"].startswith("/inputs")


def test_binary_data_that_lie_about_their_length_are_refused(trained: Fovea) -> None:
    one = tensor("BYTES", [1], binary_data_size=8)
    check(binary(trained, one, struct.pack("<I", 999) + b"1234"), 422, "binary_data_truncated")
    check(binary(trained, one, b"123"), 422, "binary_data_size")
    check(binary(trained, tensor("FP32", [1, 1, 1, 3], binary_data_size=11), b"\0" * 11), 422, "shape_mismatch")
    nan = np.full(3, np.nan, "<f4").tobytes()
    check(binary(trained, tensor("FP32", [1, 1, 1, 3], binary_data_size=12), nan), 422, "pixel_range")
    for length in ("99999", "-1", "x"):
        headers = {"Inference-Header-Content-Length": length}
        check(trained.http.post("/v2/models/colours/infer", content=b"{}", headers=headers), 400, "inference_header")
    check(trained.http.post("/v2/models/colours/infer", content=b"{"), 400, "malformed_json")
    check(trained.http.post("/v2/models/colours/infer", content=b" " * (17 * 1024**2)), 413, "json_too_large")


def test_torchserve_clients_get_its_shape_of_answer(trained: Fovea) -> None:
    [result] = classified(trained, PICTURES[:1])
    expected = {one["label"]: one["probability"] for one in result["predictions"]}
    form = {"data": ("kitten.png", PICTURES[0])}
    for answer in (
        trained.http.post("/predictions/colours", content=PICTURES[0]),
        trained.http.put("/predictions/colours", content=PICTURES[0]),
        trained.http.post("/predictions/colours/1", files=form),
        trained.http.post("/predictions/colours/1.0", files=form),
    ):
        assert answer.status_code == 200, answer.text
        assert list(answer.json().items()) == list(expected.items())
    check(trained.http.post("/predictions/colours", content=b"hello"), 415, "not_a_picture")
    check(trained.http.post("/predictions/colours/7", content=PICTURES[0]), 404, "model_not_found")
    check(trained.http.post("/predictions/colours", files=[("data", PICTURES[0])] * 2), 422, "one_picture")
    check(trained.http.post("/predictions/colours", files={"file": PICTURES[0]}), 422, "no_picture")
