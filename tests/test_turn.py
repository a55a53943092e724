"""Quick networks are scored on the event loop: what one turn of it brought, together, while nothing else runs."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from service.inference.choice import QUICK_MS, is_quick
from service.inference.engine import Engine, Pixels, Scored
from service.inference.programs import Backend, Stored
from service.inference.turn import Turn
from service.settings import Settings
from workers.training import export
from workers.training.networks import build

PICTURES = np.random.default_rng(0).integers(0, 256, (6, 1, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def program() -> bytes:
    torch.manual_seed(0)
    return export.export_program(export.Classifier(build("classic", 16, 3).eval()), 16)


@pytest.fixture
def engine(program: bytes, tmp_path: Path) -> Iterator[Engine]:
    """With `quick` and `slow` loaded, which are the same network."""
    made = Engine(Settings(data=tmp_path, device="cpu", inference_threads=1))
    for name in ("quick", "slow"):
        stored = Stored(program, quick=name == "quick")
        made.submit(name, lambda stored=stored: stored, PICTURES[0]).result(60)  # type: ignore[misc]
    yield made
    made.close()


def test_the_certificate_says_which_networks_are_quick() -> None:
    rows = [{"engine": "openvino bf16", "ms": {"1": QUICK_MS / 2}}, {"engine": "torch fp32", "ms": {"1": QUICK_MS * 2}}]
    card = {"certificate": {"candidates": [*rows, {"engine": "onnxruntime fp32", "ms": {}}]}}
    assert is_quick(card, Backend("openvino", "bf16"))
    assert not is_quick(card, Backend("torch"))
    assert not is_quick(card, Backend("onnxruntime"))  # it failed, and was not timed
    assert not is_quick({}, Backend("torch"))


def test_requests_of_one_turn_are_one_batch_with_their_own_rows(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    at_once = engine.at_once

    def counted(version_id: str, parts: list[Pixels]) -> list[Scored] | None:
        batches.append(len(parts))
        return at_once(version_id, parts)

    monkeypatch.setattr(engine, "at_once", counted)
    turn = Turn(engine)

    async def ask() -> list[Scored | None]:
        gone = asyncio.ensure_future(turn.score("quick", PICTURES[0]))
        asking = [asyncio.ensure_future(turn.score("quick", pixels)) for pixels in PICTURES]
        await asyncio.sleep(0)  # all have asked
        gone.cancel()
        return await asyncio.gather(*asking)

    found = asyncio.run(ask())
    assert batches == [len(PICTURES)], "one batch, without the one that is gone"
    for pixels, scored in zip(PICTURES, found, strict=True):
        assert scored is not None
        alone = engine.submit("slow", lambda: Stored(b""), pixels).result(60)
        np.testing.assert_allclose(scored.outputs.logits, alone.outputs.logits, atol=1e-4)


def test_others_are_asked_by_the_queue(engine: Engine) -> None:
    turn = Turn(engine)
    assert asyncio.run(turn.score("slow", PICTURES[0])) is None
    assert asyncio.run(turn.score("unknown", PICTURES[0])) is None


def test_it_keeps_out_of_the_way_of_what_runs(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    program = engine._loaded["slow"].program
    outputs = program.outputs

    def slow(pixels: Pixels) -> object:
        begun.set()
        assert go_on.wait(60)
        return outputs(pixels)

    monkeypatch.setattr(program, "outputs", slow)
    running = engine.submit("slow", lambda: Stored(b""), PICTURES[0])
    assert begun.wait(60)
    assert engine.at_once("quick", [PICTURES[0]]) is None
    queued = engine.submit("quick", lambda: Stored(b""), PICTURES[0])
    assert not queued.done()
    go_on.set()
    assert running.result(60).outputs.logits.shape == queued.result(60).outputs.logits.shape == (1, 3)


def test_its_failure_is_told_to_all_who_asked_and_frees_the_engine(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Pixels) -> object:
        raise RuntimeError("no memory")

    turn = Turn(engine)

    async def ask() -> list[Scored | BaseException | None]:
        asking = [turn.score("quick", pixels) for pixels in PICTURES[:2]]
        return await asyncio.gather(*asking, return_exceptions=True)

    with monkeypatch.context() as patched:
        patched.setattr(engine._loaded["quick"].quick, "outputs", broken)
        assert [str(error) for error in asyncio.run(ask())] == ["no memory"] * 2
    assert all(isinstance(one, Scored) for one in asyncio.run(ask()))
