"""Whole recipes by one word: what stands in for each "auto", with its reason. What the client gave is never changed.

`service.auto` decides whatever a recipe leaves open.
"""

from typing import Any

from service.layers import LayersNetwork, can_be_whitened
from service.presets import PRESETS
from service.spec import Augment, Ema, Initialisation, Schedule, TrainSpec, Whitening

Rows = dict[str, tuple[Any, str]]  # by field: the value, and why

SPEEDRUN_SIDES = (32, 48, 64)  # px

NETWORK: dict[str, Rows] = {
    "textbook": {"network": ("classic", "three convolutions and a dense layer")},
    "speedrun": {"network": ("speedrun", "halves the picture at once, so that a picture costs few operations")},
}
"""Where weights are given, they decide instead."""

TEXTBOOK: Rows = {
    "optimizer.name": ("adam", "converges with its usual rate"),
    "schedule": (Schedule(name="cosine"), "ends with the rate run down"),
    "loss.label_smoothing": (0.0, "plain cross-entropy"),
    "ema": (None, "the weights as they are trained"),
    "initialisation": (None, "torch's own random weights"),
    "progressive": (None, "whole pictures from the start"),
    "optimizer.norm_bias_rate": (1.0, "one rate for all"),
}

SPEEDRUN: Rows = {
    "optimizer.name": ("muon", "needs fewer epochs than adam or sgd"),
    "optimizer.lr": (0.04, "the best of those tried on 28 to 64 px (decision 0010)"),
    "optimizer.norm_bias_rate": (8.0, "biases of normalisation layers are slow to learn otherwise"),
    "schedule": (Schedule(name="linear", warmup=0.2), "a triangle: every epoch either explores or settles"),
    "loss.label_smoothing": (0.1, "keeps the network from being surer than the labels"),
    "ema": (Ema(decay=0.95), "an average over about 20 steps is steadier than the weights themselves"),
    "progressive": (None, "small pictures need no smaller ones"),
}


def filled(spec: TrainSpec, pictures: int, *, mirror: bool) -> tuple[TrainSpec, dict[str, str]]:
    """The spec with the recipe's values where it has "auto", and the reason for each by the name of its field.

    `pictures` are those to train on; `mirror` says whether a picture's mirror image may stand for the same class.
    """
    if spec.recipe is None:
        return spec, {}
    reasons: dict[str, str] = {}
    if spec.initial_weights is None:
        spec = _fill(spec, NETWORK[spec.recipe], reasons, spec.recipe)
    if spec.recipe == "textbook":
        return _fill(spec, TEXTBOOK, reasons, "textbook"), reasons
    for rows in (SPEEDRUN, _pictures(pictures, mirror=mirror)):
        spec = _fill(spec, rows, reasons, "speedrun")
    return _fill(spec, _initialisation(spec), reasons, "speedrun"), reasons


def _fill(spec: TrainSpec, rows: Rows, reasons: dict[str, str], recipe: str) -> TrainSpec:
    for name, (value, reason) in rows.items():
        outer, _, inner = name.partition(".")
        part = getattr(spec, outer)
        if (getattr(part, inner) if inner else part) != "auto":
            continue
        changed = part.model_copy(update={inner: value}) if inner else value
        spec = spec.model_copy(update={outer: changed})
        reasons[name] = f"{recipe}: {reason}"
    return spec


def _pictures(pictures: int, *, mirror: bool) -> Rows:
    augment = Augment(crop=0.03, horizontal_flip="alternating" if mirror else False)
    flips = "photographs, which may be mirrored" if mirror else "mirroring may change what these pictures say"
    epochs = min(max(12_000 // max(pictures, 1), 5), 24)
    return {
        "epochs": (epochs, f"few: {pictures} pictures are learned in {epochs} passes"),
        "augment": (augment, f"little, for few epochs; {flips}"),
        "test_time_augmentation": ("flip" if mirror else None, flips),
    }


def _initialisation(spec: TrainSpec) -> Rows:
    """Whatever of it the network can have."""
    network = PRESETS.get(spec.network) if isinstance(spec.network, str) else spec.network
    if spec.initial_weights is not None:
        return {"initialisation": (None, "its weights are given")}
    if not isinstance(network, LayersNetwork):
        return {"initialisation": (None, "for lists of layers only")}
    side = SPEEDRUN_SIDES[0] if spec.image_size == "auto" else spec.image_size
    whitening = Whitening() if can_be_whitened(network, side) else None
    reason = "uncorrelated inputs, and a signal that reaches every layer from the first step on"
    return {"initialisation": (Initialisation(whitening=whitening, identity=True), reason)}
