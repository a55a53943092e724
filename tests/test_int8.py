"""A version in eight bits: the next of its model, answered as evaluated, or refused with the figures."""

import signal
import tempfile

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from service import comparison
from service.db.tables import Job, ModelVersion
from service.errors import InvalidValue
from service.inference import choice, onnx_program
from service.inference.programs import TORCH, Outputs, Stored, load, parse
from tests.browser import sign_in
from tests.conftest import Fovea, colours_zip, fovea_in, make_zip, png
from tests.test_bundle import SPEC as SMALL
from tests.test_bundle import bundle_of
from tests.test_cli import run
from tests.test_engines import BODY, EXACT, SPEC, alone_as_together, programs, strange_as_reported
from tests.test_errors import check
from tests.test_main_job import http_equals_evaluation
from tests.test_multilabel import lights_zip
from workers import engines, quantise
from workers.training import int8
from workers.training.evaluate import Judged

ANYHOW = {"max_drop": 0.1, "even_if_slower": True}  # which engine is the faster is another test's


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Fovea:
    """`digits` served by what was fastest, `colours` by torch, as its budget is short, `lights` of several labels."""
    with fovea_in(tmp_path_factory.mktemp("int8"), FOVEA_ENGINE="auto") as fovea:
        fovea.start()
        for name, body, spec, more in (
            ("digits", BODY, SPEC, {}),
            ("colours", colours_zip(), SMALL, {"budget": {"seconds": 20}}),
            ("lights", lights_zip(), SMALL, {}),
        ):
            fovea.dataset(body, name)
            assert fovea.wait(fovea.train(name, name, spec, seed=3, **more)["id"])["status"] == "succeeded"
        yield fovea


def ask(fovea: Fovea, ref: str, asked: object = ANYHOW, **headers: str) -> httpx.Response:
    return fovea.http.post("/v1/jobs", json={"type": "export", "model": ref, "int8": asked}, headers=headers)


def quantised(fovea: Fovea, ref: str, asked: object = ANYHOW) -> dict:
    answer = ask(fovea, ref, asked)
    assert answer.status_code == 202, answer.text
    return fovea.wait(answer.json()["id"])


def version(fovea: Fovea, model: str, number: int) -> dict:
    return fovea.http.get(f"/v1/models/{model}/versions/{number}").json()


def test_it_is_the_next_version_answered_as_evaluated_and_the_first_stays_as_it_was(trained: Fovea) -> None:
    before = version(trained, "digits", 1)
    job = quantised(trained, "digits:1")
    assert job["status"] == "succeeded", job
    assert version(trained, "digits", 1) == before
    made = version(trained, "digits", 2)
    assert job["result"]["version"] == 2
    assert made["weights_sha256"] == job["result"]["weights_sha256"] != before["weights_sha256"]
    origin = made["lineage"].pop("quantised_from")
    assert (origin["model"], origin["weights_sha256"], origin["version_id"], origin["job"]) == (
        "digits:1",
        before["weights_sha256"],
        before["id"],
        job["id"],
    )
    assert made["lineage"] == before["lineage"]
    certificate = made["certificate"]
    assert certificate["passed"]
    assert certificate["engine"].endswith(" int8")
    assert [row["engine"] for row in certificate["candidates"]] == ["onnxruntime int8", "openvino int8"]
    assert all(row["batch_difference"] <= 1e-4 for row in certificate["candidates"])
    assert {"1", "8"} <= certificate["source"]["ms"].keys() <= {"1", "8", "64"}
    report = trained.http.get("/v1/models/digits:2/evaluation").json()
    http_equals_evaluation(trained, BODY, report, "digits:2")
    alone_as_together(trained)  # of the newest version
    strange_as_reported(trained, report)
    compared = trained.http.get("/v1/models/compare", params={"a": "digits:1", "b": "digits:2"}).json()
    assert compared["accuracy"] == certificate["source"]["accuracy"]
    assert compared["p_value"] == certificate["source"]["p_value"]
    stages(trained)


def stages(trained: Fovea) -> None:
    """What takes a version of 32 bits says so, and which."""
    problem = check(ask(trained, "digits:2"), 409, "already_int8")
    assert "digits:1" in problem["hint"]
    exported = trained.http.post("/v1/jobs", json={"type": "export", "model": "digits:2"})
    assert "digits:1" in check(exported, 409, "no_bundle_of_int8")["hint"]
    spec = {**SPEC, "initial_weights": "digits:2"}
    started = trained.http.post("/v1/jobs", json={"type": "train", "model": "x", "dataset": "digits", "spec": spec})
    assert "digits:1" in check(started, 422, "weights_not_trainable")["hint"]
    analysed = trained.http.post("/v1/jobs", json={"type": "analyse", "dataset": "digits", "model": "digits:2"})
    assert check(analysed, 422, "model_quantised")["param"] == "/model"


def test_the_page_says_what_it_was_made_of(trained: Fovea, browser: Browser) -> None:
    page, complaints = browser.new_page(), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    sign_in(page, trained)
    page.goto(f"{trained.url}/#/judge/digits%3A2")
    expect(page.locator("dl.facts").first).to_contain_text("In eight bits of")
    page.goto(f"{trained.url}/#/serve")
    expect(page.locator("main")).to_contain_text("of digits:1, in eight bits")
    assert complaints == []
    page.close()


def test_what_was_served_by_torch_and_what_has_several_labels_can_be_too(trained: Fovea) -> None:
    assert version(trained, "colours", 1)["certificate"]["engine"] == "torch fp32"
    for name in ("colours", "lights"):
        job = quantised(trained, f"{name}:1", {"max_drop": 0.5, "even_if_slower": True})
        assert job["status"] == "succeeded", job
        made = version(trained, name, 2)
        assert made["task"] == version(trained, name, 1)["task"]
        accuracy = trained.http.get(f"/v1/models/{name}:2/evaluation").json()["accuracy"]["value"]
        assert made["metrics"]["accuracy"] == accuracy == made["certificate"]["source"]["accuracy"]["b"]


def dim_and_bright_zip() -> bytes:
    """Three classes by their colour: dim pictures to learn from, bright ones to be judged by."""
    random, files = np.random.default_rng(0), {}
    for split, count, scale in (("train", 60, 1), ("val", 10, 15), ("test", 20, 15)):
        for channel, name in enumerate(("red", "green", "blue")):
            for number in range(count):
                pixels = random.integers(9, 11, (16, 16, 3), dtype=np.uint8)
                pixels[..., channel] += np.uint8(7)
                files[f"{split}/{name}/{number}.png"] = png(pixels * np.uint8(scale))
    return make_zip(files)


def test_one_that_loses_more_than_it_may_is_refused_with_the_figures_and_leaves_nothing(trained: Fovea) -> None:
    """Calibrated on dim pictures, eight bits cut bright ones off, which the network takes as they come."""
    trained.dataset(dim_and_bright_zip(), "dim")
    layers = [{"conv": {"filters": 16, "activation": "relu"}}, {"global_avg_pool": {}}]
    spec = {"network": {"layers": layers}, "image_size": 16, "epochs": 30, "batch_size": 16, "augment": None}
    spec["optimizer"] = {"lr": 0.01}
    assert trained.wait(trained.train("dim", "dim", spec)["id"])["status"] == "succeeded"
    assert version(trained, "dim", 1)["metrics"]["accuracy"] > 0.9
    job = quantised(trained, "dim", {"max_drop": 0.05, "even_if_slower": True})
    assert job["status"] == "failed", job
    error = job["error"]
    assert error["code"] == "int8_drops_accuracy"
    assert "0.05 is allowed" in error["message"]
    assert "McNemar" in error["message"]
    assert "dim:1" in error["hint"]
    assert [one["version"] for one in trained.http.get("/v1/models/dim/versions").json()["data"]] == [1]
    told = run(trained, "models", "quantise", "dim:1", "--max-drop", "0.05", "--even-if-slower")
    assert told.returncode != 0
    assert "it drops by" in told.stderr


def test_a_network_without_a_layer_to_quantise_says_so(trained: Fovea) -> None:
    spec = {**SMALL, "network": {"layers": [{"flatten": {}}]}}
    assert trained.wait(trained.train("flat", "colours", spec)["id"])["status"] == "succeeded"
    job = quantised(trained, "flat")
    assert (job["status"], job["error"]["code"]) == ("failed", "not_quantisable")


def test_what_cannot_be_asked_is_refused_at_once(trained: Fovea) -> None:
    for asked, code, param in (
        ({"max_drop": -0.01}, "invalid_value", "/int8/max_drop"),
        ({"max_drop": 1}, "invalid_value", "/int8/max_drop"),
        ({"max_drop": "nan"}, "invalid_value", "/int8/max_drop"),
        ({"bits": 4}, "unknown_field", "/int8/bits"),
        (True, "invalid_value", "/int8"),
    ):
        assert check(ask(trained, "colours:1", asked), 422, code)["param"] == param
    check(ask(trained, "nobody"), 404, "model_not_found")
    body = {"type": "export", "model": "colours:1", "int8": {}}
    check(trained.http.post("/v1/jobs?dry_run=true", json=body), 422, "invalid_value")
    bundle = bundle_of(trained, "colours:1")
    head = {"Content-Type": "application/zip"}
    job = trained.http.post("/v1/models/foreign/versions:import", content=bundle, headers=head).json()
    assert trained.wait(job["id"])["status"] == "succeeded"
    check(ask(trained, "foreign"), 409, "no_test_pictures")


def test_it_is_asked_once_survives_a_kill_and_a_cancelled_one_leaves_nothing(trained: Fovea) -> None:
    ref = "lights:1"
    count = len(trained.http.get("/v1/models/lights/versions").json()["data"])
    asked = {"max_drop": 0.6, "even_if_slower": True}
    first, second = (ask(trained, ref, asked, **{"Idempotency-Key": "int8-1"}) for _ in range(2))
    third = ask(trained, ref, asked)
    assert first.json()["id"] == second.json()["id"] == third.json()["id"]
    trained.wait_for(first.json()["id"], lambda one: one["status"] == "running")
    trained.end("workers", number=signal.SIGKILL)
    cancelled = ask(trained, ref, {"max_drop": 0.7, "even_if_slower": True}).json()
    assert trained.http.post(f"/v1/jobs/{cancelled['id']}:cancel").status_code == 202
    trained.start("workers")
    job = trained.wait(first.json()["id"])
    assert (job["status"], job["attempt"]) == ("succeeded", 2), job
    assert trained.job(cancelled["id"])["status"] == "cancelled"
    running = ask(trained, ref, {"max_drop": 0.8, "even_if_slower": True}).json()
    trained.wait_for(running["id"], lambda one: one["status"] == "running")
    assert trained.http.post(f"/v1/jobs/{running['id']}:cancel").status_code == 202
    assert trained.wait(running["id"])["status"] == "cancelled"
    assert len(trained.http.get("/v1/models/lights/versions").json()["data"]) == count + 1


@pytest.mark.parametrize(("name", "side"), [("compact", 32), ("mobilenet_v3_small", 64)])
def test_a_network_answers_nearly_as_before_whatever_a_picture_is_batched_with(name: str, side: int) -> None:
    (_, packed), pixels = programs(name, side)
    expected = load(Stored(packed, EXACT[0]), "cpu", 1).outputs(pixels)
    model, head = onnx_program.unpack(packed)
    small = int8.to_int8(model, int8.batches(pixels, np.arange(len(pixels))))
    assert len(small) < 0.35 * len(model)
    assert tempfile.gettempdir().encode() not in small
    assert small == int8.to_int8(model, int8.batches(pixels, np.arange(len(pixels))))
    for backend in choice.INT8:
        served = load(Stored(onnx_program.pack(small, **head), backend), "cpu", 1)
        found = served.outputs(pixels)
        assert np.abs(found.logits - expected.logits).max() < 0.2 * np.abs(expected.logits).max()
        assert (found.maps is None) == (expected.maps is None)
        for rows in (slice(5, 6), slice(1, 8)):
            assert np.abs(served.outputs(pixels[rows]).logits - found.logits[rows]).max() < 1e-4


def test_the_fastest_that_loses_little_enough_is_taken_and_only_if_it_is_faster() -> None:
    def tried(name: str, milliseconds: float, lost: int, batch: float = 0.0) -> quantise.Tried:
        images, labels = [str(k) for k in range(100)], ["a"] * 100
        before = comparison.kept_answers(images, labels, labels)
        kept = comparison.kept_answers(images, labels, ["b"] * lost + ["a"] * (100 - lost))
        row = engines.failed_row(parse(name), "it depends on its batch") if batch else {"engine": name, "why": None}
        row |= {"ms": {"1": milliseconds, "8": 8 * milliseconds}, "passed": not batch}
        row |= {"top1_equal": 100 - lost, "max_probability_difference": 0.1}
        return quantise.Tried(Judged({}, {}, [], []), comparison.compare(before, kept), row)

    def choose(*several: quantise.Tried, **asked: object) -> tuple[str, dict]:
        job = Job(spec={"int8": {"max_drop": 0.02, "even_if_slower": False, **asked}})
        source = quantise.Source("flowers:3", ModelVersion(), None, Stored(b"", TORCH), b"", None)
        found, certificate = quantise.choose(job, source, before, list(several), [], 1)
        return found.row["engine"], certificate

    before = engines.Answered(Outputs(np.zeros((1, 2), np.float32)), {"1": 2.0, "8": 16.0}, np.zeros(1), np.zeros(1))
    ort, openvino = "onnxruntime int8", "openvino int8"
    assert choose(tried(ort, 1, 2), tried(openvino, 0.5, 2))[0] == openvino
    name, certificate = choose(tried(ort, 1, 2), tried(openvino, 0.5, 3))
    assert (name, certificate["passed"], certificate["max_drop"]) == (ort, True, 0.02)
    assert "drops by 0.0300" in certificate["candidates"][1]["why"]
    assert certificate["source"]["ms"] == {"1": 2.0, "8": 16.0}
    with pytest.raises(InvalidValue, match=r"int8_drops_accuracy.*0.9700 in eight bits and 1.0000 of flowers:3"):
        choose(tried(ort, 1, 3), tried(openvino, 0.5, 9))
    with pytest.raises(InvalidValue, match=r"int8_not_faster.*1 picture in 3 ms, 8 in 24 ms"):
        choose(tried(ort, 3, 0))
    assert choose(tried(ort, 3, 0), even_if_slower=True)[0] == ort
    with pytest.raises(InvalidValue, match=r"int8_not_certified.*it depends on its batch"):
        choose(tried(ort, 1, 0, batch=0.1))


def test_without_pictures_or_an_engine_there_is_none(trained: Fovea) -> None:
    trained.dataset(colours_zip(), "gone")
    assert trained.wait(trained.train("gone", "gone", {**SMALL, "epochs": 1})["id"])["status"] == "succeeded"
    assert trained.http.delete("/v1/datasets/gone").status_code < 300
    check(ask(trained, "gone"), 409, "dataset_deleted")
    trained.end("service")
    trained.environment["FOVEA_ENGINE"] = "torch"
    trained.start("service")
    check(ask(trained, "colours:1"), 409, "int8_not_here")
    trained.end("service")
    trained.environment["FOVEA_ENGINE"] = "auto"
    trained.start("service")
