"""Compiled training steps on GPUs: measured first, and used where they save more seconds than compiling costs.

On CPUs compiled convolutions train slower than eager ones, by a quarter where it was tried, so there it is not done.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

TYPICAL_SETUP = 20.0  # seconds, of a network that was never compiled on this machine
TYPICAL_GAIN = 0.25  # of a step
ROUNDS = 4


def compiled(network: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network as a compiled function of its pictures; its weights stay where they are."""
    made: Callable[[torch.Tensor], torch.Tensor] = torch.compile(network, dynamic=False)
    return made


def may_pay(step_seconds: float, steps: int) -> bool:
    """Is a job of so many eager steps long enough to find out?"""
    return steps * step_seconds * TYPICAL_GAIN > TYPICAL_SETUP


def measure(step: Callable[[], float]) -> dict[str, Any]:
    """{"setup": seconds of the first pass, "step": of the fastest later one}, or {"error"} where it cannot compile."""
    began = time.perf_counter()
    try:
        step()
        setup = time.perf_counter() - began
        return {"setup": setup, "step": min(step() for _ in range(ROUNDS))}
    except Exception as error:  # noqa: BLE001 - a compiler fails in its own ways; an eager step does without one
        return {"error": f"{type(error).__name__}: {str(error)[:200]}"}


def pays(found: dict[str, Any], step_seconds: float, steps: int) -> bool:
    """Do `steps` steps take less time when they are compiled first?"""
    return "step" in found and bool(found["setup"] + steps * found["step"] < steps * step_seconds)
