"""From a trained network to a self-contained program: uint8 pixels in, logits out, and proof that it is the same."""

import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from service.inference.score import probabilities
from workers.training.augment import normalise

MAX_BATCH = 1024
TOLERANCE = 1e-4


class Classifier(nn.Module):
    """(N, 3, S, S) uint8 RGB -> (N, K) float32 logits: normalisation is part of the program.

    With `flip` they are the mean over the picture and its mirror image.
    """

    def __init__(self, network: nn.Module, *, flip: bool = False) -> None:
        super().__init__()
        self.network = network
        self.flip = flip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = normalise(images)
        logits: torch.Tensor = self.network(pixels)
        return (logits + self.network(pixels.flip(3))) / 2 if self.flip else logits


def export_program(classifier: Classifier, image_size: int) -> bytes:
    """The program as .pt2 bytes, for batches of 1 to 1024."""
    example = torch.zeros(2, 3, image_size, image_size, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    program = torch.export.export(classifier.eval().cpu(), (example,), dynamic_shapes=({0: batch},))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def certify(trained: NDArray[np.float32], served: NDArray[np.float32]) -> dict[str, Any]:
    """Compares (N, K) logits of the trained network and of the program: every first place, every probability."""
    difference = np.abs(probabilities(trained, 1.0) - probabilities(served, 1.0))
    worst = float(difference.max()) if difference.size else 0.0
    equal = int((trained.argmax(1) == served.argmax(1)).sum())
    passed = equal == len(trained) and worst <= TOLERANCE
    return {
        "engine": "torch.export fp32",
        "n": len(trained),
        "top1_equal": equal,
        "max_probability_difference": worst,
        "tolerance": TOLERANCE,
        "passed": passed,
    }
