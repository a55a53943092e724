"""Precision and memory layout by measurement: a few timed steps of the real network, on a copy, with made-up pictures.

channels_last with bf16 is 2.6 times faster on CPUs with AVX512-BF16, and slower than fp32 on those without.
"""

import copy
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from service.inference.cuda_graphs import captured
from workers.training import compiling

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
WORTH = 0.95  # another way must take less than this share of the plain way's time
ROUNDS = 3
TIMED = 3  # the way in which steps are: what another way measured is not compared
UNSURE = "does not have a deterministic implementation"  # what torch warns of


def choose(network: nn.Module, image_size: int, batch_size: int, wanted: str, device: str) -> dict[str, Any]:
    """{"precision", "channels_last", "seconds", "determinism", "determinism_reason"}.

    The precision is the fastest of those that `wanted` allows. Determinism is "exact", or "best_effort" with the
    operations that torch cannot repeat to the bit on this device.
    """
    seconds: dict[str, float] = {}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for name in _candidates(wanted, device):
            for channels_last in (False, True):
                key = f"{name}{'_channels_last' if channels_last else ''}"
                step = _step(network, image_size, batch_size, name, channels_last, device)
                seconds[key] = min(step() for _ in range(ROUNDS + 1))
    plain = next(iter(seconds))
    best = min(seconds, key=lambda key: seconds[key] / (1 if key == plain else WORTH))
    name, _, layout = best.partition("_")
    unsure = sorted({str(one.message).partition(" ")[0] for one in told if UNSURE in str(one.message)})
    return {
        "precision": name,
        "channels_last": bool(layout),
        "seconds": seconds,
        "determinism": "best_effort" if unsure else "exact",
        "determinism_reason": f"{', '.join(unsure)}: no deterministic implementation on {device}" if unsure else None,
    }


def measure_compiled(
    network: nn.Module, image_size: int, batch_size: int, plan: dict[str, Any], device: str
) -> dict[str, Any]:
    """What `compiling.measure` finds of the way that `choose` chose."""
    return compiling.measure(
        _step(network, image_size, batch_size, plan["precision"], plan["channels_last"], device, compile_it=True)
    )


def fastest(plan: dict[str, Any]) -> float:
    """Seconds of a forward and backward pass, the chosen way."""
    return float(plan["seconds"][plan["precision"] + ("_channels_last" if plan["channels_last"] else "")])


def _candidates(wanted: str, device: str) -> list[str]:
    if wanted != "auto":
        return [wanted]
    if device != "cpu":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)  # older cards imitate it, slowly
        return ["fp32", "bf16"] if has_bf16 else ["fp32", "fp16"]
    has_bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # in software it is many times slower than fp32
    return ["fp32", "bf16"] if has_bf16 else ["fp32"]


def _step(
    network: nn.Module,
    image_size: int,
    batch_size: int,
    name: str,
    channels_last: bool,
    device: str,
    *,
    compile_it: bool = False,
) -> Callable[[], float]:
    """A forward and backward pass that tells its seconds; as a CUDA graph where training takes one."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    trial = copy.deepcopy(network).train().to(memory_format=layout)
    forward = compiling.compiled(trial) if compile_it else trial
    images = torch.full((batch_size, 3, image_size, image_size), 0.1, device=device).to(memory_format=layout)

    def whole() -> None:
        with torch.autocast(device.partition(":")[0], DTYPES.get(name), enabled=name != "fp32"):
            loss = forward(images).float().square().mean()
        loss.backward()

    launched: Callable[[], None] | None = None if device != "cpu" and name != "fp16" else whole

    def step() -> float:
        nonlocal launched
        with torch.random.fork_rng():
            launched = launched or _at_once(whole)
            started = time.perf_counter()
            launched()
            if device != "cpu":
                torch.cuda.synchronize()
            return time.perf_counter() - started

    return step


def _at_once(call: Callable[[], None]) -> Callable[[], None]:
    try:
        return captured(call)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return call
