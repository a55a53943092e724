"""Muon: momentum, orthogonalised by Newton-Schulz iterations, for filters and weight matrices; AdamW for the rest.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks". Filters count as matrices,
a row for each; in which order the numbers of a row lie makes no difference. torch's own Muon takes matrices only and
leaves the rest to a second optimiser.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from service.inference.cuda_graphs import streams

STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that drives every singular value towards one
ADAM_RATE = 0.05  # of the parameters that are no matrices, as a share of lr
BETAS, EPSILON = (0.9, 0.999), 1e-8
STREAMS = 8  # of a graphics card


class Muon(torch.optim.Optimizer):
    """Parameter groups carry `orthogonal`: True for matrices and filters, False for everything else."""

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, momentum: float) -> None:
        rest = {"weight_decay": 0.0, "orthogonal": False, "fused": True}  # fused: a step restored goes to the device
        super().__init__(groups, {"lr": lr, "momentum": momentum, **rest})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            learning = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["orthogonal"]:
                self._matrices(learning, group)
            else:
                self._adamw(learning, group)

    def _matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        calls = [partial(self._orthogonal, parameter, group) for parameter in parameters]
        if parameters and parameters[0].is_cuda:
            _beside_each_other(calls)
        else:
            for call in calls:
                call()

    def _orthogonal(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(momentum, group["momentum"])  # Nesterov
        matrix = ahead.reshape(len(ahead), -1)
        update = orthogonalise(matrix).view_as(parameter)
        scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update.mul_(group["lr"] * scale))

    def _adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "mean": torch.zeros_like(parameter),
                    "square": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["mean"] for state in states],
            [state["square"] for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"],
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=group["lr"] * ADAM_RATE,
            weight_decay=group["weight_decay"],
            eps=EPSILON,
            maximize=False,
        )


def _beside_each_other(calls: Sequence[Callable[[], None]]) -> None:
    """Calls that need nothing of each other. On a graphics card they share it: one matrix is too small to fill it."""
    here, beside = torch.cuda.current_stream(), streams(STREAMS)
    for stream in beside:
        stream.wait_stream(here)
    try:
        for call, stream in zip(calls, itertools.cycle(beside)):
            with torch.cuda.stream(stream):
                call()
    finally:
        for stream in beside:
            here.wait_stream(stream)


def orthogonalise(matrix: Tensor) -> Tensor:
    """(M, N) -> about the nearest (M, N) matrix with all singular values one (between 0.7 and 1.2)."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    x = _by_gram(x) if torch.get_float32_matmul_precision() == "highest" else _by_products(x)
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


def _by_products(x: Tensor) -> Tensor:
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _by_gram(x: Tensor) -> Tensor:
    """The same by (M, M) matrices, for polynomials of one matrix commute: two products with the long side, not ten.

    Rounding errors of the first product grow by a^2 a step: to nothing in fp32, to everything in TF32.
    """
    gram = x @ x.T
    whole = factor = _factor(gram)
    for _ in range(STEPS - 1):
        gram = factor @ gram @ factor
        factor = _factor(gram)
        whole = factor @ whole
    return whole @ x


def _factor(gram: Tensor) -> Tensor:
    """(M, M) -> a + b gram + c gram gram, by which a matrix of that gram is multiplied."""
    a, b, c = COEFFICIENTS
    factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal().add_(a)
    return factor
