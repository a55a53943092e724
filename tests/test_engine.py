"""The engine by itself: which models stay loaded, whose turn it is, and what happens when more is asked than fits."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from service.errors import InternalError, Overloaded
from service.inference.engine import Engine
from service.inference.programs import Outputs, Stored
from service.settings import Settings
from workers.training import export
from workers.training.networks import build

PIXELS = np.zeros((1, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def program() -> bytes:
    torch.manual_seed(0)
    return export.export_program(export.Classifier(build("classic", 16, 3).eval()), 16)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = Engine(Settings(data=tmp_path, inference_queue=4, device="cpu", inference_threads=1))
    yield made
    made.close()


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


def test_places_are_bounded_and_free_again(engine: Engine) -> None:
    with engine.places("a", 300):  # nothing is in hand: taken, however many
        with pytest.raises(Overloaded, match="overloaded"), engine.places("a", 1):
            pass
        with engine.places("b", 2), pytest.raises(Overloaded), engine.places("b", 1):
            pass  # another model has its half of the four
    with engine.places("a", 3), engine.places("a", 1), pytest.raises(Overloaded), engine.places("a", 1):
        pass


def test_it_refuses_what_would_wait_too_long(program: bytes, tmp_path: Path) -> None:
    engine = Engine(Settings(data=tmp_path, device="cpu", queue_seconds=1e-9))
    try:
        engine.submit("a", lambda: Stored(program), PIXELS).result(60)
        with engine.places("a", 1), pytest.raises(Overloaded) as refused, engine.places("a", 1):
            pass
        assert refused.value.headers["Retry-After"] == "1"
    finally:
        engine.close()


def test_one_model_is_answered_while_another_is_loaded(engine: Engine, program: bytes) -> None:
    go_on = threading.Event()

    def slow() -> Stored:
        go_on.wait(60)
        return Stored(program)

    waiting = [engine.submit("a", slow, PIXELS) for _ in range(3)]
    waiting[1].cancel()
    assert engine.submit("b", lambda: Stored(program), PIXELS).result(60).outputs.logits.shape == (1, 3)
    assert not waiting[0].done()
    assert engine.submit_if_idle("b", lambda: Stored(program), PIXELS) is None
    go_on.set()
    assert waiting[0].result(60).queue_ms > 0
    assert waiting[2].result(60).outputs.logits.shape == (1, 3)


def test_a_program_that_cannot_be_loaded_fails_those_who_wait_and_is_tried_again(
    engine: Engine, program: bytes
) -> None:
    assert isinstance(engine.submit("a", lambda: Stored(b"no program"), PIXELS).exception(60), Exception)
    assert engine.submit("a", lambda: Stored(program), PIXELS).result(60).outputs.logits.shape == (1, 3)


def test_models_take_turns(engine: Engine, program: bytes) -> None:
    for name in ("a", "b"):
        engine.submit(name, lambda: Stored(program), PIXELS).result(60)
    done: list[str] = []
    many = np.zeros((64, 16, 16, 3), np.uint8)
    flood = [engine.submit("a", lambda: Stored(program), many) for _ in range(20)]
    one = engine.submit("b", lambda: Stored(program), PIXELS)
    for future in flood:
        future.add_done_callback(lambda _: done.append("a"))
    one.add_done_callback(lambda _: done.append("b"))
    for future in (*flood, one):
        future.result(60)
    time.sleep(0.05)
    assert done.index("b") <= 2, "it waited for at most the batch that was running, and one more"


def test_requests_in_one_batch_get_their_own_rows(engine: Engine, program: bytes) -> None:
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    alone = [engine.submit("a", lambda: Stored(program), one[None]).result(60).outputs.logits[0] for one in pictures]
    together = [engine.submit("a", lambda: Stored(program), pictures[start : start + 5]) for start in range(0, 40, 5)]
    rows = np.concatenate([future.result(60).outputs.logits for future in together])
    np.testing.assert_allclose(rows, np.stack(alone), atol=1e-4)


def test_a_model_that_was_warmed_is_loaded_once(engine: Engine, program: bytes) -> None:
    reads: list[int] = []

    def read() -> Stored:
        reads.append(1)
        return Stored(program)

    engine.warm("a", read)
    assert engine.submit("a", read, PIXELS).result(60).outputs.logits.shape == (1, 3)
    assert len(reads) == 1


def test_a_program_that_gives_fewer_rows_than_pictures_is_a_named_error(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Short:
        def outputs(self, pixels: np.ndarray) -> Outputs:
            return Outputs(np.zeros((min(len(pixels), 8), 3), np.float32))

    monkeypatch.setattr("service.inference.engine.load", lambda *_: Short())
    many = np.zeros((30, 16, 16, 3), np.uint8)
    assert engine.submit("a", lambda: Stored(b""), many[:8]).result(60).outputs.logits.shape == (8, 3)
    with pytest.raises(InternalError, match=r"program_rows: .* of 30 pictures"):
        engine.submit("a", lambda: Stored(b""), many).result(60)
    assert engine.submit("a", lambda: Stored(b""), PIXELS).result(60).outputs.logits.shape == (1, 3)
