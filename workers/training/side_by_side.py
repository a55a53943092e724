"""Convolutions on processors with AMX: the gradient of the weights is taken of pictures that lie side by side.

That gradient is a sum over places. oneDNN takes it row by row, in tiles of 32 numbers of bf16, and a row of four places
fills an eighth of them. Pictures beside each other, with room between them so that none sees the next, make long rows:
the same sum in a third of the time where rows are so short (decision 0018).
"""

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

MOST = 16  # pictures beside each other
FEWEST = 4
ENOUGH = 2**19  # pictures x channels x filters: below it laying takes longer than it saves


def pays(layer: nn.Conv2d, input: torch.Tensor) -> bool:
    """Where that was measured. The caller knows that the answer has few places and that height and width are alike."""
    kernel, padding = layer.kernel_size[0], layer.padding[0]
    enough = len(input) * layer.in_channels * layer.out_channels >= ENOUGH and _beside(input) >= FEWEST
    return enough and padding == (kernel - 1) / 2 > 0 and _precision(input) is torch.bfloat16 and has_amx()


def convolve(layer: nn.Conv2d, input: torch.Tensor) -> torch.Tensor:
    """(N, I, n, n) -> (N, O, m, m), as the layer itself would."""
    weight, bias = (None if given is None else given.to(torch.bfloat16) for given in (layer.weight, layer.bias))
    answer: torch.Tensor = _Convolution.apply(input.to(torch.bfloat16), weight, bias, layer.stride[0], layer.padding[0])
    return answer


@functools.cache
def has_amx() -> bool:
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: int, padding: int
    ) -> torch.Tensor:
        ctx.save_for_backward(input, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(input, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        of_input, of_weight, of_bias, *_ = ctx.needs_input_grad
        found = _gradients(ctx, gradient, input, weight, (of_input, False, of_bias))
        if of_weight:
            beside, places = _beside(input), -(-(input.shape[3] + ctx.padding) // ctx.stride)  # with the room between
            rows = _side_by_side(input, beside, places * ctx.stride)
            found[1] = _gradients(ctx, _side_by_side(gradient, beside, places), rows, weight, (False, True, False))[1]
        return (*found, None, None)


def _gradients(
    ctx: Any, gradient: torch.Tensor, input: torch.Tensor, weight: torch.Tensor, wanted: tuple[bool, bool, bool]
) -> list[torch.Tensor | None]:
    """Of the input, the weights and the bias; None for what is not wanted."""
    stride, padding, bias = [ctx.stride] * 2, [ctx.padding] * 2, [len(weight)]
    return list(
        torch.ops.aten.convolution_backward(
            gradient, input, weight, bias, stride, padding, [1, 1], False, [0, 0], 1, wanted
        )
    )


def _side_by_side(images: torch.Tensor, beside: int, width: int) -> torch.Tensor:
    """(N, C, n, n) -> (N / beside, C, n, beside x width), channels_last; what is beyond n is zero."""
    batch, channels, side, _ = images.shape
    rows = images.new_zeros(batch // beside, side, beside, width, channels)
    rows[:, :, :, :side] = images.permute(0, 2, 3, 1).reshape(-1, beside, side, side, channels).transpose(1, 2)
    return rows.flatten(2, 3).permute(0, 3, 1, 2)


def _beside(input: torch.Tensor) -> int:
    return math.gcd(len(input), MOST)


def _precision(input: torch.Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
