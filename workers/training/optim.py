"""Optimisers and learning rates. A rate is a pure function of the step, so resuming needs no scheduler state."""

import math
from typing import Any

import torch
from torch import nn


def optimizer(network: nn.Module, spec: dict[str, Any]) -> torch.optim.Optimizer:
    """Weight decay is kept off norms and biases, as is common practice (He et al. 2019, "Bag of Tricks")."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": spec["weight_decay"]}, {"params": plain, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if spec["name"] == "sgd":
        momentum = spec["momentum"]
        return torch.optim.SGD(groups, lr=spec["lr"], momentum=momentum, nesterov=momentum > 0, fused=True)
    kind = torch.optim.AdamW if spec["name"] == "adamw" else torch.optim.Adam
    return kind(groups, lr=spec["lr"], fused=True)


def learning_rate(schedule: dict[str, Any], peak: float, step: int, steps: int) -> float:
    """Rate of step 0..steps-1. `one_cycle` rises over 30 % of the steps and falls by cosine (Smith & Topin 2018)."""
    warmup = 0.3 if schedule["name"] == "one_cycle" else schedule["warmup"]
    rising = round(warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    done = (step - rising) / max(steps - rising, 1)
    if schedule["name"] == "constant":
        return peak
    if schedule["name"] == "linear":
        return peak * (1 - done)
    return peak * 0.5 * (1 + math.cos(math.pi * done))
