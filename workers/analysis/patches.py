"""Features that no label had a part in: how strongly each place of a picture answers to patches of all pictures.

Patches are normalised, whitened and clustered (Coates and Ng 2011, "The importance of encoding versus triggered feature
learning"); the clusters are filters, both signs of their answers beyond a threshold are averaged over 4 x 4 places. A
network trained on the labels would have learned the wrong ones too; these cannot have. It needs seconds, no weights.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

SIDE, PATCH, FILTERS, POOL = 32, 6, 64, 4
SIZE = 2 * FILTERS * POOL * POOL  # features of a picture
PATCHES, ROUNDS = 20_000, 10  # to learn filters from, and k-means rounds on them
CONTRAST, WHITENING = 10.0, 0.1  # added to variances of grey levels (0..255), and of whitened directions
THRESHOLD = 0.5
BATCH = 64


def features(
    packed: NDArray[np.uint8], seed: int, on_progress: Callable[[int], None] = lambda done: None
) -> NDArray[np.float16]:
    """(N, S, S, 3) pictures -> (N, SIZE). `on_progress(done)` may raise."""
    filters, offsets = _filters(packed, torch.Generator().manual_seed(seed))
    found = np.empty((len(packed), SIZE), np.float16)
    for start in range(0, len(packed), BATCH):
        answers = _answers(_small(packed[start : start + BATCH]), filters, offsets)
        both = torch.cat([answers, -answers], 1).sub_(THRESHOLD).clamp_(min=0)
        found[start : start + BATCH] = F.adaptive_avg_pool2d(both, POOL).flatten(1).numpy()
        on_progress(min(start + BATCH, len(packed)))
    return found


def _small(pictures: Any) -> torch.Tensor:
    """(N, S, S, 3) uint8 -> (N, 3, SIDE, SIDE) float."""
    images = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float()
    if images.shape[-1] == SIDE:
        return images
    return F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)


def _answers(images: torch.Tensor, filters: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """(N, 3, SIDE, SIDE) -> (N, FILTERS, h, w): each patch, normalised, times each filter."""
    raw = F.conv2d(images, filters)
    pixels = filters[0].numel()
    mean = F.avg_pool2d(images, PATCH, 1).mean(1, keepdim=True)
    square = F.avg_pool2d(images.square(), PATCH, 1).mean(1, keepdim=True)
    variance = (square - mean.square()).clamp(min=0) * pixels / (pixels - 1)
    sums = filters.sum((1, 2, 3)).view(1, -1, 1, 1)
    return (raw - mean * sums) / (variance + CONTRAST).sqrt() - offsets.view(1, -1, 1, 1)


def _filters(packed: NDArray[np.uint8], generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """(FILTERS, 3, PATCH, PATCH) with the whitening inside, and what they answer to the mean patch."""
    patches = _patches(packed, generator)
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    whiten = vectors @ torch.diag((values.clamp(min=0) + WHITENING).rsqrt()) @ vectors.T
    centres = _centres((patches - mean) @ whiten, generator)
    filters = centres @ whiten
    return filters.view(FILTERS, 3, PATCH, PATCH), filters @ mean


def _patches(packed: NDArray[np.uint8], generator: torch.Generator) -> torch.Tensor:
    """(PATCHES, 3 x PATCH x PATCH), each of mean zero and, where it shows anything, of deviation one."""
    count = min(len(packed), PATCHES)
    chosen = torch.randperm(len(packed), generator=generator)[:count].sort().values.numpy()
    each = -(-PATCHES // count)
    found = []
    for start in range(0, count, BATCH):
        windows = _small(packed[chosen[start : start + BATCH]]).unfold(2, PATCH, 1).unfold(3, PATCH, 1)
        places = torch.randint(SIDE - PATCH + 1, (2, len(windows), each), generator=generator)
        rows = torch.arange(len(windows)).view(-1, 1)
        found.append(windows[rows, :, places[0], places[1]].flatten(0, 1).flatten(1))
    patches = torch.cat(found)[:PATCHES]
    centred = patches - patches.mean(1, keepdim=True)
    return centred / (centred.var(1, keepdim=True) + CONTRAST).sqrt()


def _centres(points: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(FILTERS, D) of length one: spherical k-means, in which a patch and its negative are the same."""
    centres = F.normalize(torch.randn(FILTERS, points.shape[1], generator=generator), dim=1)
    for _ in range(ROUNDS):
        likeness = points @ centres.T
        best = likeness.abs().argmax(1)
        weights = likeness.gather(1, best.view(-1, 1))
        sums = torch.zeros_like(centres).index_add_(0, best, weights * points)
        centres = F.normalize(sums + 1e-6 * centres, dim=1)
    return centres
