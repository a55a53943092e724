"""A convolution that does not multiply with padding where that is all a tap of its kernel ever meets."""

import torch
import torch.nn.functional as F
from torch import nn


class Conv2d(nn.Conv2d):
    """nn.Conv2d to the bit of its meaning, with less work where the answer has one place only.

    Networks that halve the picture five times meet 32 px pictures with 3x3 kernels over a single place: of nine taps
    one sees it. The others are left out, in the forward and the backward pass.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N, I, n, n) -> (N, O, m, m)."""
        padding = self.padding[0]
        if not isinstance(padding, int) or padding >= self.kernel_size[0] or not self._has_one_place(input, padding):
            return super().forward(input)
        side, kernel = input.shape[2], self.kernel_size[0]
        end = min(kernel, padding + side)
        seen = self.weight.permute(0, 2, 3, 1)[:, padding:end, padding:end].permute(0, 3, 1, 2)  # lies as the weight
        inside = input[:, :, : end - padding, : end - padding]
        return F.conv2d(inside, seen, self.bias, groups=self.groups)

    def _has_one_place(self, input: torch.Tensor, padding: int) -> bool:
        """Is the answer of one place, and would padding be multiplied for it?"""
        square = input.shape[2] == input.shape[3] and len({*self.kernel_size}) == len({*self.padding}) == 1
        usual = square and self.dilation == (1, 1) and self.padding_mode == "zeros"
        return usual and padding > 0 and (input.shape[2] + 2 * padding - self.kernel_size[0]) // self.stride[0] == 0


def lighten(network: nn.Module) -> nn.Module:
    """The same network with its convolutions of this kind; names and weights stay."""
    for module in network.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = Conv2d
    return network
