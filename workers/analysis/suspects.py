"""From answers and groups of alike pictures to one ranked list of suspects with their reasons.

First what needs no classifier: alike pictures with different labels. Then improbable labels, the least self-confidence
first. Last the pictures that are unlike all others, whatever their label. It knows no tables.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.datasets.duplicates import Group
from service.labels import joined, separate
from workers.analysis.confident import doubtful
from workers.analysis.crossfit import Answers

FAR = 5.0  # robust deviations of the logarithm of the distance
MOST_ALIKE = 5  # pictures named beside a suspect
ORDER = ("duplicates_disagree", "improbable_label", "unusual_picture")

Array = NDArray[Any]


@dataclass(frozen=True)
class Labelled:
    """What a dataset version says of its pictures, by row."""

    images: Sequence[str]
    labels: Sequence[str]  # as items have them, several joined
    classes: Sequence[str]
    marks: Array  # (N, K) zeros and ones
    several: bool


@dataclass(frozen=True)
class Suspect:
    row: int
    reason: str  # of ORDER
    message: str
    suggested: str | None  # the whole label, several joined
    self_confidence: float | None  # probability of the given label; of several, the least of one being right
    suggested_probability: float | None = None
    alike: tuple[str, ...] = ()  # SHA-256 of pictures that look the same


def find(given: Labelled, answers: Answers, groups: Sequence[Group]) -> list[Suspect]:
    """Each picture once, by its first reason; the likeliest to be wrong first."""
    confidence = _confidence(given, answers.probabilities)
    labels = _of_several(given, answers.probabilities) if given.several else _of_one(given, answers.probabilities)
    doubted = [*_disagreeing(given, groups, confidence), *labels]
    doubted.sort(key=lambda one: (ORDER.index(one.reason), one.self_confidence or 0.0, one.row))
    first: dict[int, Suspect] = {}
    for one in [*doubted, *_unusual(answers.strangeness, confidence)]:
        first.setdefault(one.row, one)
    return list(first.values())


def _confidence(given: Labelled, probabilities: Array) -> Array:
    """(N,) the probability of what is given; NaN where nothing was learned of it."""
    right = np.where(given.marks > 0, probabilities, 1 - probabilities if given.several else np.inf)
    known = np.where(np.isnan(right) & (given.several | (given.marks == 0)), np.inf, right)
    least: Array = known.min(1)
    return np.where(np.isinf(least), np.nan, least)


def _of_one(given: Labelled, probabilities: Array) -> list[Suspect]:
    number = given.marks.argmax(1)
    own = probabilities[np.arange(len(number)), number]
    judged = np.flatnonzero(np.isfinite(own))
    known = np.nan_to_num(probabilities[judged], nan=0.0)
    rows = judged[doubtful(known, number[judged])]
    best = np.nan_to_num(probabilities[rows], nan=-1.0).argmax(1)
    return [
        _improbable(
            int(row),
            f"a classifier that has not seen it says {given.classes[k]!r} ({probabilities[row, k]:.0%}), "
            f"and {given.labels[row]!r} with {own[row]:.1%}",
            given.classes[k],
            float(own[row]),
            float(probabilities[row, k]),
        )
        for row, k in zip(rows, best, strict=True)
    ]


def _of_several(given: Labelled, probabilities: Array) -> list[Suspect]:
    """Each label is a question of its own; a picture is as doubtful as its most doubtful label."""
    flips: dict[int, list[int]] = {}
    for k in range(len(given.classes)):
        judged = np.flatnonzero(np.isfinite(probabilities[:, k]))
        if not len(judged):
            continue
        both = np.stack([1 - probabilities[judged, k], probabilities[judged, k]], 1)
        for row in judged[doubtful(both, given.marks[judged, k].astype(int))]:
            flips.setdefault(int(row), []).append(k)
    return [_flipped(given, probabilities, row, ks) for row, ks in flips.items()]


def _flipped(given: Labelled, probabilities: Array, row: int, flips: Sequence[int]) -> Suspect:
    right = {k: probabilities[row, k] if given.marks[row, k] else 1 - probabilities[row, k] for k in flips}
    worst = min(right, key=right.__getitem__)
    names = set(separate(given.labels[row], several=True)) ^ {given.classes[k] for k in flips}
    says = f"{given.classes[worst]!r} with {probabilities[row, worst]:.0%}"
    has = "it has that label" if given.marks[row, worst] else "it lacks that label"
    message = f"a classifier that has not seen it says {says}, and {has}"
    return _improbable(row, message, joined(names), float(right[worst]), float(1 - right[worst]))


def _improbable(row: int, message: str, suggested: str, confidence: float, probability: float) -> Suspect:
    return Suspect(row, "improbable_label", message, suggested, confidence, probability)


def _disagreeing(given: Labelled, groups: Sequence[Group], confidence: Array) -> list[Suspect]:
    """In a group of alike pictures, those that are not labelled as the most are (a tie: as is the most probable)."""
    found = []
    for group in groups:
        labels = {row: given.labels[row] for row in group.rows}
        counts = Counter(labels.values())
        trust = {label: _mean([confidence[row] for row in labels if labels[row] == label]) for label in counts}
        winner = max(sorted(counts), key=lambda label: (counts[label], trust[label]))
        alike = tuple(dict.fromkeys(given.images[row] for row in labels if labels[row] == winner))[:MOST_ALIKE]
        same = "the same picture" if group.kind == "exact" else "a picture that looks the same"
        found += [
            Suspect(row, ORDER[0], f"{same} is labelled {winner!r}", winner, _number(confidence[row]), None, alike)
            for row, label in labels.items()
            if label != winner
        ]
    return found


def _unusual(strangeness: Array, confidence: Array) -> list[Suspect]:
    """The pictures far beyond the others by a robust deviation, which they cannot widen; the strangest first."""
    logs = np.log(np.maximum(strangeness, 1e-12))
    middle = np.median(logs)
    spread = 1.4826 * np.median(np.abs(logs - middle))
    rows = np.flatnonzero(logs > middle + FAR * max(spread, 1e-6))
    rows = rows[np.argsort(-logs[rows], kind="stable")]
    message = "it looks like none of the other pictures"
    return [Suspect(int(row), "unusual_picture", message, None, _number(confidence[row])) for row in rows]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else 0.0


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
