"""Random changes of whole batches, on the device. What happens to picture i in epoch e depends on nothing else."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from workers.training.randomness import derive, generator

MEAN, STD = 0.5, 0.25  # of a picture in 0..1; the exported program applies the same
DRAWS = 12  # uniform numbers per picture and epoch
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def draws(seed: int, epoch: int, count: int, *, alternating: bool = False) -> torch.Tensor:
    """(N, DRAWS) uniform in [0, 1): the luck of every training picture in this epoch.

    With `alternating`, the first number (the mirror's) is drawn once and inverted every other epoch: two epochs in a
    row see both sides of every picture (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds").
    """
    luck = torch.rand(count, DRAWS, generator=generator(seed, "augment", epoch))
    if alternating:
        coin = torch.rand(count, generator=generator(seed, "flip"))
        luck[:, 0] = coin if epoch % 2 == 0 else 1 - coin
    return luck


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
    changed = _colour(normalise(images), luck[:, 4:7], recipe)
    if recipe["rotate"] or recipe["zoom"]:
        changed = _turn(changed, luck[:, 7:9], recipe["rotate"], recipe["zoom"])
    return _erase(changed, luck[:, 9:12], recipe["erase"]) if recipe["erase"] else changed


def blends(recipe: dict[str, Any] | None, seed: int, steps: range, side: int) -> torch.Tensor:
    """(N, 7) float32, for each step how its pictures of `side` pixels are mixed: the share of the own picture inside a
    rectangle, that outside, its rows and columns (first and one past the last), the own share of the whole picture.
    (N, 0) where nothing is mixed.

    mixup blends whole pictures (Zhang et al. 2018), cutmix lays a rectangle of the partner on top (Yun et al. 2019).
    """
    if recipe is None or not (recipe["mixup"] or recipe["cutmix"]):
        return torch.empty(len(steps), 0)
    return torch.tensor([_blend(recipe, np.random.default_rng(derive(seed, "mix", step)), side) for step in steps])


def _blend(recipe: dict[str, Any], luck: np.random.Generator, side: int) -> tuple[float, ...]:
    cut = bool(recipe["cutmix"]) and (not recipe["mixup"] or luck.random() < 0.5)
    alpha = recipe["cutmix"] if cut else recipe["mixup"]
    share = float(luck.beta(alpha, alpha))
    if not cut:
        return share, share, 0, 0, 0, 0, share
    top, bottom, left, right = _rectangle(side, (1 - share) ** 0.5, luck.random(), luck.random())
    return 0, 1, top, bottom, left, right, 1 - (bottom - top) * (right - left) / side**2


def mix(images: torch.Tensor, blend: torch.Tensor) -> torch.Tensor:
    """(B, 3, S, S) float, each mixed with the one before it, by a row of `blends`."""
    if not len(blend):
        return images
    inside, outside, top, bottom, left, right, _ = blend
    line = torch.arange(images.shape[3], device=images.device)
    rows, columns = (line >= top) & (line < bottom), (line >= left) & (line < right)
    return images.roll(1, 0).lerp(images, torch.where(rows[:, None] & columns, inside, outside))


def _rectangle(side: int, share: float, down: float, across: float) -> tuple[int, int, int, int]:
    """Rows and columns of a square of `share` of the side around a random middle, cut at the picture's edge."""
    half, middle = share * side / 2, (down * side, across * side)
    edges = [min(max(round(centre + sign * half), 0), side) for centre in middle for sign in (-1, 1)]
    return edges[0], edges[1], edges[2], edges[3]


def _turn(images: torch.Tensor, luck: torch.Tensor, degrees: float, zoom: float) -> torch.Tensor:
    """Each picture turned and scaled around its middle, bilinear; the edge is repeated where nothing was."""
    angle = (luck[:, 0] * 2 - 1) * math.radians(degrees)
    scale = 1 + (luck[:, 1] * 2 - 1) * zoom
    sine, cosine, nothing = angle.sin() * scale, angle.cos() * scale, torch.zeros_like(angle)
    rows = torch.stack((cosine, -sine, nothing, sine, cosine, nothing), dim=1).view(-1, 2, 3)
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _erase(images: torch.Tensor, luck: torch.Tensor, share: float) -> torch.Tensor:
    """A grey square of up to `share` of the area on each picture (Zhong et al. 2020, "Random Erasing")."""
    side = images.shape[3]
    half = (luck[:, 0] * share).sqrt() * side / 2
    line = torch.arange(side, device=images.device) + 0.5
    near = [(line - luck[:, k : k + 1] * side).abs() < half[:, None] for k in (1, 2)]  # (B, S) rows, columns
    return images.masked_fill((near[0][:, :, None] & near[1][:, None, :])[:, None], 0.0)


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
        red, green, blue = torch.split(images, 1, 1)
        grey = (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).expand_as(images)
        images = torch.lerp(grey, images, 1 + _column(signed[:, 2]) * recipe["saturation"])
    return images


def _column(values: torch.Tensor) -> torch.Tensor:
    return values.view(-1, 1, 1, 1)
