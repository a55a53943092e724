"""What training makes small. Labels say which kind of task it is: (N,) int64 class numbers, or (N, K) float32 of zeros
and ones where a picture may have several labels."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def loss_of(spec: dict[str, Any], labels: torch.Tensor) -> Loss:
    """(B, K) logits and (B,) or (B, K) labels -> () mean loss; from a resolved `loss` and all training labels."""
    name, smoothing = spec["name"], spec["label_smoothing"]
    weights = class_weights(spec["class_weights"], labels)
    if name == "binary_cross_entropy":
        return lambda logits, truth: binary(logits.float(), truth, weights, smoothing)
    if name == "focal":
        return lambda logits, truth: focal(logits.float(), truth, spec["gamma"], weights, smoothing)
    return lambda logits, truth: F.cross_entropy(logits.float(), truth, weights, label_smoothing=smoothing)


def plain(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """() sum of the unweighted loss, as validation counts it: cross-entropy, or the mean binary one of a picture."""
    if labels.ndim == 2:
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1).sum()
    return F.cross_entropy(logits, labels, reduction="sum")


def right(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(B,) bool: is the first class the label, or are all labels told rightly at one half?"""
    if labels.ndim == 2:
        return ((logits > 0) == (labels > 0.5)).all(1)
    return logits.argmax(1) == labels


def binary(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None, smoothing: float) -> torch.Tensor:
    """Mean binary cross-entropy over pictures and classes; `weights` (K,) are those of a label that is there."""
    soft = labels * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, soft, pos_weight=weights)


def focal(
    logits: torch.Tensor, labels: torch.Tensor, gamma: float, weights: torch.Tensor | None, smoothing: float
) -> torch.Tensor:
    """Cross-entropy times (1 - probability of the label) ** gamma (Lin et al. 2017); the mean over the batch."""
    each = F.cross_entropy(logits, labels, weights, reduction="none", label_smoothing=smoothing)
    sure = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    total = len(labels) if weights is None else weights[labels].sum()
    return ((1 - sure) ** gamma * each).sum() / total


def class_weights(wanted: Any, labels: torch.Tensor) -> torch.Tensor | None:
    """(K,) weights. Balanced: by inverse frequency; of several labels, pictures without over pictures with each."""
    if wanted is None:
        return None
    if wanted != "balanced":
        return torch.tensor(wanted, dtype=torch.float32, device=labels.device)
    if labels.ndim == 2:
        present = labels.sum(0).clamp_min(1)
        return (len(labels) - present).clamp_min(1) / present
    counts = torch.bincount(labels).clamp_min(1).float()
    return counts.sum() / (len(counts) * counts)
