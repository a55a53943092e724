"""What follows a training's last step, by a plain formula: last checkpoint, export, choice of an engine, evaluation.

`history` knows how far from this formula earlier jobs were.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.inference.choice import wanted
from service.settings import Settings
from service.spec import VIEWS

EXPORT_SECONDS = 2.0  # export, certificate and registration, beside the passes over the pictures
PARAMETER_SECONDS = 4e-7  # to export, hash and keep each
ENGINE_SECONDS = 3.5  # to write ONNX, start three engines and time them, beside their passes over the pictures
FORWARD_SHARE = 0.4  # of a training step, for a forward pass of the same batch
FITTED_PICTURES = 1000  # of the training split, to fit strangeness on: ten times as many move the AUROC by under 0.005


@dataclass(frozen=True)
class Ending:
    seconds: float  # beside the passes over pictures
    pictures: float  # forward passes

    def after(self, picture_seconds: float) -> float:
        """Seconds in all, where training takes `picture_seconds` for one picture."""
        return self.seconds + self.pictures * picture_seconds * FORWARD_SHARE

    def times(self, ratio: float) -> "Ending":
        return Ending(ratio * self.seconds, ratio * self.pictures)


def seconds_at_end(settings: Settings, budget: dict[str, float] | None) -> float:
    """Of a job whose network has learned, whatever the network."""
    return EXPORT_SECONDS + (ENGINE_SECONDS if wanted(settings, budget) else 0.0)


def ending(
    spec: dict[str, Any],
    parameters: int,
    splits: Mapping[str, int],
    settings: Settings,
    budget: dict[str, float] | None,
) -> Ending:
    """Of a job with a resolved spec on `splits` (pictures by name of the split), before any history."""
    passes = (2 + len(wanted(settings, budget))) * VIEWS[spec["test_time_augmentation"]]
    pictures = passes * (splits.get("test", 0) + splits.get("val", 0)) + min(splits.get("train", 0), FITTED_PICTURES)
    return Ending(seconds_at_end(settings, budget) + PARAMETER_SECONDS * parameters, pictures)
