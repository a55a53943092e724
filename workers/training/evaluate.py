"""How good a model is, from logits and labels. It knows neither networks nor files."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from service.inference.programs import Outputs, Program, joined
from service.inference.score import probabilities
from workers.training import calibration, trust
from workers.training.trust import Answers, share

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]
BATCH = 256
THRESHOLDS = (*(k / 50 for k in range(50)), 0.99)
MAX_MISTAKES = 1000


def logits_of(program: Callable[[NDArray[np.uint8]], Logits], packed: NDArray[np.uint8], rows: Labels) -> Logits:
    """(N, K) logits of the pictures `packed[rows]`, a batch at a time."""
    batches = [program(packed[rows[start : start + BATCH]]) for start in range(0, len(rows), BATCH)]
    return np.concatenate(batches)


def outputs_of(program: Program, packed: NDArray[np.uint8], rows: Labels, classes: int) -> Outputs:
    """All that the program says about the pictures `packed[rows]`, a batch at a time; empty without pictures."""
    if len(rows) == 0:
        return Outputs(np.zeros((0, classes), np.float32), np.zeros(0, np.float32))
    return joined([program.outputs(packed[rows[start : start + BATCH]]) for start in range(0, len(rows), BATCH)])


@dataclass(frozen=True)
class Judged:
    """What is said of a model, what it takes along to serve, and what each picture is and was told to be."""

    evaluation: dict[str, Any]
    card: dict[str, Any]
    labels: list[str]
    predicted: list[str]


def judge(split: str, test: Answers, held_out: Answers, classes: list[str], images: list[str]) -> Judged:
    """Fits on the held-out split what probabilities need, and judges on `split`; `images` are its pictures' hashes."""
    fitted = temperature(held_out.logits, held_out.labels)
    card: dict[str, Any] = {
        "temperature": fitted,
        "prediction_sets": trust.sets_kept(held_out, fitted),
        "strangeness": trust.strangeness_kept(held_out),
    }
    evaluation = evaluation_of(split, test, card, classes, images)
    predicted = [classes[k] for k in test.logits.argmax(1)]
    return Judged(evaluation, card, [classes[k] for k in test.labels], predicted)


def evaluation_of(
    split: str, found: Answers, card: dict[str, Any], classes: list[str], images: list[str]
) -> dict[str, Any]:
    """How well the answers do by what the card has fitted; a promise that it does not make has null for a report."""
    fitted, sets, strange = (card.get(key) for key in ("temperature", "prediction_sets", "strangeness"))
    assert fitted is not None
    return report(split, found.logits, found.labels, classes, fitted, images) | {
        "prediction_sets": trust.sets_report(sets, found, fitted) if sets else None,
        "out_of_distribution": trust.strangeness_report(strange, found) if strange else None,
    }


def temperature(logits: Logits, labels: Labels) -> float:
    """The divisor of the logits that makes the labels likeliest (Guo et al. 2017); 1 without pictures to fit it on.

    The labels are believed with (n + 1) / (n + 2), as in Platt (1999): a few pictures that were all answered rightly
    prove no certainty, and would otherwise drive every probability to one.
    """
    count, classes = logits.shape
    if count == 0:
        return 1.0
    doubt = 1 / (count + 2)
    belief = np.full(logits.shape, doubt / (classes - 1))
    belief[np.arange(count), labels] = 1 - doubt

    def surprise(log_temperature: float) -> float:
        chances = probabilities(logits, float(np.exp(log_temperature)))
        return float(-(belief * np.log(np.maximum(chances, 1e-300))).sum(axis=1).mean())

    found = minimize_scalar(surprise, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(found.x))


def by_threshold(chances: NDArray[np.float64], right: NDArray[np.bool_], there: int) -> list[dict[str, Any]]:
    """What comes of giving only labels with at least a probability, for each of `THRESHOLDS`.

    (N, C) probabilities of the labels that might be given to each picture, and whether each is right; `there` is how
    many right ones exist. `answered` is the share of pictures with a label; `precision` is null when none has one.
    """
    rows = []
    for threshold in THRESHOLDS:
        given = chances >= threshold
        said, found = int(given.sum()), int((given & right).sum())
        rows.append(
            {
                "threshold": threshold,
                "precision": found / said if said else None,
                "recall": found / max(there, 1),
                "answered": float(given.any(1).mean()) if len(given) else 0.0,
            }
        )
    return rows


def report(
    split: str, logits: Logits, labels: Labels, classes: list[str], fitted_temperature: float, images: list[str]
) -> dict[str, Any]:
    """The evaluation that api.md promises; mistakes come with the surest first."""
    chances = probabilities(logits, fitted_temperature)
    predicted = chances.argmax(1)
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return {
        "split": split,
        "n": len(labels),
        "accuracy": share(predicted == labels),
        "per_class": [_class_row(counts, k, name) for k, name in enumerate(classes)],
        "confusion_matrix": {"labels": classes, "counts": counts.tolist()},
        "calibration": calibration.report(
            _first(probabilities(logits, 1.0)), _first(chances), (predicted == labels)[:, None], fitted_temperature
        ),
        "thresholds": by_threshold(_first(chances), (predicted == labels)[:, None], len(labels)),
        "mistakes": _mistakes(chances, labels, classes, images),
    }


def _first(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, K) -> (N, 1) the probability of the first answer."""
    result: NDArray[np.float64] = chances.max(1, keepdims=True)
    return result


def _class_row(counts: NDArray[np.int64], k: int, name: str) -> dict[str, Any]:
    right, predicted, support = int(counts[k, k]), int(counts[:, k].sum()), int(counts[k].sum())
    precision, recall = right / max(predicted, 1), right / max(support, 1)
    f1 = 2 * right / max(predicted + support, 1)
    return {"label": name, "precision": precision, "recall": recall, "f1": f1, "support": support}


def _mistakes(chances: NDArray[np.float64], labels: Labels, classes: list[str], images: list[str]) -> list[Any]:
    predicted = chances.argmax(1)
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-chances[wrong, predicted[wrong]], kind="stable")][:MAX_MISTAKES]
    return [
        {
            "image": images[row],
            "label": classes[labels[row]],
            "predicted": classes[predicted[row]],
            "probability": float(chances[row, predicted[row]]),
        }
        for row in surest
    ]
