"""Training steps as CUDA graphs: a step is one launch, where launching its hundreds of kernels takes longer.

The first steps of a kind are launched kernel by kernel, the next is captured, and one of each way is timed: what is
slower is not used. Every step counts, and either way computes the same.
https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from service.inference.cuda_graphs import Replay, apart, captured

log = logging.getLogger("fovea.job")

WARM = 3  # steps before the one that is captured, in which libraries choose their ways and optimisers begin
AHEAD = 4  # steps
GAIN = 0.95  # of the time kernel by kernel is what a replay may take at most

Step = Callable[..., torch.Tensor]  # (how, *given)


@dataclass(frozen=True)
class Card:
    """What can be asked of a graphics card."""

    apart: Callable[[Replay], Any]  # calls on the stream that is captured
    capture: Callable[[Replay], Replay]
    wait: Callable[[], None]  # until all is done


def card() -> Card:
    return Card(apart, partial(captured, warm=0), torch.cuda.synchronize)


class Lead:
    """How far the processor may be ahead of the card: what is asked between two steps is to be heeded soon, and each
    step that waits to be launched holds its pictures."""

    def __init__(self, mark: Callable[[], Callable[[], None]]) -> None:
        self._mark = mark  # what waits for all that has been launched by now
        self._waits: deque[Callable[[], None]] = deque()

    def keep(self) -> None:
        """After each step."""
        self._waits.append(self._mark())
        if len(self._waits) > AHEAD:
            self._waits.popleft()()


def mark() -> Callable[[], None]:
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    event.record()
    wait: Callable[[], None] = event.synchronize
    return wait


class Launcher:
    """Calls `step(how, *given)`, which must depend on nothing but `how` and the numbers in `given` and in memory."""

    def __init__(self, step: Step, card: Card) -> None:
        self._step, self._card = step, card
        self._kind: Hashable = None
        self._calls = 0  # of this kind
        self._seconds = 0.0  # of one that was launched kernel by kernel
        self._places: list[torch.Tensor] = []  # that a replay reads
        self._replay: Replay | None = None

    def __call__(self, how: Hashable, *given: torch.Tensor) -> torch.Tensor:
        """What the step returns, which holds until the next call."""
        self._know((how, [tensor.shape for tensor in given]))
        self._calls += 1
        if self._calls == WARM + 1:
            self._try(how, given)
        if self._calls not in (WARM, WARM + 2) or (self._calls > WARM and self._replay is None):
            return self._launch(how, given)
        self._card.wait()
        began = time.perf_counter()
        found = self._launch(how, given)
        self._card.wait()
        self._weigh(time.perf_counter() - began)
        return found

    def _know(self, kind: Hashable) -> None:
        if kind == self._kind:
            return
        if self._replay is not None:
            self._card.wait()
        self._kind, self._calls, self._replay, self._places = kind, 0, None, []

    def _launch(self, how: Hashable, given: tuple[torch.Tensor, ...]) -> torch.Tensor:
        if self._replay is None:
            found: torch.Tensor = self._card.apart(partial(self._step, how, *given))
            return found
        for place, tensor in zip(self._places, given, strict=True):
            place.copy_(tensor)
        replayed: torch.Tensor = self._replay()
        return replayed

    def _try(self, how: Hashable, given: tuple[torch.Tensor, ...]) -> None:
        self._places = [tensor.clone() for tensor in given]
        try:
            self._replay = self._card.capture(partial(self._step, how, *self._places))
        except RuntimeError as error:  # an operator that cannot be captured, or too little memory
            self._places = []
            log.warning("no CUDA graphs of training steps: %s", str(error).splitlines()[0])

    def _weigh(self, seconds: float) -> None:
        if self._replay is None:
            self._seconds = seconds
            return
        log.info("a step takes %.2f ms, as a CUDA graph %.2f", self._seconds * 1e3, seconds * 1e3)
        if seconds > GAIN * self._seconds:
            self._replay, self._places = None, []
