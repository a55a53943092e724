"""CUDA graphs of training steps: all but the capture itself, which needs a graphics card (tests/test_gpu.py)."""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from service.inference.cuda_graphs import Replay
from tests.test_training import CLASSES, PLAN, RECIPES, finish, make_run, make_spec
from workers.training.launching import AHEAD, WARM, Card, Launcher, Lead
from workers.training.loop import How, Run, _learn
from workers.training.state import TrainState, start


class Recorder:
    """A card whose graph is the function again, and is told to take `kernels` or `graph` seconds."""

    def __init__(self, kernels: float = 0.02, graph: float = 0.0, error: Exception | None = None) -> None:
        self.done: list[str] = []
        self._seconds, self._error = {"kernels": kernels, "graph": graph}, error
        self.card = Card(lambda call: self._take("kernels", call), self._capture, lambda: None)

    def _capture(self, call: Replay) -> Replay:
        if self._error is not None:
            raise self._error
        self.done.append("capture")
        return lambda: self._take("graph", call)

    def _take(self, way: str, call: Replay) -> Any:
        self.done.append(way)
        time.sleep(self._seconds[way])
        return call()


def sums() -> tuple[Callable[..., torch.Tensor], torch.Tensor]:
    total = torch.zeros(2)

    def add(how: int, numbers: torch.Tensor) -> torch.Tensor:
        total.add_(how * numbers)
        return total.clone()

    return add, total


def test_a_step_is_replayed_with_the_numbers_of_each_call_and_each_counts_once() -> None:
    recorder, (add, total) = Recorder(), sums()
    launcher = Launcher(add, recorder.card)
    for number in range(8):
        found = launcher(2, torch.tensor([number, 1.0]))
        assert torch.equal(found, torch.tensor([number * (number + 1.0), 2.0 * (number + 1)]))
    assert torch.equal(total, torch.tensor([56.0, 16.0]))
    assert recorder.done == ["kernels"] * WARM + ["capture"] + ["graph"] * (8 - WARM)


def test_steps_of_another_kind_are_captured_anew() -> None:
    recorder, (add, total) = Recorder(), sums()
    launcher = Launcher(add, recorder.card)
    for how, size in ((1, 2), (2, 2), (2, 1)):
        for _ in range(WARM + 1):
            launcher(how, torch.ones(size))
    assert recorder.done == (["kernels"] * WARM + ["capture", "graph"]) * 3
    assert torch.equal(total, torch.full((2,), 5.0 * (WARM + 1)))


def test_a_graph_that_is_no_quicker_is_left() -> None:
    recorder, (add, total) = Recorder(kernels=0.0, graph=0.02), sums()
    launcher = Launcher(add, recorder.card)
    for _ in range(8):
        launcher(1, torch.ones(2))
    assert recorder.done == ["kernels"] * WARM + ["capture", "graph", "graph"] + ["kernels"] * (6 - WARM)
    assert torch.equal(total, torch.full((2,), 8.0))


def test_a_step_that_cannot_be_captured_goes_on_kernel_by_kernel(caplog: pytest.LogCaptureFixture) -> None:
    recorder, (add, total) = Recorder(error=torch.OutOfMemoryError("too large\nby far")), sums()
    launcher = Launcher(add, recorder.card)
    with caplog.at_level(logging.WARNING, "fovea.job"):
        for _ in range(8):
            launcher(1, torch.ones(2))
    assert caplog.messages == ["no CUDA graphs of training steps: too large"]
    assert recorder.done == ["kernels"] * 8
    assert torch.equal(total, torch.full((2,), 8.0))


def test_the_processor_is_at_most_four_steps_ahead() -> None:
    waited: list[int] = []
    marks = iter(range(100))
    lead = Lead(lambda: partial(waited.append, next(marks)))
    for step in range(10):
        lead.keep()
        assert waited == list(range(step + 1 - AHEAD))


@pytest.mark.parametrize("name", ["sgd", "adam", "muon"])
def test_a_whole_training_depends_on_nothing_but_what_a_graph_reads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every augmentation, pictures that grow and a rate in memory: the same to the bit."""
    augment = {"mixup": 0.4, "cutmix": 1.0, "rotate": 10.0, "zoom": 0.1, "erase": 0.1, "saturation": 0.2}
    changes = {"augment": augment, "optimizer": {"name": name, "lr": 0.01, "weight_decay": 0.01}, "ema": {"decay": 0.9}}
    spec = make_spec(epochs=6, **{**RECIPES["growing"], **changes})
    calm, told = finish(start(spec, CLASSES, 1, "cpu", PLAN), make_run(spec, side=32))
    recorder, launchers = Recorder(kernels=0.0), []

    def launched(state: TrainState, run: Run, how: How, *given: Any) -> torch.Tensor:
        if not launchers:
            launchers.append(Launcher(partial(_learn, state, run), recorder.card))
        *numbers, rate = given
        found: torch.Tensor = launchers[0](how, *numbers, torch.tensor(rate, dtype=torch.float64))
        return found

    monkeypatch.setattr("workers.training.loop._learn", launched)
    monkeypatch.setattr("workers.training.launching.GAIN", float("inf"))
    assert finish(start(spec, CLASSES, 1, "cpu", PLAN), make_run(spec, side=32)) == (calm, told)
    assert recorder.done.count("capture") > 1  # one a size
    assert recorder.done.count("graph") > 10
