"""Confident learning (Northcutt, Jiang and Chuang 2021): how many labels of each class are wrong, and which.

A picture counts as surely of a class when its out-of-sample probability reaches the class's mean one among the pictures
so labelled. The counts of given against sure classes, scaled to the class sizes, estimate how many labels of a class
are wrong; those of the least self-confidence (the probability of the given label) are they ("prune by class").
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-9  # a mean of equal numbers may be above each of them

Array = NDArray[Any]


def joint(probabilities: Array, given: Array) -> NDArray[np.float64]:
    """(K, K) estimated pictures of given label (row) and true label (column); rows sum to the counts of the given."""
    count = probabilities.shape[1]
    present = np.bincount(given, minlength=count)
    thresholds = np.full(count, np.inf)
    for k in np.flatnonzero(present):
        thresholds[k] = probabilities[given == k, k].mean()
    sure = np.where(probabilities >= thresholds - ROUNDING, probabilities, -1.0)
    best, is_sure = sure.argmax(1), sure.max(1) >= 0
    counts = np.zeros((count, count))
    np.add.at(counts, (given[is_sure], best[is_sure]), 1)
    empty = counts.sum(1) == 0  # nothing known of the class: its labels are taken as right
    counts[empty, empty] = 1
    scaled: NDArray[np.float64] = counts / counts.sum(1, keepdims=True) * present[:, None]
    return scaled


def doubtful(probabilities: Array, given: Array) -> NDArray[np.bool_]:
    """(N,) the pictures whose label is probably wrong. `given` (N,) class numbers, `probabilities` (N, K)."""
    estimated = joint(probabilities, given)
    wrong = np.rint(estimated.sum(1) - np.diag(estimated)).astype(int)
    confidence = probabilities[np.arange(len(given)), given]
    flagged = np.zeros(len(given), bool)
    for k, count in enumerate(wrong):
        rows = np.flatnonzero((given == k) & (probabilities.argmax(1) != given))
        flagged[rows[np.argsort(confidence[rows], kind="stable")[:count]]] = True
    return flagged
