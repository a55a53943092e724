"""Convolutions of few places on processors with AMX: of pictures that lie side by side.

oneDNN's tiles hold 32 numbers of bf16. It takes the gradient of the weights, a sum over places, row by row, and a row
of four places fills an eighth of a tile; and for so few places it fetches the filters again and again. Pictures beside
each other, with room between them so that none sees the next, make long rows: the same sums, in most shapes to the
bit, in a third of the time (decision 0018).
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import nn

MOST = 16  # pictures beside each other
FEWEST = 4
ENOUGH = 2**19  # pictures x channels x filters: below it laying takes longer than it saves


def pays(layer: nn.Conv2d, input: torch.Tensor) -> bool:
    """Where that was measured. The caller knows that the answer has few places and that height and width are alike."""
    kernel, padding = layer.kernel_size[0], layer.padding[0]
    enough = len(input) * layer.in_channels * layer.out_channels >= ENOUGH and _beside(input) >= FEWEST
    return enough and padding == (kernel - 1) / 2 > 0 and _precision(input) is torch.bfloat16 and has_amx()


def convolve(layer: nn.Conv2d, input: torch.Tensor) -> torch.Tensor:
    """(N, I, n, n) -> (N, O, m, m), channels_last, as the layer itself would."""
    beside, stride, padding, side = _beside(input), layer.stride[0], int(layer.padding[0]), input.shape[2]
    places = -(-(side + padding) // stride)  # of a picture with the room behind it
    rows = F.conv2d(_laid(input, beside, places * stride), layer.weight, layer.bias, stride, padding)
    return _taken_up(rows, beside, (side - 1) // stride + 1)


@functools.cache
def has_amx() -> bool:
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def _laid(images: torch.Tensor, beside: int, width: int) -> torch.Tensor:
    """(N, C, n, n) -> (N / beside, C, n, beside x width); what is beyond n is zero."""
    channels, side = images.shape[1:3]
    roomy = F.pad(images.permute(0, 2, 3, 1), (0, 0, 0, width - side))
    return roomy.view(-1, beside, side, width, channels).transpose(1, 2).flatten(2, 3).permute(0, 3, 1, 2)


def _taken_up(rows: torch.Tensor, beside: int, side: int) -> torch.Tensor:
    """(N / beside, C, m, beside x width) -> (N, C, m, m), of each width the first m = `side`."""
    channels = rows.shape[1]
    pictures = rows.permute(0, 2, 3, 1).view(len(rows), side, beside, -1, channels)[:, :, :, :side]
    return pictures.transpose(1, 2).flatten(0, 1).permute(0, 3, 1, 2)


def _beside(input: torch.Tensor) -> int:
    return math.gcd(len(input), MOST)


def _precision(input: torch.Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
