"""CUDA graphs of a program: a batch is one launch, where launching its kernels one by one takes longer than they do.

A graph is bound to its memory and so to one batch size: there is one for each power of two, made when the program is
loaded, and a batch takes the next larger. https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/
"""

import logging
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from threading import Lock
from typing import Any, TypeVar

import torch
from torch import nn

log = logging.getLogger(__name__)

SIZES = (1, 2, 4, 8, 16, 32, 64)
WARM, TIMED = 3, 20  # passes
GAIN = 0.9  # of the time without graphs is what they may take at most

_capturing = Lock()  # there is one stream for it

T = TypeVar("T")
Replay = Callable[[], Any]
Capture = Callable[[Replay], Replay]


class Graphs(nn.Module):
    """(N, 3, S, S) uint8 -> what the module says of them, which holds until the next call. One thread at a time."""

    def __init__(
        self, module: nn.Module, side: int, device: str, capture: Capture, sizes: Sequence[int] = SIZES
    ) -> None:
        super().__init__()
        self._module = module
        self._images = {size: torch.zeros(size, 3, side, side, dtype=torch.uint8, device=device) for size in sizes}
        self._replays = {size: capture(partial(_seen, module, images)) for size, images in self._images.items()}

    def forward(self, images: torch.Tensor) -> Any:
        size = next((size for size in self._images if size >= len(images)), None)
        if size is None:
            return self._module(images)
        self._images[size][: len(images)].copy_(images)  # rows beyond are of an earlier batch, and nobody's
        found = self._replays[size]()
        if not isinstance(found, dict):
            return found[: len(images)]
        return {name: tensor[: len(images)] for name, tensor in found.items()}


@cache
def streams(count: int) -> list[torch.cuda.Stream]:
    """The same each time: for every stream that it meets cuBLAS keeps some 32 MiB for good."""
    return [torch.cuda.Stream() for _ in range(count)]  # type: ignore[no-untyped-call]


def apart(call: Callable[[], T]) -> T:
    """`call` on the stream that is captured, after all that was asked of the current one and before what follows."""
    here, (stream,) = torch.cuda.current_stream(), streams(1)
    stream.wait_stream(here)
    try:
        with torch.cuda.stream(stream):
            return call()
    finally:  # after an error too: what was launched goes on, and its memory is given to others
        here.wait_stream(stream)


def captured(call: Callable[[], T], warm: int = WARM) -> Callable[[], T]:
    """`call` as one launch: what it returns, and what it reads and writes beside that, stays where it is in memory.

    It is called `warm` times before, for what a library prepares at a first call cannot be captured. Raises
    RuntimeError where that goes for all its calls; it can be called as before then.
    """
    graph = torch.cuda.CUDAGraph()
    with _capturing:
        for _ in range(warm):
            apart(call)
        # other threads may go on using the card meanwhile
        with torch.cuda.graph(graph, stream=streams(1)[0], capture_error_mode="thread_local"):
            found = call()

    def replay() -> T:
        graph.replay()
        return found

    return replay


def graphed(module: nn.Module, side: int, device: str) -> nn.Module:
    """The module with CUDA graphs where they say the same and pay, measured at one picture; else as it is."""
    one = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device)
    try:
        graphs = Graphs(module, side, device, captured)
        if not _alike(module, graphs, one):
            log.warning("no CUDA graphs: they answer otherwise")
            return module
        plain, launched = _seconds(module, one), _seconds(graphs, one)
    except RuntimeError as error:  # an operator that cannot be captured, or too little memory
        log.warning("no CUDA graphs: %s", str(error).splitlines()[0])
        return module
    log.info("a pass takes %.3f ms, with CUDA graphs %.3f", plain * 1e3, launched * 1e3)
    return graphs if launched < GAIN * plain else module


def _alike(module: nn.Module, graphs: nn.Module, images: torch.Tensor) -> bool:
    with torch.inference_mode():
        plain, found = module(images), graphs(images)
    named = plain if isinstance(plain, dict) else {"logits": plain}
    others = found if isinstance(found, dict) else {"logits": found}
    return all(torch.allclose(tensor, others[name], atol=1e-5) for name, tensor in named.items())


def _seen(module: nn.Module, images: torch.Tensor) -> Any:
    with torch.inference_mode():
        return module(images)


def _seconds(module: nn.Module, images: torch.Tensor) -> float:
    """Mean over some passes, each waited for, as serving waits for each."""
    with torch.inference_mode():
        started = time.perf_counter()
        for _ in range(TIMED):
            module(images)
            torch.cuda.synchronize()
    return (time.perf_counter() - started) / TIMED
