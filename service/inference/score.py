"""From logits to probabilities: a temperature fitted on the validation split, then softmax (Guo et al. 2017), or a
sigmoid for each class where a picture may have several labels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def probabilities(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """(N, K) logits -> (N, K) calibrated probabilities, rows summing to one."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    exp = np.exp(scaled)
    result: NDArray[np.float64] = exp / exp.sum(axis=1, keepdims=True)
    return result


def sigmoids(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """(N, K) logits -> (N, K) calibrated probabilities, each of its class alone."""
    result: NDArray[np.float64] = np.exp(-np.logaddexp(0, -logits.astype(np.float64) / temperature))
    return result


def several(card: dict[str, Any]) -> bool:
    """Does this model version give a picture any number of labels?"""
    return card.get("task") == "multi_label"


def chances(logits: NDArray[np.float32], card: dict[str, Any]) -> NDArray[np.float64]:
    """(N, K) logits -> (N, K) calibrated probabilities, as the model version's card says."""
    return (sigmoids if several(card) else probabilities)(logits, card["temperature"])


def labels(row: NDArray[np.float64], card: dict[str, Any]) -> list[str]:
    """The labels that a row of probabilities gives: the first class, or all from their thresholds on."""
    classes: list[str] = card["classes"]
    if not several(card):
        return [classes[int(row.argmax())]]
    return [name for name, chance, limit in zip(classes, row, card["thresholds"], strict=True) if chance >= limit]


def ranked(row: NDArray[np.float64], classes: list[str], top_k: int) -> list[dict[str, Any]]:
    """The `top_k` most probable classes, the first first; equal ones in class order."""
    return all_ranked(row[np.newaxis], classes, top_k)[0]


def all_ranked(chances: NDArray[np.float64], classes: list[str], top_k: int) -> list[list[dict[str, Any]]]:
    """(N, K) probabilities -> each row `ranked`."""
    found = []
    for row in chances.tolist():
        order = sorted(range(len(row)), key=row.__getitem__, reverse=True)[:top_k]  # a call of numpy's costs more
        found.append([{"label": classes[k], "probability": round(row[k], 6)} for k in order])
    return found
