"""The engine by itself: which models stay loaded, and what happens when more is asked than fits."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from service.errors import Overloaded
from service.inference.engine import Engine
from service.inference.programs import Stored
from service.settings import Settings
from workers.training import export
from workers.training.networks import build

PIXELS = np.zeros((1, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def program() -> bytes:
    torch.manual_seed(0)
    return export.export_program(export.Classifier(build("classic", 16, 3).eval()), 16)


def test_the_model_longest_unused_is_let_go_and_loaded_again_when_asked(program: bytes, tmp_path: Path) -> None:
    engine = Engine(
        Settings(data=tmp_path, model_memory_bytes=len(program) * 7, device="cpu")
    )  # two fit, at three times
    loaded: list[str] = []

    def ask(name: str) -> None:
        def read() -> Stored:
            loaded.append(name)
            return Stored(program)

        assert engine.submit(name, read, PIXELS).result(60).outputs.logits.shape == (1, 3)

    try:
        for name in ("a", "b", "a", "c", "a", "b"):  # c takes the place of b, for a was used since
            ask(name)
    finally:
        engine.close()
    assert loaded == ["a", "b", "c", "b"]


def test_beyond_its_queue_it_refuses_at_once_and_answers_what_it_took(program: bytes, tmp_path: Path) -> None:
    engine = Engine(Settings(data=tmp_path, inference_queue=2, device="cpu"))
    go_on = threading.Event()

    def read() -> Stored:
        go_on.wait(60)
        return Stored(program)

    try:
        first = engine.submit("a", read, PIXELS)
        while not first.running():
            time.sleep(0.01)
        waiting = [engine.submit("a", read, PIXELS) for _ in range(2)]
        with pytest.raises(Overloaded, match="overloaded"):
            engine.submit("a", read, PIXELS)
        go_on.set()
        assert all(future.result(60).outputs.logits.shape == (1, 3) for future in (first, *waiting))
    finally:
        go_on.set()
        engine.close()
