"""How unlike the training pictures is a picture? From what the class layer reads, without a second forward pass.

The distance is Mahalanobis' to the nearest class mean under one shared covariance (Lee et al. 2018) of features scaled
to length one (Mueller and Hein 2025). It was chosen by measuring: benchmarks/out_of_distribution.py. Only the RANK
largest directions of the covariance are kept, the others share their mean variance; SHRINK of every variance is the
mean one, so that few pictures are no reason for certainty.
"""

import torch
from torch import nn

RANK = 128
SHRINK = 0.01
MOST_PICTURES = 1000  # to fit on; ten times as many move the AUROC by less than 0.005


def features(inputs: torch.Tensor) -> torch.Tensor:
    """What a class layer reads, (N, D) or (N, D, h, w), as (N, D) of length one each."""
    flat = inputs if inputs.ndim == 2 else inputs.mean((2, 3))
    return nn.functional.normalize(flat.float(), dim=1)


class Strangeness(nn.Module):
    """(N, D) features -> (N,) squared distances, float32; larger is stranger."""

    means: torch.Tensor  # (C, D), of the classes that have pictures
    directions: torch.Tensor  # (D, R), each as long as the root of what its precision lacks to `rest`
    rest: torch.Tensor  # () inverse variance along all other directions

    def __init__(self, means: torch.Tensor, directions: torch.Tensor, variances: torch.Tensor, rest: float) -> None:
        super().__init__()
        lacking = (1 / rest - 1 / variances).clamp(min=0)  # (R,)
        self.register_buffer("means", means.float())
        self.register_buffer("directions", (directions * lacking.sqrt()).float().contiguous())
        self.register_buffer("rest", torch.tensor(1 / rest, dtype=torch.float32))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x, means, directions = features.double(), self.means.double(), self.directions.double()
        whole = _distances(x, means)  # (N, C)
        along = _distances(x @ directions, means @ directions)
        return (whole * self.rest - along).amin(1).float()


def _distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(N, D), (C, D) -> (N, C) squared distances, without an (N, C, D) in between."""
    return a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.T


def fit(features: torch.Tensor, labels: torch.Tensor) -> Strangeness:
    """From (N, D) features and (N,) labels of training pictures."""
    wide = features.double()
    present, owner = torch.unique(labels, return_inverse=True)
    means = torch.stack([wide[owner == k].mean(0) for k in range(len(present))])
    directions, variances, total = _principal(wide - means[owner])
    dimensions = wide.shape[1]
    mean = max(total / dimensions, 1e-12)
    left = dimensions - len(variances)
    others = (total - float(variances.sum())) / left if left else 0.0
    rest = (1 - SHRINK) * max(others, 0.0) + SHRINK * mean
    return Strangeness(means, directions, (1 - SHRINK) * variances + SHRINK * mean, rest)


def _principal(centred: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """(N, D) -> (D, R) orthonormal directions, (R,) variances along them, and the variance along all D together."""
    count, dimensions = centred.shape
    if count < dimensions:  # the same from the smaller of the two products
        values, vectors = torch.linalg.eigh(centred @ centred.T / count)
        values, vectors = values.flip(0)[:RANK], vectors.flip(1)[:, :RANK]
        seen = values > 1e-12
        directions = centred.T @ vectors[:, seen] / (values[seen] * count).sqrt()
        return directions, values[seen], float(centred.square().sum() / count)
    values, vectors = torch.linalg.eigh(centred.T @ centred / count)
    return vectors.flip(1)[:, :RANK], values.flip(0)[:RANK].clamp(min=0), float(values.sum())
