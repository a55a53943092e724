"""Convolutions whose answers have few places: oneDNN's against ours (decision 0018), in turns.

    python -m benchmarks.few_places             # as the processor is
    ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 python -m benchmarks.few_places     # AMX switched off
    MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 python -m benchmarks.few_places    # as older ones are

Milliseconds of a forward and backward pass of one layer, the least of some rounds, in bf16 where the processor has it.
"""

import os
import time
from collections.abc import Callable

import psutil
import torch
from torch import nn

from workers.training import convolution, side_by_side
from workers.training.convolution import Conv2d

ROUNDS, PASSES = 5, 8
LAYERS = {  # kernel, stride, padding, side of the picture
    "3x3, one place": (3, 1, 1, 1),
    "3x3, 2 x 2 to one": (3, 2, 1, 2),
    "3x3, 2 x 2": (3, 1, 1, 2),
    "3x3, 4 x 4 to 2 x 2": (3, 2, 1, 4),
    "3x3, 4 x 4": (3, 1, 1, 4),  # with AMX, pictures side by side
    "3x3, 7 x 7": (3, 1, 1, 7),
    "3x3, 8 x 8": (3, 1, 1, 8),
    "1x1, 4 x 4": (1, 1, 0, 4),
    "1x1, 8 x 8": (1, 1, 0, 8),
    "1x1, 16 x 16": (1, 1, 0, 16),
}


def passes(layer: nn.Conv2d, images: torch.Tensor, dtype: torch.dtype) -> float:
    """Milliseconds of one."""
    began = time.perf_counter()
    for _ in range(PASSES):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            answer = layer(images)
        answer.backward(torch.ones_like(answer))
        images.grad = layer.weight.grad = None
    return (time.perf_counter() - began) / PASSES * 1e3


def compared(channels: int, batch: int, shape: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[float, float]:
    """Of torch's convolution, and of ours wherever it could take products."""
    kernel, stride, padding, side = shape
    kinds: tuple[Callable[..., nn.Conv2d], ...] = (nn.Conv2d, Conv2d)
    last = torch.channels_last
    layers = [kind(channels, channels, kernel, stride, padding, bias=False).to(memory_format=last) for kind in kinds]
    images = torch.randn(batch, channels, side, side, dtype=dtype).to(memory_format=last).requires_grad_()
    seconds = [[passes(layer, images, dtype) for layer in layers] for _ in range(ROUNDS + 1)][1:]
    theirs, ours = (min(column) for column in zip(*seconds, strict=True))
    return theirs, ours


def main() -> None:
    torch.set_num_threads(psutil.cpu_count(logical=False) or 1)
    convolution.ENOUGH, convolution.MOST, side_by_side.ENOUGH = 0, 16, 0
    has_bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported() and os.environ.get("ONEDNN_MAX_CPU_ISA") != "AVX2"
    dtype = torch.bfloat16 if has_bf16 else torch.float32
    print(dtype)
    for batch, channels in ((32, 64), (32, 512), (128, 64), (128, 256), (128, 512)):
        for name, shape in LAYERS.items():
            theirs, ours = compared(channels, batch, shape, dtype)
            print(
                f"{batch} pictures, {channels} channels, {name}: {theirs:.2f} and {ours:.2f} ms, {theirs / ours:.1f} "
                f"times as fast",
                flush=True,
            )


if __name__ == "__main__":
    main()
