"""Can probabilities be believed? How far they lie from what is true, and how sure that is. It knows no network.

Confidence and truth come as (N, Q): Q is 1 for the first answer to each of N pictures, or a question for each class.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15
RESAMPLES = 200

Confidence = NDArray[np.float64]
Truth = NDArray[np.bool_]


def report(before: Confidence, after: Confidence, right: Truth, temperature: float) -> dict[str, Any]:
    """The evaluation's part of it: without the temperature, and with it."""
    return {
        "ece_before": error(before, right),
        "ece_before_interval": interval(before, right),
        "ece_after": error(after, right),
        "ece_after_interval": interval(after, right),
        "temperature": temperature,
        "bins": reliability(after.ravel(), right.ravel()),
    }


def error(confidence: Confidence, right: Truth) -> float:
    """Expected calibration error in bins of equal width (Naeini et al. 2015): the mean gap of confidence and truth."""
    return float(np.abs(_gaps(confidence, right).sum(0)).sum() / max(confidence.size, 1))


def interval(confidence: Confidence, right: Truth) -> dict[str, float]:
    """At least about 95 % for the error, by the same draws each time; 0 is in it where chance explains what was found.

    The error of a finite sample lies above the true one, as a resample's lies above the sample's. So the interval
    holds both the quantiles of a bootstrap over pictures and their mirror images (Davison and Hinkley 1997, section
    5.2), and reaches down to 0 unless perfect probabilities would seldom seem so wrong (Bröcker and Smith 2007).
    """
    found = error(confidence, right)
    if len(confidence) == 0:
        return {"low": 0.0, "high": 1.0}
    random = np.random.default_rng(0)
    perfect = [error(confidence, random.random(confidence.shape) < confidence) for _ in range(RESAMPLES)]
    least, most = np.quantile(_resampled(confidence, right, random), (0.025, 0.975)).tolist()
    low = 0.0 if found <= np.quantile(perfect, 0.975) else max(min(least, 2 * found - most), 0.0)
    return {"low": low, "high": min(max(most, 2 * found - least), 1.0)}


def _resampled(confidence: Confidence, right: Truth, random: np.random.Generator) -> list[float]:
    """The error of as many pictures, drawn with replacement."""
    gaps = _gaps(confidence, right)
    count = len(gaps)
    drawn = (np.bincount(random.integers(0, count, count), minlength=count) for _ in range(RESAMPLES))
    return [float(np.abs(times @ gaps).sum() / confidence.size) for times in drawn]


def _gaps(confidence: Confidence, right: Truth) -> NDArray[np.float64]:
    """(N, BINS) of each picture, the sum of confidence less truth in each bin."""
    rows = np.arange(len(confidence))[:, None]
    places = (rows * BINS + _bins(confidence)).ravel()
    weights = (confidence - right).ravel()
    sums: NDArray[np.float64] = np.bincount(places, weights, minlength=len(confidence) * BINS).astype(np.float64)
    return sums.reshape(len(confidence), BINS)


def reliability(confidence: Confidence, right: Truth) -> list[dict[str, Any]]:
    """(M,), (M,) -> the bins one by one, without the empty: a reliability diagram (DeGroot and Fienberg 1983)."""
    bins = _bins(confidence)
    return [
        {
            "from": k / BINS,
            "to": (k + 1) / BINS,
            "n": int((bins == k).sum()),
            "confidence": float(confidence[bins == k].mean()),
            "accuracy": float(right[bins == k].mean()),
        }
        for k in np.unique(bins).tolist()
    ]


def _bins(confidence: Confidence) -> NDArray[np.int64]:
    return np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
