"""Statements with a guarantee, from held-out pictures (split conformal prediction, Vovk et al. 2005). numpy only.

What is kept of the held-out scores answers two questions: which classes to name so that the right one is among them as
often as asked, and how often a picture of the training's kind would look this strange. Both hold on average over
pictures drawn as the held-out ones were; they promise nothing about pictures of another kind.
"""

from bisect import bisect_right
from operator import neg
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Kept = dict[str, Any]
MOST_KEPT = 1000


def keep(scores: Floats, most: int = MOST_KEPT) -> Kept:
    """(n,) scores -> what a card stores: n, and every `step`-th of them from the largest down.

    With more than `most` scores some are left out; `threshold` and `p_values` then err to the safe side.
    """
    count = len(scores)
    step = max(-(-count // most), 1)
    descending = np.sort(np.asarray(scores, dtype=np.float64))[::-1][::step]
    return {"n": count, "step": step, "descending": [float(value) for value in descending]}


def threshold(kept: Kept, coverage: float) -> float:
    """The score that is not exceeded with this probability: the ceil((n + 1) coverage)-th smallest; infinite when n is
    too small to say so."""
    place = rank(kept, coverage)
    if place > kept["n"]:
        return float("inf")
    return float(kept["descending"][(kept["n"] - place) // kept["step"]])


def rank(kept: Kept, coverage: float) -> int:
    """Which of the held-out scores, from the smallest on, is not exceeded with this probability."""
    return int(np.ceil((kept["n"] + 1) * coverage))


def p_values(kept: Kept, scores: Floats) -> Floats:
    """(N,) scores -> (N,) chances that a picture like the held-out ones has a score at least as large.

    (1 + number of held-out scores at least as large) / (n + 1): at most alpha with a probability of at most alpha.
    """
    descending = kept["descending"]  # searched as the list that it is: an array of it costs more than the search
    above = np.array([bisect_right(descending, -score, key=neg) for score in scores.tolist()], dtype=np.int64)
    result: Floats = (1 + np.minimum(above * kept["step"], kept["n"])) / (kept["n"] + 1)
    return result


def mass_above(chances: Floats) -> Floats:
    """(N, K) probabilities -> (N, K) the probability ranked before each class: 0 for the first.

    The score of adaptive prediction sets (Romano, Sesia and Candès 2020), without their random part: the class's own
    probability is left out, so that a set is never empty and every answer can be repeated.
    """
    order = np.argsort(-chances, axis=1, kind="stable")
    ordered = np.take_along_axis(chances, order, 1)
    above = np.zeros_like(chances)
    np.put_along_axis(above, order, np.cumsum(ordered, axis=1) - ordered, 1)
    return above


def of_labels(chances: Floats, labels: NDArray[np.int64]) -> Floats:
    """(N, K), (N,) -> (N,) the score of each picture's right class, rounded up to 6 decimals.

    The rounding lets a picture reach the same set alone and in a batch, where the last bits may differ.
    """
    scores = mass_above(chances)[np.arange(len(labels)), labels]
    result: Floats = np.ceil(scores * 1e6) / 1e6
    return result


def sets(chances: Floats, limit: float) -> NDArray[np.bool_]:
    """(N, K) probabilities -> (N, K) which classes are named: those with at most `limit` ranked before them."""
    result: NDArray[np.bool_] = mass_above(chances) <= limit
    return result
