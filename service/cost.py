"""What a resolved spec costs: parameters, operations and memory, by arithmetic alone."""

from dataclasses import dataclass
from typing import Any

import psutil

from service.errors import InvalidValue
from service.layers import LayerShape, LayersNetwork, shapes
from service.networks import NETWORKS, work_while_growing
from service.presets import PRESETS
from service.settings import Settings
from service.spec import Initialisation, Progressive, TrainSpec

FLOPS_PER_MULTIPLY_ADD = 6  # of a training step: two forward, four backward
WEIGHTS = 16  # bytes for each parameter: itself, its gradient and two moments
MACHINE_SHARE = 0.8  # of the machine's memory


@dataclass(frozen=True)
class Cost:
    parameters: int
    multiply_adds: int  # of one forward pass of one picture
    memory_bytes: int  # of one training step: weights, gradients, two moments, activations
    weights_bytes: int  # of that, all but the activations


@dataclass(frozen=True)
class Room:
    """How much memory a training may take here. A graphics card has its own for activations: what is too large for it
    goes in parts; but weights, and checkpoints of them, are in the machine's as well."""

    bytes: int
    on_card: bool = False

    @classmethod
    def of(cls, settings: Settings) -> "Room":
        return cls(settings.max_training_memory_bytes or cls.machine().bytes, settings.on_gpu)

    @classmethod
    def machine(cls) -> "Room":
        return cls(int(psutil.virtual_memory().total * MACHINE_SHARE))

    def needs(self, cost: Cost) -> int:
        """Bytes of it."""
        return cost.weights_bytes if self.on_card else cost.memory_bytes


def cost(spec: TrainSpec, classes: int) -> Cost:
    """What a resolved spec costs, by arithmetic alone. Raises InvalidValue where the shapes are impossible."""
    assert isinstance(spec.image_size, int)
    assert isinstance(spec.batch_size, int)
    if isinstance(spec.network, str) and spec.network not in PRESETS:
        return _named_cost(spec.network, spec.image_size, _at_once(spec))
    network = spec.network if isinstance(spec.network, LayersNetwork) else PRESETS[spec.network]
    rows = shapes(network, spec.image_size, classes)
    parameters = sum(row.parameters for row in rows)
    activations = 3 * spec.image_size**2 + sum(2 * row.activations for row in rows)
    return Cost(
        parameters=parameters,
        multiply_adds=sum(row.multiply_adds for row in rows),
        memory_bytes=WEIGHTS * parameters + 4 * 2 * activations * _at_once(spec),
        weights_bytes=WEIGHTS * parameters,
    )


def _at_once(spec: TrainSpec) -> int:
    """Pictures whose activations are in memory together: a batch may be taken in parts."""
    assert isinstance(spec.batch_size, int)
    return -(-spec.batch_size // spec.optimizer.accumulate)


def operations(spec: TrainSpec, classes: int) -> float:
    """Operations for one picture in training, forward and backward: the mean over a run of a resolved spec.

    Pictures that grow cost less at first; whitening filters are never learned, so nothing goes back through them.
    """
    work = float(cost(spec, classes).multiply_adds * FLOPS_PER_MULTIPLY_ADD)
    rows = layer_rows(spec, classes)
    if rows and isinstance(spec.initialisation, Initialisation) and spec.initialisation.whitening:
        work -= rows[0].multiply_adds * (FLOPS_PER_MULTIPLY_ADD - 2)
    if isinstance(spec.progressive, Progressive):
        assert isinstance(spec.image_size, int)
        work *= work_while_growing(spec.progressive.model_dump(), spec.image_size, spec.network)
    return work


def _named_cost(name: str, image_size: int, at_once: int) -> Cost:
    known = NETWORKS[name]
    if image_size < known.smallest:
        raise InvalidValue(
            "impossible_shape",
            f"{name} needs pictures of at least {known.smallest} px, not {image_size}",
            hint=f"set image_size to {known.smallest} or more, or use 'classic'",
            param="/spec/image_size",
        )
    scale = (image_size / 224) ** 2
    # published networks keep about 10 to 25 activations per thousand multiply-adds; 25 errs to the safe side
    activations = 0.025 * known.giga_multiply_adds * 1e9 * scale
    weights = WEIGHTS * known.parameters
    work = int(known.giga_multiply_adds * 1e9 * scale)
    return Cost(known.parameters, work, weights + int(4 * activations * at_once), weights)


def layer_rows(spec: TrainSpec, classes: int) -> list[LayerShape] | None:
    """What each layer of a resolved spec makes of one picture; None for networks known by name only."""
    network = PRESETS.get(spec.network) if isinstance(spec.network, str) else spec.network
    if network is None or spec.image_size == "auto":
        return None
    return shapes(network, spec.image_size, classes)


def layer_table(spec: TrainSpec, classes: int) -> list[dict[str, Any]] | None:
    """The same as JSON."""
    if (rows := layer_rows(spec, classes)) is None:
        return None
    return [
        {"kind": row.kind, "out": list(row.out), "parameters": row.parameters, "multiply_adds": row.multiply_adds}
        for row in rows
    ]
