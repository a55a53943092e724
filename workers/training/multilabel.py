"""How good a model of several labels at once is, and from what probability on each label is given.

The counterpart of `evaluate`: labels are (N, K) zeros and ones, each class a question of its own. A picture counts as
right when all its labels are; average precision judges the order in which a class finds its pictures.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from service.inference.score import sigmoids
from service.labels import joined
from workers.training import calibration, trust
from workers.training.evaluate import MAX_MISTAKES, Judged, by_threshold
from workers.training.trust import Answers, share

Floats = NDArray[np.float64]
Marks = NDArray[Any]  # (N, K) zeros and ones
EVEN = 0.5  # the threshold of a class that has no held-out picture to choose one by


def average_precisions(scores: NDArray[Any], labels: Marks) -> Floats:
    """(N, K) scores and labels -> (K,) average precision of each class; nan for those that no picture has."""
    from sklearn.metrics import average_precision_score  # a second to import, and only for these tasks

    found = np.full(labels.shape[1], np.nan)
    for k in np.flatnonzero(labels.any(0)):
        found[k] = average_precision_score(labels[:, k], scores[:, k])
    return found


def mean_average_precision(scores: NDArray[Any], labels: Marks) -> float:
    """The mean over the classes that have pictures; 0 when none has."""
    found = average_precisions(scores, labels)
    return float(np.nanmean(found)) if np.isfinite(found).any() else 0.0


def temperature(logits: NDArray[np.float32], labels: Marks) -> float:
    """The divisor of the logits that makes all labels likeliest, each by itself; believed as in `evaluate`."""
    if labels.size == 0:
        return 1.0
    doubt = 1 / (len(labels) + 2)
    belief = np.where(labels > EVEN, 1 - doubt, doubt)

    def surprise(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / np.exp(log_temperature)
        return float((np.logaddexp(0, scaled) - belief * scaled).mean())

    found = minimize_scalar(surprise, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(found.x))


def thresholds(chances: Floats, labels: Marks) -> list[float]:
    """(N, K) held-out probabilities -> for each class the one from which on to give it.

    That with the best F1 (Lipton et al. 2014), half-way between the two pictures that it parts; one half for a class
    that no picture has.
    """
    return [_threshold(chances[:, k], labels[:, k] > EVEN) for k in range(labels.shape[1])]


def _threshold(chances: Floats, present: NDArray[np.bool_]) -> float:
    if not present.any():
        return EVEN
    order = np.argsort(-chances, kind="stable")
    found = np.cumsum(present[order])  # right ones among the first n
    f1 = 2 * found / (np.arange(1, len(order) + 1) + present.sum())
    ordered = np.append(chances[order], 0.0)
    parted = ordered[:-1] > ordered[1:]  # equal probabilities cannot be told apart
    last = int(np.argmax(np.where(parted, f1, -1.0)))
    return float((ordered[last] + ordered[last + 1]) / 2)


def judge(split: str, test: Answers, held_out: Answers, classes: list[str], images: list[str]) -> Judged:
    """The evaluation, what serving needs of it, and the answers to compare by."""
    fitted = temperature(held_out.logits, held_out.labels)
    limits = thresholds(sigmoids(held_out.logits, fitted), held_out.labels)
    card = {"temperature": fitted, "thresholds": limits, "strangeness": trust.strangeness_kept(held_out)}
    evaluation = evaluation_of(split, test, card, classes, images)
    truth, given = test.labels > EVEN, sigmoids(test.logits, fitted) >= limits
    return Judged(evaluation, card, *([joined(_named(row, classes)) for row in marks] for marks in (truth, given)))


def evaluation_of(
    split: str, found: Answers, card: dict[str, Any], classes: list[str], images: list[str]
) -> dict[str, Any]:
    """How well the answers do by what the card has fitted, as `evaluate.evaluation_of`."""
    fitted, limits, strange = card["temperature"], card["thresholds"], card.get("strangeness")
    chances, truth = sigmoids(found.logits, fitted), found.labels > EVEN
    given = chances >= limits
    return {
        "split": split,
        "n": len(truth),
        "accuracy": share((given == truth).all(1)),
        "mean_average_precision": mean_average_precision(chances, truth),
        **_averages(given, truth),
        "per_class": _per_class(given, truth, chances, limits, classes),
        "confusion_matrix": None,
        "calibration": calibration.report(sigmoids(found.logits, 1.0), chances, truth, fitted),
        "thresholds": by_threshold(chances, truth, int(truth.sum())),
        "mistakes": _mistakes(given, truth, chances, classes, images),
        "prediction_sets": None,
        "out_of_distribution": trust.strangeness_report(strange, found) if strange else None,
    }


def _counts(given: Marks, truth: Marks) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(K,) labels given rightly, given in all, and there in all."""
    return (given & truth).sum(0), given.sum(0), truth.sum(0)


def _averages(given: Marks, truth: Marks) -> dict[str, float]:
    right, said, there = _counts(given, truth)
    each = 2 * right / np.maximum(said + there, 1)
    return {
        "micro_f1": float(2 * right.sum() / max(said.sum() + there.sum(), 1)),
        "macro_f1": float(each.mean()),
    }


def _per_class(given: Marks, truth: Marks, chances: Floats, limits: list[float], classes: list[str]) -> list[Any]:
    right, said, there = (column.tolist() for column in _counts(given, truth))
    precisions = average_precisions(chances, truth)
    return [
        {
            "label": name,
            "precision": right[k] / max(said[k], 1),
            "recall": right[k] / max(there[k], 1),
            "f1": 2 * right[k] / max(said[k] + there[k], 1),
            "support": there[k],
            "average_precision": float(precisions[k]) if there[k] else None,
            "threshold": limits[k],
        }
        for k, name in enumerate(classes)
    ]


def _mistakes(given: Marks, truth: Marks, chances: Floats, classes: list[str], images: list[str]) -> list[Any]:
    """Pictures with a wrong label, or without a right one; first those with the surest error."""
    sure = np.where(given != truth, np.where(given, chances, 1 - chances), 0.0)
    wrong = np.flatnonzero((given != truth).any(1))
    surest = wrong[np.argsort(-sure[wrong].max(1, initial=0.0), kind="stable")][:MAX_MISTAKES]
    return [
        {
            "image": images[row],
            "label": joined(_named(truth[row], classes)),
            "predicted": joined(_named(given[row], classes)),
            "labels": _named(truth[row], classes),
            "predicted_labels": _named(given[row], classes),
            "probability": float(sure[row].max()),
        }
        for row in surest
    ]


def _named(marks: NDArray[np.bool_], classes: list[str]) -> list[str]:
    return [classes[k] for k in np.flatnonzero(marks)]
