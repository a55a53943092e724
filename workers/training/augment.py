"""Random changes of whole batches, on the device. What happens to picture i in epoch e depends on nothing else."""

from typing import Any

import torch

from workers.training.randomness import generator

MEAN, STD = 0.5, 0.25  # of a picture in 0..1; the exported program applies the same
DRAWS = 7  # uniform numbers per picture and epoch
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def draws(seed: int, epoch: int, count: int) -> torch.Tensor:
    """(N, DRAWS) uniform in [0, 1): the luck of every training picture in this epoch."""
    return torch.rand(count, DRAWS, generator=generator(seed, "augment", epoch))


def normalise(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, S, S) uint8 -> float32, zero mean and unit deviation for a picture of even brightness."""
    return images.float().div_(255 * STD).sub_(MEAN / STD)


def augment(images: torch.Tensor, luck: torch.Tensor, recipe: dict[str, Any] | None) -> torch.Tensor:
    """(B, 3, S, S) uint8 and (B, DRAWS) -> changed and normalised (B, 3, S, S) float32."""
    if recipe is None:
        return normalise(images)
    luck = luck.to(images.device)
    if recipe["horizontal_flip"]:
        images = torch.where(_column(luck[:, 0] < 0.5), images.flip(3), images)
    if recipe["vertical_flip"]:
        images = torch.where(_column(luck[:, 1] < 0.5), images.flip(2), images)
    if recipe["crop"]:
        images = _shift(images, luck[:, 2:4], recipe["crop"])
    return _colour(normalise(images), luck[:, 4:7], recipe)


def _shift(images: torch.Tensor, luck: torch.Tensor, share: float) -> torch.Tensor:
    """Each picture moved by up to `share` of its side; the edge is repeated where nothing was."""
    side = images.shape[3]
    most = max(round(share * side), 1)
    offsets = (luck * (2 * most + 1)).long() - most  # (B, 2), in -most..most
    line = torch.arange(side, device=images.device)
    rows = (line + offsets[:, :1]).clamp_(0, side - 1)  # (B, S)
    columns = (line + offsets[:, 1:]).clamp_(0, side - 1)
    batch = torch.arange(len(images), device=images.device)
    moved = images.permute(0, 2, 3, 1)[batch[:, None, None], rows[:, :, None], columns[:, None, :]]  # (B, S, S, 3)
    return moved.permute(0, 3, 1, 2)


def _colour(images: torch.Tensor, luck: torch.Tensor, recipe: dict[str, Any]) -> torch.Tensor:
    signed = luck * 2 - 1  # (B, 3) in [-1, 1)
    if recipe["brightness"]:
        images = images + _column(signed[:, 0]) * recipe["brightness"] / STD
    if recipe["contrast"]:
        mean = images.mean((1, 2, 3), keepdim=True)
        images = torch.lerp(mean.expand_as(images), images, 1 + _column(signed[:, 1]) * recipe["contrast"])
    if recipe["saturation"]:
        luma = torch.tensor(LUMA, device=images.device).view(3, 1, 1)
        grey = (images * luma).sum(1, keepdim=True).expand_as(images)
        images = torch.lerp(grey, images, 1 + _column(signed[:, 2]) * recipe["saturation"])
    return images


def _column(values: torch.Tensor) -> torch.Tensor:
    return values.view(-1, 1, 1, 1)
