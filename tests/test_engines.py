"""Engines: they answer alike, the choice among them is by measurement, and what serves is what was evaluated."""

import io
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.ending import ENGINE_SECONDS, EXPORT_SECONDS, seconds_at_end
from service.inference import choice, onnx_program, torch_program
from service.inference.cuda_graphs import Graphs, Replay
from service.inference.programs import TORCH, Backend, Outputs, Program, Stored, load, parse
from service.inference.torch_program import TorchProgram
from service.settings import Settings
from tests.conftest import Fovea, digits_zip, fovea_in, png
from tests.test_main_job import http_equals_evaluation
from workers import engine_run, engines
from workers.training import export
from workers.training.networks import build
from workers.training.onnx import to_onnx, without

BODY = digits_zip()
LAYERS = [
    {"conv": {"filters": 32, "activation": "relu", "batch_norm": True}},
    {"max_pool": 2},
    {"conv": {"filters": 64, "activation": "relu", "batch_norm": True}},
    {"global_avg_pool": {}},
]
SPEC = {"network": {"layers": LAYERS}, "epochs": 4, "batch_size": 64, "precision": "fp32"}
TorchAndOnnx = tuple[bytes, bytes]
EXACT = [Backend("onnxruntime"), Backend("openvino")]


def programs(name: str, side: int) -> tuple[TorchAndOnnx, np.ndarray]:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (70, side, side, 3), dtype=np.uint8)
    whole = export.fitted(export.Classifier(build(name, side, 5).eval()), pixels, np.arange(70), np.arange(70) % 5)
    program = export.export_program(whole, side)
    head = {key: tensor.numpy() for key, tensor in whole.strangeness.named_buffers()}
    return (program, onnx_program.pack(without(to_onnx(program), "strangeness"), **head)), pixels


@pytest.mark.parametrize(("name", "side"), [("classic", 32), ("resnet18", 64), ("mobilenet_v3_small", 64)])
def test_engines_answer_as_the_program_does_whatever_a_picture_is_batched_with(name: str, side: int) -> None:
    (program, other), pixels = programs(name, side)
    expected = torch_program.load(program, "cpu", 1).outputs(pixels)
    for backend in EXACT:
        served = load(Stored(other, backend), "cpu", 1)
        _same(served.outputs(pixels), expected)
        _same(served.outputs(pixels[3:4]), expected[3:4])
        _same(served.outputs(pixels[3:10]), expected[3:10])
    if choice.runs_here(Backend("openvino", "bf16")):
        rough: Program = load(Stored(other, Backend("openvino", "bf16")), "cpu", 1)
        whole = rough.outputs(pixels)
        assert np.abs(whole.logits - expected.logits).max() < 0.1 * np.abs(expected.logits).max()
        _same(rough.outputs(pixels[5:6]), whole[5:6])
        _same(rough.outputs(pixels[1:8]), whole[1:8])


def test_the_process_that_runs_a_strangers_engine_knows_no_settings_and_no_database() -> None:
    code = "import sys, workers.engine_run; print({'service.settings', 'sqlalchemy', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"set()\n"


def test_no_engine_tells_anybody_of_its_use(tmp_path: Path) -> None:
    """Importing OpenVINO would send an event, and keep an id of this machine in the home folder."""
    code = """
import sys, threading
from service.inference.onnx_program import bf16_pays
bf16_pays()
assert "openvino" in sys.modules
assert not [name for name in sys.modules if "telemetry" in name], sys.modules
assert len(threading.enumerate()) == 1
"""
    done = subprocess.run([sys.executable, "-c", code], env={"HOME": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_batch_takes_the_next_larger_graph_and_rows_beyond_it_are_nobodys() -> None:
    """All of it but the capture, which needs a graphics card (tests/test_gpu.py)."""
    taken = []

    def capture(call: Replay) -> Replay:
        def replay() -> Any:
            found = call()
            taken.append(len(found["logits"]))
            return found

        return replay

    (program, _), pixels = programs("classic", 32)
    module = torch.export.load(io.BytesIO(program)).module()
    plain, graphs = (TorchProgram(one, "cpu") for one in (module, Graphs(module, 32, "cpu", capture, (1, 2, 8))))
    for first, last in ((0, 8), (20, 21), (3, 6), (0, 2), (5, 14), (60, 61)):
        _same(graphs.outputs(pixels[first:last]), plain.outputs(pixels[first:last]))
    assert taken == [8, 1, 8, 2, 1]  # nine pictures are more than the largest takes


def test_a_program_that_was_exported_on_a_processor_moves_to_another_device_as_a_whole() -> None:
    """To one that computes shapes only; a graphics card needs the same (tests/test_gpu.py)."""
    (program, _), pixels = programs("resnet18", 64)
    loaded = torch.export.load(io.BytesIO(program))
    images = torch.from_numpy(pixels[:3]).permute(0, 3, 1, 2).contiguous().to("meta")
    with pytest.raises(RuntimeError, match="device"):
        loaded.module()(images)
    found = torch_program.on_device(loaded, "meta")(images)
    assert found["logits"].shape[0] == 3
    assert all(tensor.is_meta for tensor in found.values())


def _same(found: Outputs, expected: Outputs) -> None:
    assert np.abs(found.logits - expected.logits).max() < 1e-4
    assert found.strangeness is not None
    np.testing.assert_allclose(found.strangeness, expected.strangeness, rtol=1e-2)
    assert (found.maps is None) == (expected.maps is None)


def test_what_is_no_number_is_strange_and_seen_nowhere() -> None:
    logits, strangeness = np.array([[1, 2], [np.nan, 0]], np.float32), np.array([np.nan, 3], np.float32)
    found = {"logits": logits, "strangeness": strangeness, "maps": np.full((2, 4, 4), np.nan, np.float32)}
    outputs = onnx_program.OnnxProgram(lambda _: found, None).outputs(np.zeros((2, 8, 8, 3), np.uint8))
    np.testing.assert_array_equal(outputs.logits, [[1, 2], [0, 0]])
    assert outputs.strangeness is not None
    assert np.isposinf(outputs.strangeness).all()
    assert outputs.maps is not None
    assert not outputs.maps.any()


def answered(logits: np.ndarray, milliseconds: float) -> engines.Answered:
    times = {"1": milliseconds, "8": 8 * milliseconds}
    return engines.Answered(Outputs(logits), times, logits[:8], logits[:8])


def test_the_fastest_is_chosen_of_those_that_may_be_and_the_others_have_a_reason() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 400)
    trained = (10 * np.eye(3)[labels] + random.normal(size=(400, 3))).astype(np.float32)
    reference = engines.Reference(trained, labels)

    def row(name: str, logits: np.ndarray, milliseconds: float) -> dict:
        return engines.row_of(parse(name), answered(logits, milliseconds), reference, slice(400))

    wrong, worse = trained.copy(), trained.copy()
    wrong[0] = -trained[0]
    worse[:9] = -trained[:9]
    rough = trained + np.float32(0.01) * random.normal(size=trained.shape).astype(np.float32)
    torch_row, ort, ov = (
        row("torch fp32", trained, 4),
        row("onnxruntime fp32", trained, 2),
        row("openvino fp32", wrong, 1),
    )
    assert (ov["passed"], ov["why"]) == (False, "it does not answer as the trained network does")
    assert engines.certificate([torch_row, ort, ov], 400, 2)["engine"] == "onnxruntime fp32"
    lossy = row("openvino bf16", worse, 0.5)
    assert not lossy["passed"]
    assert "97.8%" in lossy["why"]
    fine = row("openvino bf16", rough, 0.5)
    found = engines.certificate([torch_row, ort, ov, fine], 400, 2)
    assert (found["engine"], found["passed"], len(found["candidates"])) == ("openvino bf16", True, 4)
    assert "0.5 ms" in found["reason"]
    hardly = row("openvino bf16", rough, 1.9)  # for a tenth of the time less it is not worth being inexact
    assert engines.certificate([torch_row, ort, hardly], 400, 2)["engine"] == "onnxruntime fp32"
    nan = row("onnxruntime fp32", np.full_like(trained, np.nan), 0.1)
    assert (nan["passed"], nan["why"]) == (False, "some answers are no numbers")


class Paced:
    """Answers as slowly as is said, and remembers of how many pictures."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.asked: set[int] = set()

    def outputs(self, pixels: np.ndarray) -> Outputs:
        time.sleep(self._seconds)
        self.asked.add(len(pixels))
        return Outputs(np.zeros((len(pixels), 2), np.float32))


def test_large_batches_are_timed_of_quick_networks_and_count_for_slow_ones_as_eight_do() -> None:
    sample = np.zeros((8, 4, 4, 3), np.uint8)
    quick, slow = Paced(0), Paced(1.5 * engine_run.SLOW_MS / 1000)
    assert (engine_run.milliseconds(quick, sample).keys(), quick.asked) == ({"1", "8", "64"}, {1, 8, 64})
    assert (engine_run.milliseconds(slow, sample).keys(), slow.asked) == ({"1", "8"}, {1, 8})
    assert choice.pace({"1": 1.0, "8": 4.0, "64": 8.0}) == pytest.approx((1 * 0.5 * 0.125) ** (1 / 3))
    assert choice.pace({"1": 1.0, "8": 4.0}) == pytest.approx(choice.pace({"1": 1.0, "8": 4.0, "64": 32.0}))


def test_the_next_certified_engine_serves_where_the_chosen_one_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"engine": "torch fp32", "ms": {"1": 3.0}, "passed": True},
        {"engine": "openvino bf16", "ms": {"1": 1.0}, "passed": True},
        {"engine": "onnxruntime fp32", "ms": {"1": 2.0}, "passed": True},
        {"engine": "openvino fp32", "ms": {"1": 0.5}, "passed": False},
    ]
    card = {"certificate": {"engine": "openvino bf16", "candidates": rows}}

    def pick(**settings: str) -> str:
        return str(choice.pick(card, Settings(data=tmp_path, device="cpu", **settings)))

    assert pick(engine="torch") == "torch fp32"
    assert pick(engine="onnxruntime") == "onnxruntime fp32"
    monkeypatch.setattr(choice, "runs_here", lambda backend: backend.precision != "bf16")
    assert pick() == pick(engine="openvino") == "onnxruntime fp32"
    assert choice.pick({"certificate": {"passed": True}}, Settings(data=tmp_path, device="cpu")) == TORCH


def test_a_short_budget_has_no_time_for_a_choice_and_a_longer_one_counts_it_in(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, device="cpu")
    assert choice.candidates(settings, {"seconds": 20}) == []
    assert seconds_at_end(settings, {"seconds": 20}) == EXPORT_SECONDS
    assert seconds_at_end(settings, {"seconds": 60}) == EXPORT_SECONDS + ENGINE_SECONDS
    assert seconds_at_end(Settings(data=tmp_path, engine="torch"), None) == EXPORT_SECONDS
    only = choice.candidates(Settings(data=tmp_path, device="cpu", engine="openvino"))
    assert {one.name for one in only} == {"openvino"}
    assert choice.candidates(Settings(data=tmp_path, device="cuda")) == []


def test_what_serves_is_what_was_evaluated_and_torch_stays_out(tmp_path: Path) -> None:
    with fovea_in(tmp_path, FOVEA_ENGINE="auto") as fovea:
        fovea.start()
        fovea.dataset(BODY, "digits")
        chosen = serves_what_was_evaluated(fovea, {"torch", "onnxruntime", "openvino"})
        fovea.end()
        other = "onnxruntime" if chosen == "openvino" else "openvino"
        fovea.environment["FOVEA_ENGINE"] = other
        fovea.start()
        assert serves_what_was_evaluated(fovea, {"torch", other}) == other


def serves_what_was_evaluated(fovea: Fovea, tried: set[str]) -> str:
    """The engine of a new version, which is not torch."""
    job = fovea.wait(fovea.train("digits", "digits", SPEC, seed=3)["id"])
    assert job["status"] == "succeeded", job
    certificate = fovea.http.get(f"/v1/models/digits/versions/{job['result']['version']}").json()["certificate"]
    assert certificate["passed"]
    assert {row["engine"].partition(" ")[0] for row in certificate["candidates"]} == tried
    assert all(row["passed"] or row["why"] for row in certificate["candidates"])
    assert all({"1", "8"} <= set(row["ms"]) <= {"1", "8", "64"} for row in certificate["candidates"])
    engine: str = certificate["engine"].partition(" ")[0]
    assert engine in tried - {"torch"}, certificate
    report = fovea.http.get("/v1/models/digits/evaluation").json()
    http_equals_evaluation(fovea, BODY, report, "digits")
    alone_as_together(fovea)
    strange_as_reported(fovea, report)
    loaded = Path(f"/proc/{fovea.processes['service'].pid}/maps").read_text()
    assert "libtorch" not in loaded
    assert ("libopenvino" in loaded) == (engine == "openvino")
    return engine


def _pictures(fovea: Fovea) -> list[bytes]:
    params = {"split": "test", "limit": 1000}
    items = fovea.http.get("/v1/datasets/digits/versions/1/items", params=params).json()["data"]
    with zipfile.ZipFile(io.BytesIO(BODY)) as archive:
        return [archive.read(item["path"]) for item in items]


def _classify(fovea: Fovea, pictures: list[bytes], **params: object) -> list[dict]:
    files = [("file", ("a.png", picture)) for picture in pictures]
    answer = fovea.http.post("/v1/models/digits/classify", files=files, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def alone_as_together(fovea: Fovea) -> None:
    pictures = _pictures(fovea)[:20]
    for picture, together in zip(pictures, _classify(fovea, pictures), strict=True):
        alone = _classify(fovea, [picture])[0]
        assert alone["label"] == together["label"]
        assert alone["probability"] == pytest.approx(together["probability"], abs=2e-6)


def strange_as_reported(fovea: Fovea, report: dict) -> None:
    """Thresholds were fitted on the strangeness that this engine gives."""
    row = report["out_of_distribution"][-1]
    pictures = _pictures(fovea)
    results = [one for start in (0, 200) for one in _classify(fovea, pictures[start : start + 200], false_alarm=0.1)]
    share = np.mean([one["decision"] == "abstain" for one in results])
    assert share == pytest.approx(row["empirical"]["value"], abs=1 / len(pictures) + 1e-9)
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    assert _classify(fovea, [png(noise)], false_alarm=0.1)[0]["decision"] == "abstain"
