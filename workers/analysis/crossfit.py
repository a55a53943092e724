"""What every picture's label should be, answered by a classifier that has not seen that picture: K folds.

Linear discriminant analysis (one covariance for all classes, shrunk towards its mean variance): its sums over the
folds are added and taken away, so K classifiers cost as much as one, and a few wrong labels move a class mean little.
Of several labels each is a least-squares answer, which has the same direction. Knows features, no pictures.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax

SHRINK = 0.4
BLOCK = 2048  # rows at once

Array = NDArray[Any]


@dataclass(frozen=True)
class Answers:
    probabilities: NDArray[np.float64]  # (N, K); NaN for a class that the other folds lack
    strangeness: NDArray[np.float64]  # (N,) squared Mahalanobis distance to the nearest class mean of the other folds


def assign(labels: Array, groups: Array, folds: int, seed: int) -> NDArray[np.int64]:
    """(N,) the fold of each row: rows of one group together, the classes spread evenly. `labels` (N,) numbers."""
    leaders, member = np.unique(groups, return_inverse=True)
    chance = np.random.default_rng(seed).permutation(len(leaders))
    order = np.lexsort((chance, labels[leaders]))
    fold = np.empty(len(leaders), np.int64)
    fold[order] = np.arange(len(leaders)) % folds
    return fold[member]


def answer(features: Array, marks: Array, fold: Array, on_fold: Callable[[int], None], *, several: bool) -> Answers:
    """(N, D) features and (N, K) marks of zeros and ones, exactly one in a row unless `several`."""
    scaled = _Scaled(features)
    folds = int(fold.max()) + 1
    parts = []
    for number in range(folds):
        parts.append(_Sums.of(scaled, marks, np.flatnonzero(fold == number)))
        on_fold(number)
    raw, strange = np.full(marks.shape, np.nan), np.zeros(len(marks))
    for number, own in enumerate(parts):
        rows = np.flatnonzero(fold == number)
        others = _Sums.added([part for part in parts if part is not own])
        solve = _least_squares if several else _discriminant
        for block, (scores, distances) in solve(others, scaled, rows):
            raw[block], strange[block] = scores, distances
        on_fold(folds + number)
    return Answers(_platt(raw, marks) if several else _tempered(raw, marks), strange)


class _Scaled:
    """Features of mean zero and deviation one, a block of rows at a time."""

    def __init__(self, features: Array) -> None:
        self._features = features
        sums, squares = np.zeros(features.shape[1]), np.zeros(features.shape[1])
        for start in range(0, len(features), BLOCK):
            block = features[start : start + BLOCK].astype(np.float64)
            sums, squares = sums + block.sum(0), squares + (block**2).sum(0)
        self._mean = sums / len(features)
        self._scale = 1 / (np.sqrt(np.maximum(squares / len(features) - self._mean**2, 0)) + 1e-3)

    def blocks(self, rows: Array) -> Iterator[tuple[Array, NDArray[np.float32]]]:
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            yield block, ((self._features[block] - self._mean) * self._scale).astype(np.float32)


@dataclass(frozen=True)
class _Sums:
    products: NDArray[np.float32]  # (D, D)
    by_class: NDArray[np.float64]  # (D, K)
    total: NDArray[np.float64]  # (D,)
    counts: NDArray[np.float64]  # (K,)
    rows: int

    @classmethod
    def of(cls, scaled: _Scaled, marks: Array, rows: Array) -> "_Sums":
        parts = [
            cls(x.T @ x, x.T.astype(np.float64) @ marks[block], x.sum(0, dtype=np.float64), marks[block].sum(0), len(x))
            for block, x in scaled.blocks(rows)
        ]
        return cls.added(parts)

    @classmethod
    def added(cls, parts: "list[_Sums]") -> "_Sums":
        return cls(*(sum(getattr(part, name) for part in parts) for name in cls.__dataclass_fields__))


Solved = Iterator[tuple[Array, tuple[Array, Array]]]  # rows, then their (n, K) scores and (n,) distances


def _discriminant(sums: _Sums, scaled: _Scaled, rows: Array) -> Solved:
    seen = np.flatnonzero(sums.counts)
    counts = sums.counts[seen]
    means = sums.by_class[:, seen] / counts  # (D, C)
    inverse = _inverse(sums.products - (means * counts) @ means.T, sums.rows)
    weights = inverse @ means
    own = (means * weights).sum(0)  # (C,) squared lengths of the means
    for block, x in scaled.blocks(rows):
        along = x @ weights
        scores = np.full((len(x), len(sums.counts)), np.nan)
        scores[:, seen] = along - own / 2 + np.log(counts / counts.sum())
        distances = ((x @ inverse) * x).sum(1) + (own - 2 * along).min(1)
        yield block, (scores, distances)


def _least_squares(sums: _Sums, scaled: _Scaled, rows: Array) -> Solved:
    mean, share = sums.total / sums.rows, sums.counts / sums.rows
    inverse = _inverse(sums.products - sums.rows * np.outer(mean, mean), sums.rows)
    weights = inverse @ (sums.by_class / sums.rows - np.outer(mean, share))
    for block, x in scaled.blocks(rows):
        scores = np.where((sums.counts > 0) & (sums.counts < sums.rows), (x - mean) @ weights + share, np.nan)
        yield block, (scores, (((x - mean) @ inverse) * (x - mean)).sum(1))


def _inverse(scatter: Array, rows: int) -> Array:
    covariance = scatter.astype(np.float64) / rows
    size = len(covariance)
    shrunk = (1 - SHRINK) * covariance + SHRINK * max(np.trace(covariance) / size, 1e-9) * np.eye(size)
    return np.linalg.inv(shrunk)


def _tempered(scores: Array, marks: Array) -> Array:
    """Softmax at the temperature under which the given labels are the most probable (Guo et al. 2017)."""
    known = np.where(np.isnan(scores), -np.inf, scores)
    given = marks.argmax(1)
    judged = np.isfinite(known[np.arange(len(known)), given])
    rows, labels = known[judged], given[judged]

    def loss(log_rate: float) -> float:
        return -float(log_softmax(rows * np.exp(log_rate), axis=1)[np.arange(len(rows)), labels].mean())

    rate = np.exp(minimize_scalar(loss, bounds=(-8, 2), method="bounded").x)
    return np.where(np.isnan(scores), np.nan, np.exp(log_softmax(known * rate, axis=1)))


def _platt(scores: Array, marks: Array) -> Array:
    """Of each label a logistic curve through its scores (Platt 1999)."""
    from sklearn.linear_model import LogisticRegression  # a second, and only for several labels

    found = np.full(scores.shape, np.nan)
    for k in range(scores.shape[1]):
        judged = np.isfinite(scores[:, k])
        if len(np.unique(marks[judged, k])) < 2:
            continue
        line = scores[judged, k].reshape(-1, 1)
        spread = max(float(line.std()), 1e-9)
        model = LogisticRegression(C=100).fit(line / spread, marks[judged, k])
        found[judged, k] = expit(line[:, 0] / spread * model.coef_[0, 0] + model.intercept_[0])
    return found
