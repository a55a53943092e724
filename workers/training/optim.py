"""Optimisers and learning rates. A rate is a pure function of the step, so resuming needs no scheduler state."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from workers.training.muon import Muon

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def optimizer(network: nn.Module, spec: dict[str, Any], backbone_rate: float = 1.0) -> torch.optim.Optimizer:
    """The optimiser of what requires gradients, in groups that carry `scale`: what their rate is of the schedule's.

    Weight decay is kept off norms and biases, as is common practice (He et al. 2019, "Bag of Tricks"). The class layer
    learns at the full rate, all before it at `backbone_rate` times that.

    It has the parameters as they lie in memory, for torch's fused steps copy what is not contiguous, there and back.
    Their gradients arrive with every backward pass; it is the network whose gradients are to be cleared.
    """
    groups = list(_groups(network, spec, backbone_rate))
    momentum = spec["momentum"]
    if spec["name"] == "muon":
        return Muon(groups, lr=spec["lr"], momentum=momentum)
    if spec["name"] == "sgd":
        return torch.optim.SGD(groups, lr=spec["lr"], momentum=momentum, nesterov=momentum > 0, fused=True)
    kind = torch.optim.AdamW if spec["name"] == "adamw" else torch.optim.Adam
    on_card = next(network.parameters()).is_cuda  # where its steps are to be captured
    return kind(groups, lr=spec["lr"], fused=True, capturable=on_card)


def _groups(network: nn.Module, spec: dict[str, Any], backbone_rate: float) -> Iterator[dict[str, Any]]:
    head = set(head_of(network).parameters())
    norm_biases = {module.bias for module in network.modules() if isinstance(module, NORMS) and module.bias is not None}
    for in_head, scale in ((True, 1.0), (False, backbone_rate)):
        mine = [p for p in network.parameters() if p.requires_grad and (p in head) == in_head]
        kinds = (
            ([p for p in mine if p.ndim > 1], spec["weight_decay"], scale),
            ([p for p in mine if p.ndim <= 1 and p not in norm_biases], 0.0, scale),
            ([p for p in mine if p in norm_biases], 0.0, scale * spec["norm_bias_rate"]),
        )
        for parameters, decay, rate in kinds:
            if parameters:
                orthogonal = {"orthogonal": not in_head and parameters[0].ndim > 1} if spec["name"] == "muon" else {}
                lying = [_as_it_lies(parameter) for parameter in parameters]
                yield {"params": lying, "weight_decay": decay, "scale": rate, **orthogonal}


def _as_it_lies(parameter: nn.Parameter) -> torch.Tensor:
    """The parameter itself, or for filters in channels_last a contiguous view (O, k, k, I) that gets its gradients."""
    if parameter.is_contiguous():
        return parameter
    view = parameter.detach().permute(0, 2, 3, 1)

    def lend(learned: torch.Tensor) -> None:
        assert learned.grad is not None
        view.grad = learned.grad.permute(0, 2, 3, 1)

    parameter.register_post_accumulate_grad_hook(lend)  # type: ignore[no-untyped-call]
    return view


def head_of(network: nn.Module) -> nn.Module:
    """The layer that gives the classes: the last with weights that is no normalisation."""
    return [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]


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
