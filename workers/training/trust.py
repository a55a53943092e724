"""What a model may promise beyond its first answer: prediction sets and strangeness, fitted on held-out pictures, and
how well both keep their word on the test split."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import betabinom, binomtest, rankdata

from service.inference import conformal
from service.inference.score import probabilities

COVERAGES = (0.8, 0.9, 0.95)
FALSE_ALARMS = (0.01, 0.05, 0.1)
Z = 1.959964  # of a 95 % interval
TINY = 1e-9  # off the ends of a scale, where errors are none


@dataclass(frozen=True)
class Answers:
    """A program's answers on one split, and the truth."""

    logits: NDArray[np.float32]  # (N, K)
    strangeness: NDArray[np.float32]  # (N,)
    labels: NDArray[Any]  # (N,) class numbers, or (N, K) zeros and ones


def sets_kept(held_out: Answers, temperature: float) -> conformal.Kept:
    """What a card keeps for prediction sets. The held-out split also chose epoch and temperature: a few numbers, which
    bends its exchangeability with new pictures a little; the evaluation shows by how much."""
    return conformal.keep(conformal.of_labels(probabilities(held_out.logits, temperature), held_out.labels))


def strangeness_kept(held_out: Answers) -> conformal.Kept:
    """What a card keeps for p-values."""
    return conformal.keep(held_out.strangeness.astype(np.float64))


def sets_report(kept: conformal.Kept, test: Answers, temperature: float) -> list[dict[str, Any]]:
    """Stated against empirical coverage with its 95 % interval (Wilson), and whether the promise was kept: sets cover
    no less than chance explains, as `expected` tells. They cover more where one class alone already does."""
    chances = probabilities(test.logits, temperature)
    return [_sets_row(kept, chances, test.labels, asked) for asked in COVERAGES]


def strangeness_report(kept: conformal.Kept, test: Answers) -> list[dict[str, Any]]:
    """Stated against empirical false alarms, likewise: no more than chance explains."""
    p_values = conformal.p_values(kept, test.strangeness.astype(np.float64))
    return [_alarms_row(kept, p_values, stated) for stated in FALSE_ALARMS]


def _sets_row(
    kept: conformal.Kept, chances: NDArray[np.float64], labels: NDArray[np.int64], asked: float
) -> dict[str, Any]:
    named = conformal.sets(chances, conformal.threshold(kept, asked))
    covered = named[np.arange(len(labels)), labels]
    found, chance = share(covered), expected(len(labels), kept["n"], conformal.rank(kept, asked))
    return {
        "coverage": asked,
        "empirical": found,
        "expected": chance,
        "kept": found["value"] >= chance["low"],
        "mean_size": float(named.sum(1).mean()),
    }


def _alarms_row(kept: conformal.Kept, p_values: NDArray[np.float64], stated: float) -> dict[str, Any]:
    found, chance = share(p_values <= stated), expected(len(p_values), kept["n"], int((kept["n"] + 1) * stated))
    return {
        "false_alarm": stated,
        "empirical": found,
        "expected": chance,
        "kept": found["value"] <= chance["high"],
    }


def expected(new: int, held_out: int, rank: int) -> dict[str, float]:
    """Where the share of `new` scores below the rank-th smallest of `held_out` ones lies in 95 of 100 draws of both.

    Their number is beta-binomial, whatever the scores' distribution (Vovk 2012; Angelopoulos and Bates 2023, section
    3.2). A rank that is 0 or beyond the held-out scores leaves nothing to chance.
    """
    if not 0 < rank <= held_out:
        return {"low": float(rank > 0), "high": float(rank > 0)}
    low, high = betabinom.ppf([0.025, 0.975], new, rank, held_out + 1 - rank) / new
    return {"low": float(low), "high": float(high)}


def share(hits: NDArray[np.bool_]) -> dict[str, float]:
    """The share of (N,) hits with its 95 % interval (Wilson)."""
    interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return {"value": float(hits.mean()), "low": float(interval.low), "high": float(interval.high)}


def auroc(ordinary: NDArray[Any], strange: NDArray[Any]) -> dict[str, float]:
    """(M,) and (N,) strangeness -> the chance that a picture of the second kind looks stranger than one of the first,
    half of the ties counted: the area under the ROC curve, with its 95 % interval.

    The interval holds the areas that the found one does not contradict, by the standard error of Hanley and McNeil
    (1982) at each area itself (Newcombe 2006, method 5): so it stays honest where all pictures were told apart.
    """
    m, n = len(ordinary), len(strange)
    ranks = rankdata(np.r_[ordinary, strange])[m:]
    found = float((ranks.sum() - n * (n + 1) / 2) / (m * n))

    def apart(area: float) -> float:
        """How far beyond what chance explains is `area` from the one found? Negative: not at all."""
        return abs(found - area) - Z * _auroc_error(area, m, n)

    return {
        "value": found,
        "low": float(brentq(apart, 0.0, min(found, 1 - TINY))) if found > 0 else 0.0,
        "high": float(brentq(apart, max(found, TINY), 1.0)) if found < 1 else 1.0,
    }


def _auroc_error(area: float, m: int, n: int) -> float:
    """Standard error of an area from m and n scores, each distributed exponentially and as if both were as many."""
    half = (m + n) / 2 - 1
    variance = area * (1 - area) * (1 + half * (1 - area) / (2 - area) + half * area / (1 + area)) / (m * n)
    return float(np.sqrt(max(variance, 0.0)))
