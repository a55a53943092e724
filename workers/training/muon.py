"""Muon: momentum, orthogonalised by Newton-Schulz iterations, for filters and weight matrices; AdamW for the rest.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks". Filters count as matrices,
a row for each; in which order the numbers of a row lie makes no difference. torch's own Muon takes matrices only and
leaves the rest to a second optimiser.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that drives every singular value towards one
ADAM_RATE = 0.05  # of the parameters that are no matrices, as a share of lr
BETAS, EPSILON = (0.9, 0.999), 1e-8


class Muon(torch.optim.Optimizer):
    """Parameter groups carry `orthogonal`: True for matrices and filters, False for everything else."""

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, momentum: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "orthogonal": False})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    (self._orthogonal if group["orthogonal"] else self._adamw)(parameter, parameter.grad, group)

    def _orthogonal(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(momentum, group["momentum"])  # Nesterov
        matrix = ahead.reshape(len(ahead), -1)
        update = orthogonalise(matrix).view_as(parameter)
        scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)

    def _adamw(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, lr = self.state[parameter], group["lr"] * ADAM_RATE
        if not state:
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            state["step"] = torch.zeros(())
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - BETAS[0])
        state["square"].mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        step = float(state["step"])
        root = (state["square"] / (1 - BETAS[1] ** step)).sqrt_().add_(EPSILON)
        parameter.mul_(1 - lr * group["weight_decay"]).addcdiv_(state["mean"], root, value=-lr / (1 - BETAS[0] ** step))


def orthogonalise(matrix: Tensor) -> Tensor:
    """(M, N) -> about the nearest (M, N) matrix with all singular values one (between 0.7 and 1.2)."""
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x if matrix.shape[0] <= matrix.shape[1] else x.T
    return result
