"""A bundle from elsewhere becomes a model version, or is refused with a reason and leaves nothing."""

import hashlib
import io
import json
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.bundles import TEMPERATURES, opened
from service.db.tables import Blob
from service.errors import InvalidValue
from service.inference.onnx_program import pack
from service.inference.programs import Backend, Outputs, Stored, load
from service.inference.score import probabilities, sigmoids
from service.settings import Settings
from tests.conftest import Fovea, colours_zip, png
from tests.test_bundle import SPEC, bundle_of
from tests.test_cli import run
from tests.test_errors import check
from tests.test_multilabel import lights_zip
from workers import engine_run
from workers.bundle import onnx_check
from workers.bundle.verify import may_be

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def bundles(shared: Fovea) -> dict[str, bytes]:
    for name, body in (("colours", colours_zip()), ("lights", lights_zip())):
        shared.dataset(body, name)
        assert shared.wait(shared.train(name, name, SPEC)["id"])["status"] == "succeeded"
    return {name: bundle_of(shared, f"{name}:1") for name in ("colours", "lights")}


def post(fovea: Fovea, body: bytes, name: str = "foreign", **headers: str) -> httpx.Response:
    headers = {"Content-Type": "application/zip", **headers}
    return fovea.http.post(f"/v1/models/{name}/versions:import", content=body, headers=headers)


def take(fovea: Fovea, body: bytes, name: str = "foreign") -> dict:
    answer = post(fovea, body, name)
    assert answer.status_code == 202, answer.text
    return fovea.wait(answer.json()["id"])


def files_of(bundle: bytes) -> Files:
    with zipfile.ZipFile(io.BytesIO(bundle)) as found:
        return {name: found.read(name) for name in found.namelist()}


def zipped(files: Files, *, honest: bool = True) -> bytes:
    """With a manifest that fits, as whoever changes a bundle on purpose would make it."""
    if honest:
        rest = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != "manifest.json"}
        files = {**files, "manifest.json": json.dumps(rest).encode()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def edited(data: bytes, **changes: object) -> bytes:
    return json.dumps({**json.loads(data), **changes}).encode()


def blobs(fovea: Fovea) -> int:
    with fovea.database() as database, database.read() as session:
        return session.query(Blob).filter_by(doomed=False).count()


@pytest.mark.parametrize("model", ["colours", "lights"])
def test_a_bundle_becomes_a_version_that_answers_as_the_one_it_was_made_of(
    shared: Fovea, bundles: dict[str, bytes], model: str
) -> None:
    job = take(shared, bundles[model], f"{model}-abroad")
    assert job["status"] == "succeeded", job
    version = shared.http.get(f"/v1/models/{model}-abroad/versions/1").json()
    original = shared.http.get(f"/v1/models/{model}/versions/1").json()
    served = hashlib.sha256(files_of(bundles[model])["model.onnx"]).hexdigest()
    assert version["weights_sha256"] == job["result"]["weights_sha256"] == served
    assert version["classes"] == original["classes"]
    assert version["task"] == original["task"]
    imported = version["lineage"]["imported"]
    assert imported["bundle_sha256"] == hashlib.sha256(bundles[model]).hexdigest()
    assert imported["verified"]["golden_pictures"] >= 6
    assert imported["certificate"] == original["certificate"]
    assert imported["weights_sha256"] == original["weights_sha256"]
    assert version["lineage"]["origin"] == original["lineage"]
    assert version["certificate"]["passed"]
    assert {row["engine"] for row in version["certificate"]["candidates"]} == {"onnxruntime fp32", "openvino fp32"}
    random = np.random.default_rng(0)
    for _ in range(5):
        picture = png(random.integers(0, 255, (20, 30, 3), dtype=np.uint8))
        here, there = (
            shared.http.post(f"/v1/models/{name}:1/classify?false_alarm=0.1", content=picture).json()["results"][0]
            for name in (model, f"{model}-abroad")
        )
        assert here["labels"] == there["labels"]
        assert here["probability"] == pytest.approx(there["probability"], abs=1e-4)
        assert here["decision"] == there["decision"]
    assert shared.http.get(f"/v1/models/{model}-abroad/bundle").content == bundles[model]


def test_what_cannot_be_done_with_an_imported_version_is_said(shared: Fovea, bundles: dict[str, bytes]) -> None:
    assert take(shared, bundles["colours"], "guest")["status"] == "succeeded"
    assert shared.http.put("/v1/models/guest/aliases/production", json={"version": 1}).status_code == 201
    compared = shared.http.get("/v1/models/compare", params={"a": "guest:1", "b": "colours:1"})
    check(compared, 409, "answers_not_kept")
    check(shared.http.get("/v1/models/guest/evaluation"), 409, "not_evaluated")
    check(shared.http.post("/v1/jobs", json={"type": "export", "model": "guest"}), 409, "bundle_exists")
    spec = {"initial_weights": "guest:1"}
    body = {"type": "train", "model": "more", "dataset": "colours", "spec": spec}
    assert check(shared.http.post("/v1/jobs", json=body), 422, "weights_not_trainable")["param"] == (
        "/spec/initial_weights"
    )


def test_the_command_line_takes_the_name_from_the_card(
    shared: Fovea, bundles: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "b.zip").write_bytes(bundles["colours"])
    done = run(shared, "models", "import", str(tmp_path / "b.zip"))
    assert done.returncode == 0, done.stderr
    assert shared.http.get("/v1/models/colours").json()["newest_version"] == 2
    (tmp_path / "no.zip").write_bytes(b"hello")
    refused = run(shared, "models", "import", str(tmp_path / "no.zip"))
    assert "bundle_invalid" in refused.stderr
    for words in (("models", "import"), ("datasets", "push", "--name", "never")):
        missing = run(shared, *words, str(tmp_path / "nowhere.zip"))
        assert missing.returncode == 2
        assert "exist" in missing.stderr


def test_a_repeated_request_makes_one_job(shared: Fovea, bundles: dict[str, bytes]) -> None:
    first, second = (post(shared, bundles["colours"], "twice", **{"Idempotency-Key": "import-1"}) for _ in range(2))
    assert first.json() == second.json()
    assert shared.wait(first.json()["id"])["status"] == "succeeded"
    assert shared.http.get("/v1/models/twice").json()["newest_version"] == 1


def test_what_is_no_bundle_is_refused_at_once(shared: Fovea, bundles: dict[str, bytes]) -> None:
    files = files_of(bundles["colours"])
    before = blobs(shared)
    check(post(shared, b"hello"), 422, "archive_not_a_zip")
    check(post(shared, bundles["colours"][:-30]), 422, "archive_truncated")
    check(post(shared, colours_zip()), 422, "bundle_incomplete")
    check(post(shared, zipped({**files, "../evil.py": b"1"})), 422, "archive_name")
    check(post(shared, zipped({**files, "golden/bomb.bin": bytes(64 * 2**20)})), 422, "archive_bomb")
    check(post(shared, zipped({**files, **{f"golden/{k}": b"1" for k in range(300)}})), 422, "archive_too_many_entries")
    assert post(shared, bundles["colours"], "no/name").status_code in (404, 422)
    assert blobs(shared) == before


def _one_byte(files: Files) -> bytes:
    data = bytearray(files["model.onnx"])
    data[len(data) // 2] ^= 1
    return zipped({**files, "model.onnx": bytes(data)}, honest=False)


def _golden(files: Files, **changes: object) -> bytes:
    golden = json.loads(files["golden.json"])
    return zipped({**files, "golden.json": json.dumps([{**golden[0], **changes}, *golden[1:]]).encode()})


def _card(files: Files, **changes: object) -> bytes:
    return zipped({**files, "card.json": edited(files["card.json"], **changes)})


def _model(files: Files, change: Callable[[onnx.ModelProto], None]) -> bytes:
    model = onnx.load_from_string(files["model.onnx"])
    change(model)
    return zipped({**files, "model.onnx": model.SerializeToString()})


def _outside(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def _own_operator(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("evil", 1))
    model.graph.node.append(helper.make_node("Run", ["images"], ["x"], domain="evil"))


def _loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", ""], ["x"], body=body))


def _other_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 99999


def _other_weights(model: onnx.ModelProto) -> None:
    tensor = next(one for one in model.graph.initializer if one.name.endswith("weight"))
    values = np.frombuffer(tensor.raw_data, np.float32)
    tensor.raw_data = (values * np.float32(1.5)).tobytes()


def _another_label(files: Files) -> bytes:
    answered = json.loads(files["golden.json"])[0]["labels"]
    return _golden(files, labels=[name for name in ("red", "green", "blue") if name not in answered][:1])


def _few_rows(model: onnx.ModelProto) -> None:
    """At most eight rows of logits, whatever the batch."""
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["all rows" if name == "logits" else name for name in node.output]
    for name, value in (("from", [0]), ("to", [8]), ("axis", [0])):
        graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], value))
    graph.node.append(helper.make_node("Slice", ["all rows", "from", "to", "axis"], ["logits"]))
    logits = next(one for one in graph.output if one.name == "logits")
    logits.type.tensor_type.shape.dim[0].dim_param = "rows"


def _maps_of(height: int, width: int) -> Callable[[onnx.ModelProto], None]:
    """Maps of this size, declared as of any."""

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        graph.initializer.append(helper.make_tensor("all of it", TensorProto.INT64, [3], [1, 2, 3]))
        graph.initializer.append(helper.make_tensor("column", TensorProto.INT64, [3], [-1, 1, 1]))
        graph.initializer.append(helper.make_tensor("room", TensorProto.INT64, [3], [1, height, width]))
        graph.node.extend(
            [
                helper.make_node("Cast", ["images"], ["as floats"], to=TensorProto.FLOAT),
                helper.make_node("ReduceMean", ["as floats", "all of it"], ["picture mean"], keepdims=0),
                helper.make_node("Reshape", ["picture mean", "column"], ["picture column"]),
                helper.make_node("Expand", ["picture column", "room"], ["maps"]),
            ]
        )
        graph.output.append(helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["N", "h", "w"]))

    return change


CASES: dict[str, tuple[str, Callable[[Files], bytes]]] = {
    "a byte changed": ("bundle_damaged", _one_byte),
    "a file beside the manifest": ("bundle_damaged", lambda files: zipped({**files, "x.py": b"1"}, honest=False)),
    "a golden answer doctored": ("bundle_differs", lambda files: _golden(files, strangeness=12.0)),
    "classes that the golden lack": ("bundle_golden", lambda files: _golden(files, probabilities={"red": 1.0})),
    "a golden that is no picture": (
        "bundle_golden",
        lambda files: zipped({**files, "golden/noise-0.png": b"GIF89a" + bytes(99)}),
    ),
    "a temperature below zero": ("bundle_invalid", lambda files: _card(files, temperature=-1)),
    "a temperature that is none": (
        "bundle_invalid",
        lambda files: zipped({**files, "card.json": edited(files["card.json"], temperature=float("nan"))}),
    ),
    "maps that are not given": ("bundle_differs", lambda files: _card(files, maps=True)),
    "another label of a golden": ("bundle_differs", _another_label),
    "at most eight rows": ("bundle_differs", lambda files: _model(files, _few_rows)),
    "another resize": ("bundle_invalid", lambda files: _card(files, resize={"mode": "crop"})),
    "a class whose name is not all seen": ("bundle_invalid", lambda files: _card(files, classes=["a", "b", "c\u202e"])),
    "a class whose name is too long": ("bundle_invalid", lambda files: _card(files, classes=["a", "b", "c" * 201])),
    "twice the same class": ("bundle_invalid", lambda files: _card(files, classes=["red", "red", "red"])),
    "a card that is a bomb": ("bundle_invalid", lambda files: zipped({**files, "card.json": b"[" * 100_000})),
    "not an ONNX file": ("bundle_model", lambda files: zipped({**files, "model.onnx": b"\x80\x04pickle" * 9})),
    "weights in another file": ("bundle_model", lambda files: _model(files, _outside)),
    "an operator of its own": ("bundle_model", lambda files: _model(files, _own_operator)),
    "a loop": ("bundle_model", lambda files: _model(files, _loop)),
    "another input": ("bundle_model", lambda files: _model(files, _other_input)),
    "other weights": ("bundle_differs", lambda files: _model(files, _other_weights)),
}


@pytest.mark.parametrize("case", list(CASES))
def test_a_doctored_bundle_gets_a_named_reason_and_leaves_nothing(
    shared: Fovea, bundles: dict[str, bytes], case: str
) -> None:
    code, make = CASES[case]
    before = blobs(shared)
    job = take(shared, make(files_of(bundles["colours"])), "doctored")
    assert (job["status"], job["error"]["code"]) == ("failed", code), job["error"]
    assert job["error"]["hint"]
    assert blobs(shared) == before
    check(shared.http.get("/v1/models/doctored"), 404, "model_not_found")


UNKEEPABLE = {
    "half a character": b'"\\ud800"',
    "a NUL": b'"\\u0000"',
    "half a character in a name": b'{"\\udfff": 1}',
    "a number beyond all": b"1e999",
    "a number of thousands of digits": b"9" * 4000,
    "deeper than anybody reads": b"[" * 900 + b"]" * 900,
}


def reason(files: Files, folder: Path) -> str:
    """Why a bundle of these is invalid."""
    path = folder / "bundle.zip"
    path.write_bytes(zipped(files))
    with pytest.raises(InvalidValue) as refused:
        opened(path, Settings(data=folder))
    assert refused.value.code == "bundle_invalid"
    assert refused.value.detail.encode()
    return refused.value.detail


def test_maps_of_nothing_and_of_more_than_the_picture_end_the_trial(bundles: dict[str, bytes]) -> None:
    pixels = np.zeros((2, 16, 16, 3), np.uint8)
    for sides in ((0, 0), (16, 17), (3000, 3000)):
        model = onnx.load_from_string(files_of(bundles["colours"])["model.onnx"])
        _maps_of(*sides)(model)
        data = model.SerializeToString()
        assert onnx_check.fault(data, 3, 16) is None, "what it declares is in order"
        tried = engine_run.Checked(load(Stored(pack(data), Backend("onnxruntime")), "cpu", 1), 3)
        with pytest.raises(SystemExit, match="its maps are"):
            tried.outputs(pixels)


def test_outputs_of_other_shapes_than_a_model_gives_are_told() -> None:
    logits, strangeness, maps = (np.zeros(shape, np.float32) for shape in ((4, 3), (4,), (4, 1, 16)))
    assert engine_run.shape_fault(Outputs(logits, strangeness, maps), 4, 3, 16) is None
    for wrong, name in (
        (Outputs(logits[:3]), "logits"),
        (Outputs(logits[:, :2]), "logits"),
        (Outputs(logits, strangeness[:1]), "strangeness"),
        (Outputs(logits, logits), "strangeness"),
        (Outputs(logits, strangeness, maps[:1]), "maps"),
        (Outputs(logits, strangeness, logits), "maps"),
    ):
        assert f"its {name}" in str(engine_run.shape_fault(wrong, 4, 3, 16))


@pytest.mark.parametrize("field", ["lineage", "certificate"])
@pytest.mark.parametrize("what", list(UNKEEPABLE))
def test_what_cannot_be_kept_or_told_again_is_refused_with_its_place(
    bundles: dict[str, bytes], tmp_path: Path, field: str, what: str
) -> None:
    files = files_of(bundles["colours"])
    card = edited(files["card.json"], **{field: {"x": [0, "here"]}}).replace(b'"here"', UNKEEPABLE[what])
    assert reason({**files, "card.json": card}, tmp_path).startswith(f"card.json: {field}/x/1")


@pytest.mark.parametrize("text", ["\ud800", "re\0d"])
def test_text_that_a_database_cannot_hold_is_refused_wherever_it_stands(
    bundles: dict[str, bytes], tmp_path: Path, text: str
) -> None:
    files = files_of(bundles["colours"])
    for field, value, place in (
        ("classes", [text, "green", "blue"], "classes/0"),
        ("model", text, "model"),
        ("dataset", text, "dataset"),
        ("metrics", {"accuracy": 1.0, text: 1.0}, "metrics"),
    ):
        card = edited(files["card.json"], **{field: value})
        assert reason({**files, "card.json": card}, tmp_path).startswith(f"card.json: {place}: ")
    golden = json.loads(files["golden.json"])
    golden[0]["labels"] = [text]
    said = reason({**files, "golden.json": json.dumps(golden).encode()}, tmp_path)
    assert said.startswith("golden.json: 0/labels/0: ")


def test_a_temperature_that_makes_no_numbers_of_logits_is_refused(bundles: dict[str, bytes], tmp_path: Path) -> None:
    files = files_of(bundles["colours"])
    for temperature in (1e-300, 0.0, 1e300):
        card = edited(files["card.json"], temperature=temperature)
        assert reason({**files, "card.json": card}, tmp_path).startswith("card.json: temperature: ")
    largest = np.finfo(np.float32).max
    logits = np.array([[largest, -largest, 0]], np.float32)
    for temperature in (*TEMPERATURES, 0.05, 20.0):
        assert TEMPERATURES[0] <= temperature <= TEMPERATURES[1]
        for squash in (probabilities, sigmoids):
            assert np.isfinite(squash(logits, temperature)).all()


def test_of_a_tie_either_label_is_right_and_of_nothing_else() -> None:
    one = {"red": 0.50004, "green": 0.49996, "blue": 0.0}
    assert may_be(["red"], one, {})
    assert may_be(["green"], one, {})
    for labels in (["blue"], ["red", "green"], [], ["grey"]):
        assert not may_be(labels, one, {})
    several = {"classes": ["red", "green", "blue"], "thresholds": [0.5, 0.9, 0.2]}
    assert may_be(["red"], one, several)  # just above its threshold
    assert may_be([], one, several)
    for labels in (["red", "green"], ["blue"], ["grey"]):
        assert not may_be(labels, one, several)


def _no_numbers(model: onnx.ModelProto) -> None:
    """Answers as before, but for a picture without a single dark pixel, of which it makes no number."""
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["inner" if name == "logits" else name for name in node.output]
        node.input[:] = ["inner" if name == "logits" else name for name in node.input]
    graph.initializer.append(helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]))
    graph.initializer.append(helper.make_tensor("limit", TensorProto.FLOAT, [], [249.5]))
    graph.initializer.append(helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 1]))
    graph.node.extend(
        [
            helper.make_node("Cast", ["images"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMin", ["wide", "axes"], ["darkest"], keepdims=0),
            helper.make_node("Sub", ["limit", "darkest"], ["room"]),
            helper.make_node("Sqrt", ["room"], ["root"]),  # of less than nothing
            helper.make_node("Abs", ["root"], ["same"]),
            helper.make_node("Sub", ["root", "same"], ["nothing"]),
            helper.make_node("Reshape", ["nothing", "shape"], ["column"]),
            helper.make_node("Add", ["inner", "column"], ["logits"]),
        ]
    )


def test_a_network_that_answers_no_number_is_no_error_of_the_service(shared: Fovea, bundles: dict[str, bytes]) -> None:
    job = take(shared, _model(files_of(bundles["colours"]), _no_numbers), "numberless")
    assert job["status"] == "succeeded", job
    bright, dark = (png(np.full((16, 16, 3), value, np.uint8)) for value in (255, 90))
    url = "/v1/models/numberless/classify?false_alarm=0.2"  # few held-out pictures say little
    answer = shared.http.post(url, content=bright)
    assert answer.status_code == 200, answer.text
    result = answer.json()["results"][0]
    assert (result["decision"], result["probability"]) == ("abstain", pytest.approx(1 / 3, abs=1e-6))
    assert shared.http.post(url, content=dark).json()["results"][0]["probability"] > 0.34


def test_code_in_a_bundle_is_never_run(shared: Fovea, bundles: dict[str, bytes], tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    evil = f"open({str(trap)!r}, 'w').close()\n".encode()
    files = files_of(bundles["colours"])
    code = {name: evil for name in files if name.endswith(".py")} | {"numpy.py": evil, "sitecustomize.py": evil}
    assert take(shared, zipped({**files, **code}), "trapped")["status"] == "succeeded"
    assert not trap.exists()


def test_an_import_survives_the_death_of_its_worker_and_a_cancelled_one_leaves_nothing(
    fovea: Fovea, bundles: dict[str, bytes]
) -> None:
    fovea.start()
    job = post(fovea, bundles["colours"]).json()
    fovea.wait_for(job["id"], lambda one: one["status"] == "running")
    fovea.end("workers", number=signal.SIGKILL)
    cancelled = post(fovea, bundles["colours"], "never").json()
    assert fovea.http.post(f"/v1/jobs/{cancelled['id']}:cancel").status_code == 202
    fovea.start("workers")
    assert fovea.wait(job["id"])["status"] == "succeeded"
    assert fovea.job(cancelled["id"])["status"] == "cancelled"
    check(fovea.http.get("/v1/models/never"), 404, "model_not_found")
    assert blobs(fovea) == 2  # program and bundle of the one


def test_more_than_the_limit_is_refused(fovea: Fovea, bundles: dict[str, bytes]) -> None:
    fovea.environment["FOVEA_MAX_BUNDLE_BYTES"] = "1000"
    fovea.start("service")
    assert post(fovea, bundles["colours"]).status_code == 413
