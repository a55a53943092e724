"""Convolutions of small pictures: without the products with padding, and as matrix products where answers are few.

oneDNN's primitives take up to twenty times as long as a matrix product that says the same (decision 0018).
"""

import torch
import torch.nn.functional as F
from torch import nn

from workers.training import side_by_side

FEW = 2  # places along a side, each of which is worth a product of its own
MOST = 8  # places along a side, which with one tap are one product together
ENOUGH = 2**22  # pictures x channels x filters, from which on that is quicker where there is more than one place

Span = tuple[slice, slice]
"""What a place sees along a side of the input, and with which taps of the kernel."""


class Conv2d(nn.Conv2d):
    """nn.Conv2d, in fewer multiplications or quicker ones.

    Networks that halve the picture five times meet 32 px pictures with 3x3 kernels over a single place: of nine taps
    one sees it. The others are left out, in the forward and the backward pass.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N, I, n, n) -> (N, O, m, m)."""
        spans = self._spans(input)
        if self.training and spans and self._may_multiply(input):
            enough = len(input) * self.in_channels * self.out_channels >= ENOUGH
            if enough and self.kernel_size == (1, 1):
                return self._one_tap(input)
            if len(spans) == 1 or (enough and len(spans) <= FEW):
                return self._products(input, spans)
            if side_by_side.pays(self, input):
                return side_by_side.convolve(self, input)
        if len(spans) == 1 and self.padding[0]:
            return self._one_place(input, *spans[0])
        return super().forward(input)

    def _may_multiply(self, input: torch.Tensor) -> bool:
        """Where that was measured: numbers of a place lie beside each other, and oneDNN would convolve."""
        return self.groups == 1 and input.is_cpu and input.is_contiguous(memory_format=torch.channels_last)

    def _spans(self, input: torch.Tensor) -> list[Span]:
        """One for each place along a side; none where those are many, sides differ, or a place may see nothing."""
        kernel, stride, padding, side = self.kernel_size[0], self.stride[0], self.padding[0], input.shape[2]
        if isinstance(padding, str) or self.padding_mode != "zeros" or self.dilation != (1, 1) or padding >= kernel:
            return []
        alike = all(len({*pair}) == 1 for pair in (input.shape[2:], self.kernel_size, self.stride, self.padding))
        if not alike or (side + 2 * padding - kernel) // stride >= MOST:
            return []
        spans = []
        for first in range(-padding, side + padding - kernel + 1, stride):
            begin, end = max(first, 0), min(first + kernel, side)
            spans.append((slice(begin, end), slice(begin - first, end - first)))
        return spans

    def _one_place(self, input: torch.Tensor, seen: slice, taps: slice) -> torch.Tensor:
        weight = self.weight.permute(0, 2, 3, 1)[:, taps, taps].permute(0, 3, 1, 2)  # lies as the weight
        return F.conv2d(input[:, :, seen, seen], weight, self.bias, groups=self.groups)

    def _one_tap(self, input: torch.Tensor) -> torch.Tensor:
        seen = input.permute(0, 2, 3, 1)[:, :: self.stride[0], :: self.stride[1]]
        return F.linear(seen, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)

    def _products(self, input: torch.Tensor, spans: list[Span]) -> torch.Tensor:
        """Of what each place sees and the taps it sees it with."""
        images, kernels = input.permute(0, 2, 3, 1), self.weight.permute(0, 2, 3, 1)
        if len(spans) > 1:
            kernels = kernels.to(images.dtype)  # once, where autocast would round each window
        places = [
            F.linear(images[:, y, x].flatten(1), _window(kernels, above, beside).flatten(1), self.bias)
            for y, above in spans
            for x, beside in spans
        ]
        return torch.stack(places, 1).view(len(input), len(spans), len(spans), self.out_channels).permute(0, 3, 1, 2)


def _window(kernels: torch.Tensor, rows: slice, columns: slice) -> torch.Tensor:
    """kernels[:, rows, columns], whose gradient is made in one step."""
    size = (len(kernels), rows.stop - rows.start, columns.stop - columns.start, kernels.shape[3])
    _, down, right, _ = kernels.stride()
    return kernels.as_strided(
        size, kernels.stride(), kernels.storage_offset() + rows.start * down + columns.start * right
    )


def lighten(network: nn.Module) -> nn.Module:
    """The same network with its convolutions of this kind; names and weights stay."""
    for module in network.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = Conv2d
    return network
