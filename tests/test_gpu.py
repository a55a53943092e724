"""What only a GPU can show. Skipped without one."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.auto import DatasetFacts, resolve
from service.cost import Room
from service.inference import torch_program
from service.inference.cuda_graphs import Graphs, Replay, captured
from service.spec import TrainSpec
from tests.conftest import digits_zip
from tests.test_engines import fovea_in, http_equals_evaluation
from workers.train_job import remedy
from workers.training import export, precision
from workers.training.data import Split
from workers.training.export import certify
from workers.training.launching import AHEAD, Lead, mark
from workers.training.loop import EpochResult, Run, train
from workers.training.networks import build
from workers.training.state import prepare, start, weights_sha256

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

SIDE, CLASSES, COUNT = 32, 3, 300
LAYERS: list[dict[str, Any]] = [
    {"conv": {"filters": 24, "kernel": 2, "padding": 0, "activation": "gelu"}},
    {"conv": {"filters": 32}},
    {"max_pool": 2},
    {"batch_norm": {}},
    {"activation": "gelu"},
    {"conv": {"filters": 32, "batch_norm": True, "activation": "gelu"}},
    {"global_avg_pool": {}},
]


def pictures() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = np.arange(COUNT) % CLASSES
    packed = random.integers(0, 120, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    packed[np.arange(COUNT), :, :, labels] += 100
    return packed, labels


def trained(plan: dict[str, Any]) -> tuple[str, float]:
    packed, labels = pictures()
    rows = np.arange(COUNT)
    spec = resolve(
        TrainSpec.model_validate({"network": "classic", "epochs": 3, "image_size": SIDE, "batch_size": 32}),
        DatasetFacts(COUNT, CLASSES, SIDE, grey=False),
    )
    state = start(spec, CLASSES, 0, "cuda", plan)
    split = Split.of(packed, rows, labels, "cuda")
    assert split.on_device is not None
    results = list(train(state, Run(split, split, spec, plan, 0)))
    last = results[-1]
    assert isinstance(last, EpochResult)
    return weights_sha256(state.network.state_dict()), last.metrics["val/accuracy"]


@pytest.mark.parametrize("wanted", ["fp32", "bf16", "fp16"])
def test_every_precision_learns_and_repeats_itself_to_the_bit(wanted: str) -> None:
    prepare("cuda", 2)
    plan = precision.choose(build("classic", SIDE, CLASSES).to("cuda"), SIDE, 32, wanted, "cuda")
    assert plan["precision"] == wanted
    first, accuracy = trained(plan)
    assert accuracy > 0.9
    assert trained(plan)[0] == first


def whole_run(gain: float, monkeypatch: pytest.MonkeyPatch, name: str, stop_after: int = 0) -> str:
    """The weights after 72 steps with all that draws, mixes, grows and averages; stopped and resumed if wanted."""
    monkeypatch.setattr("workers.training.launching.GAIN", gain)
    monkeypatch.setattr("workers.training.loop.YIELD_SECONDS", 0.0)
    prepare("cuda", 2)
    asked = {
        "network": {"layers": [*LAYERS, {"dropout": {"p": 0.3}}, {"dense": {"units": 16, "activation": "relu"}}]},
        "optimizer": {"name": name, "lr": 0.003, "clip_norm": 1.0},
        "augment": {"mixup": 0.4, "cutmix": 1.0, "crop": 0.1, "rotate": 10.0, "saturation": 0.2, "erase": 0.1},
        "ema": {"decay": 0.9},
        "initialisation": {"whitening": {}, "identity": True},
        "progressive": {"start": 0.5, "until": 0.7},
    }
    spec = resolve(
        TrainSpec.model_validate({"epochs": 8, "image_size": SIDE, "batch_size": 32, **asked}),
        DatasetFacts(COUNT, CLASSES, SIDE, grey=False),
    )
    packed, labels = pictures()
    plan = {"precision": "bf16", "channels_last": True}
    split = Split.of(packed, np.arange(COUNT), labels, "cuda")
    state, run = start(spec, CLASSES, 0, "cuda", plan, train=split), Run(split, split, spec, plan, 0)
    for progress in train(state, run):
        if progress.step == stop_after:
            saved = state.to_bytes()
            state = start(spec, CLASSES, 1, "cuda", plan, train=split)
            state.load_bytes(saved)
            for _ in train(state, run):
                pass
            break
    return weights_sha256(state.network.state_dict())


@pytest.mark.parametrize("name", ["adam", "sgd", "muon"])
def test_steps_in_one_launch_teach_what_single_kernels_do_to_the_bit(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "fovea.job"):
        plain = whole_run(0.0, monkeypatch, name)
        assert whole_run(float("inf"), monkeypatch, name) == plain
        assert whole_run(float("inf"), monkeypatch, name, stop_after=17) == plain
        assert whole_run(float("inf"), monkeypatch, name, stop_after=60) == plain
    assert all("as a CUDA graph" in text for text in caplog.messages), caplog.messages


def test_small_steps_are_graphs(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A step of a hundred small kernels takes several times as long to launch as to run."""
    with caplog.at_level("INFO", "fovea.job"):
        whole_run(0.5, monkeypatch, "adam")
    kernels, graph = (float(word) for word in caplog.messages[0].split() if word[0].isdigit())
    assert graph < 0.5 * kernels


@pytest.mark.skipif(torch.__version__ < (2, 15), reason="torch 2.11 cannot draw numbers after a capture that failed")
def test_steps_that_cannot_be_captured_are_launched_kernel_by_kernel(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = whole_run(0.0, monkeypatch, "adam")

    def waiting(call: Replay, warm: int) -> Replay:
        return captured(lambda: (call(), torch.cuda.synchronize()), warm)  # which cannot be captured

    monkeypatch.setattr("workers.training.launching.captured", waiting)
    assert whole_run(float("inf"), monkeypatch, "adam") == plain
    assert all("no CUDA graphs of training steps" in text for text in caplog.messages), caplog.messages
    assert caplog.messages


def test_the_processor_does_not_run_far_ahead_of_the_card() -> None:
    lead, waiting = Lead(mark), []
    for _ in range(3 * AHEAD):
        torch.cuda._sleep(50_000_000)  # cycles: some hundredths of a second
        event = torch.cuda.Event()
        event.record()
        waiting.append(event)
        lead.keep()
        assert sum(not event.query() for event in waiting) <= AHEAD
    assert not waiting[-1].query()  # it was ahead at all


def test_a_batch_that_is_too_large_for_the_card_is_known_as_such_and_fits_in_parts() -> None:
    prepare("cuda", 2)
    torch.cuda.empty_cache()
    packed = np.zeros((2048, 64, 64, 3), dtype=np.uint8)
    split = Split.of(packed, np.arange(2048), np.arange(2048) % CLASSES, "cuda")
    asked = {"network": "resnet18", "image_size": 64, "batch_size": 2048, "epochs": 6, "augment": None, "ema": None}
    facts = DatasetFacts(2048, CLASSES, 64, grey=False)
    spec = resolve(TrainSpec.model_validate({**asked, "progressive": None}), facts, Room(sys.maxsize))
    plan = {"precision": "fp32", "channels_last": True}

    def steps(plan: dict[str, Any]) -> int | dict[str, Any]:
        """How many are done, or what would help; in a function, as what an error leaves behind holds memory."""
        state = start(spec, CLASSES, 0, "cuda", plan)
        try:
            list(train(state, Run(split, split, spec, plan, 0)))
        except torch.OutOfMemoryError as error:
            return remedy(error, plan, spec, 2048)[0]
        return state.counters.step

    most = torch.cuda.memory_allocated() + 2 * 2**30
    torch.cuda.set_per_process_memory_fraction(most / torch.cuda.get_device_properties(0).total_memory)
    try:
        assert steps(plan) == {"parts": 2}
        assert steps({**plan, "parts": 32}) == 6
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_pictures_that_do_not_fit_on_the_device_are_sent_ahead_and_are_the_same() -> None:
    packed, labels = pictures()
    rows = np.arange(COUNT)
    whole = Split.of(packed, rows, labels, "cuda")
    sent = replace(whole, on_device=None)
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    for one, other in zip(whole.batches(order, 32), sent.batches(order, 32), strict=True):
        assert one.is_cuda
        assert torch.equal(one, other)


def test_a_served_program_answers_as_on_the_processor_with_cuda_graphs_or_without() -> None:
    classifier = export.Classifier(build("resnet18", 64, CLASSES).eval())
    pixels = np.random.default_rng(1).integers(0, 256, (100, 64, 64, 3), dtype=np.uint8)
    whole = export.fitted(classifier, pixels, np.arange(100), np.arange(100) % CLASSES)
    program = export.export_program(whole, 64)
    expected = torch_program.load(program, "cpu", 2).outputs(pixels)
    served = torch_program.load(program, "cuda", 2)
    assert isinstance(served._module, Graphs)  # resnet18's hundred small kernels take longer to launch than to run
    for first, last in ((0, 1), (1, 4), (0, 64), (64, 65), (0, 100)):
        found = served.outputs(pixels[first:last])
        assert np.allclose(found.logits, expected.logits[first:last], atol=1e-3)
        assert certify(expected.logits[first:last], found.logits)["passed"]
        assert found.strangeness is not None
        assert expected.strangeness is not None
        assert np.allclose(found.strangeness, expected.strangeness[first:last], rtol=1e-3)


def test_a_job_and_the_service_on_a_graphics_card_say_the_same(tmp_path: Path) -> None:
    with fovea_in(tmp_path, FOVEA_DEVICE="cuda") as fovea:
        fovea.start()
        fovea.dataset(digits_zip(400), "digits")
        job = fovea.wait(fovea.train("digits", "digits", {"network": "classic", "epochs": 3, "image_size": 32})["id"])
        assert job["status"] == "succeeded", job
        assert job["device"] == "cuda"
        certificate = fovea.http.get("/v1/models/digits/versions/1").json()["certificate"]
        assert (certificate["passed"], certificate["engine"]) == (True, "torch fp32")
        http_equals_evaluation(fovea, digits_zip(400), fovea.http.get("/v1/models/digits/evaluation").json())


def test_compiled_steps_learn_what_eager_ones_learn() -> None:
    prepare("cuda", 2)
    network = build("classic", SIDE, CLASSES).to("cuda")
    plan = precision.choose(network, SIDE, 32, "auto", "cuda")
    found = precision.measure_compiled(network, SIDE, 32, plan, "cuda")
    assert "error" not in found
    packed, labels = pictures()
    asked = {"network": "classic", "epochs": 3, "image_size": SIDE, "batch_size": 32}
    spec = resolve(TrainSpec.model_validate(asked), DatasetFacts(COUNT, CLASSES, SIDE, grey=False))
    split = Split.of(packed, np.arange(COUNT), labels, "cuda")
    state = start(spec, CLASSES, 0, "cuda", {**plan, "compiled": True})
    *_, last = train(state, Run(split, split, spec, plan, 0))
    assert isinstance(last, EpochResult)
    assert last.metrics["val/accuracy"] > 0.9
