"""How weights begin that nothing else gives: filters that whiten the patches of the training pictures, and
convolutions that pass on what they are given.

Both are functions of the pictures, the spec and the seed alone, so a training that begins again begins alike.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from workers.training.augment import normalise
from workers.training.data import Split
from workers.training.networks import Imagenet
from workers.training.randomness import generator

MOST_PICTURES = 1000  # whose patches are looked at
MOST_NUMBERS = 2**26  # in all those patches; at 32 px that leaves every patch of windows up to 5
AT_ONCE = 2**23  # numbers in memory, in doubles: 64 MiB


def begin(network: nn.Module, wanted: dict[str, Any] | None, train: Split | None, seed: int) -> None:
    """Gives a network built from layers, its weights drawn already, the beginning that the spec asks for.

    Without `train` the first filters are frozen but random: for weights that are about to be replaced, or only timed.
    """
    if wanted is None:
        return
    if wanted["identity"]:
        pass_on(network)
    if wanted["whitening"]:
        first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
        if train is not None:
            before = network.rescaled if isinstance(network, Imagenet) else nn.Identity()
            whiten(first, train, wanted["whitening"]["eps"], seed, before)
        for parameter in first.parameters():
            parameter.requires_grad_(False)


def pass_on(network: nn.Module) -> None:
    """Convolutions of all channels with an odd window become the identity on the channels they have both in and out.

    Those that have more keep their random filters for the rest (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds").
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups == 1 and module.kernel_size[0] % 2 == 1:
            nn.init.dirac_(module.weight.data[: module.in_channels])


@torch.no_grad()
def whiten(
    layer: nn.Conv2d, train: Split, eps: float, seed: int, before: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Filters (O, 3, k, k) become the principal directions of the pictures' patches, each with its negative.

    Each is divided by the deviation along it, so that the answers are uncorrelated and as large in every direction; the
    directions that vary most come first, and a bias takes the mean away (Page 2019, "How to train your ResNet 8";
    Jordan 2024). The variances have `eps` added: what hardly varies is noise. `before` is what the network does to
    normalised pictures before the layer.
    """
    mean, covariance = _patches(layer.kernel_size, train, seed, before)
    variances, directions = torch.linalg.eigh(covariance)  # ascending
    rows = (directions / (variances.clamp_min(0) + eps).sqrt()).T.flip(0)  # (D, D), a direction a row
    filters = torch.stack((rows, -rows), 1).flatten(0, 1)[: layer.out_channels]  # (O, D)
    layer.weight.copy_(filters.view(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.copy_(-(filters @ mean))


def _patches(
    window: tuple[int, ...], train: Split, seed: int, before: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(D,) mean and (D, D) covariance of patches of some training pictures, D = 3 k k; float64 on the CPU."""
    chosen = torch.randperm(len(train), generator=generator(seed, "whitening"))[:MOST_PICTURES]
    side, size = train.packed.shape[1], 3 * window[0] * window[1]
    part, pictures = _portions(len(chosen), side, window[0])
    luck = generator(seed, "parts whitened")
    sums, products, count = torch.zeros(size).double(), torch.zeros(size, size).double(), 0
    for some in torch.split(chosen, pictures):
        images = before(normalise(train.images(some).cpu()))  # (B, 3, S, S), where the network still is
        top, left = torch.randint(side - part + 1, (2,), generator=luck).tolist()
        images = images[:, :, top : top + part, left : left + part]
        patches = F.unfold(images, window).double().cpu()  # (B, D, L)
        sums += patches.sum((0, 2))
        products += (patches @ patches.transpose(1, 2)).sum(0)
        count += patches.shape[0] * patches.shape[2]
    mean = sums / count
    return mean, products / count - mean.outer(mean)


def _portions(count: int, side: int, window: int) -> tuple[int, int]:
    """Side in pixels of the part of a picture whose patches are looked at, and how many pictures to take at once.

    The part is as large as MOST_NUMBERS allows for `count` pictures; what AT_ONCE bounds are the pictures, the patches
    and their products.
    """
    size = 3 * window**2
    places = min(side - window + 1, math.isqrt(MOST_NUMBERS // (size * max(count, 8))))
    return places + window - 1, min(100, AT_ONCE // max(places**2 * size, 3 * side**2, size**2))
