"""How "auto" becomes values, with the reason for each.

Nothing is allocated here; what cannot be is refused with the field that says so.
"""

from dataclasses import dataclass
from typing import Any

from service.checks import (
    can_grow,
    check_growth,
    check_initialisation,
    check_own_weights,
    check_parts,
    check_schedule,
    check_transfer,
)
from service.cost import Room, cost, operations
from service.errors import InvalidValue
from service.layers import LayersNetwork
from service.networks import NETWORKS
from service.recipes import SPEEDRUN_SIDES, filled
from service.spec import Augment, Ema, Initialisation, Loss, Progressive, Schedule, TrainSpec, Transfer, Whitening

LEAST_EPOCHS = 20  # below these a smaller picture learned oftener is the better choice
RATES = {"adam": 1e-3, "adamw": 1e-3, "sgd": 0.05, "muon": 0.02}
"""Peak learning rates that suit these networks with batches of 16 to 128."""

SIDES = (32, 48, 64, 96, 128)  # px; what "auto" feeds a network that starts at random
PRETRAINED_SIDES = (96, 128, 160, 224)  # px; what filters learned from photographs still recognise
PATIENCE_SECONDS = 600.0  # that a job without a budget should take at most, where "auto" has the choice
SEVERAL_LABELS_LOSS = "binary_cross_entropy"
LARGE = 64  # px from which smaller pictures first save enough to matter
GFLOPS = 40.0  # of two CPU cores, until this machine has trained something
OPTIMIZERS = {
    "adam": "the textbook's choice for this network",
    "adamw": "sure to converge without tuning",
    "muon": "needs fewer epochs for the same accuracy with this network (benchmarks/RESULTS.md)",
}


@dataclass(frozen=True)
class DatasetFacts:
    """What "auto" may look at. Sides in pixels are medians over the pictures."""

    train_count: int
    classes: int
    median_side: int
    grey: bool
    imbalance: float = 1.0  # pictures of the largest class over those of the smallest
    several_labels: bool = False  # a picture may have any number of labels
    signs: bool = False  # are the classes named by numbers or single letters?

    @property
    def mirror(self) -> bool:
        """May a picture's mirror image stand for the same class? Not where grey pictures or signs may be writing."""
        return not (self.grey or self.signs)


@dataclass(frozen=True)
class Source:
    """The model whose weights a training begins with."""

    network: str | dict[str, Any]
    image_size: int
    normalisation: str


def resolve(
    spec: TrainSpec,
    facts: DatasetFacts,
    room: Room | None = None,
    *,
    source: Source | None = None,
    budget_seconds: float | None = None,
    gflops: float = GFLOPS,
) -> dict[str, Any]:
    """The spec with every "auto" but precision replaced, as JSON, or InvalidValue naming the field that cannot be.

    `room` is the memory that a training may take; 80 % of the machine's when None. `gflops` is what this
    machine has been seen to train with.
    """
    return explained(spec, facts, room, source=source, budget_seconds=budget_seconds, gflops=gflops)[0]


def explained(
    spec: TrainSpec,
    facts: DatasetFacts,
    room: Room | None = None,
    *,
    source: Source | None = None,
    budget_seconds: float | None = None,
    gflops: float = GFLOPS,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Like `resolve`, and the reason for each value that was "auto", by the name of its field."""
    _check_loss(spec.loss, facts)
    choice = _Choice(spec, facts, source, budget_seconds, gflops * 1e9)
    resolved = choice.all()
    _check_weights(resolved)
    if source is not None:
        check_own_weights(resolved, source.image_size)
    check_initialisation(resolved)
    check_transfer(resolved)
    check_schedule(resolved)
    check_growth(resolved, facts.classes)
    check_parts(resolved, facts.train_count)
    _check_cost(resolved, facts.classes, room or Room.machine())
    return resolved.model_dump(mode="json"), choice.reasons


class _Choice:
    """One rule a method, each with its reason."""

    def __init__(self, spec: TrainSpec, facts: DatasetFacts, source: Source | None, budget: float | None, flops: float):
        self.spec, self.facts, self.source, self.flops = spec, facts, source, flops
        self.budget, self.seconds = budget, budget or PATIENCE_SECONDS
        self.reasons: dict[str, str] = {}

    def all(self) -> TrainSpec:
        spec, self.reasons = filled(self.spec, self.facts.train_count, mirror=self.facts.mirror)
        for rule in (self._network, self._initialisation, self._image_size, self._batch_size, self._progressive):
            spec = spec.model_copy(update=rule(spec))
        for rule in (self._epochs, self._optimizer, self._schedule, self._loss, self._augment, self._ema):
            spec = spec.model_copy(update=rule(spec))
        for rule in (self._transfer, self._normalisation, self._test_time):
            spec = spec.model_copy(update=rule(spec))
        return spec

    def _because(self, field: str, value: Any, reason: str) -> dict[str, Any]:
        self.reasons[field] = reason
        return {field: value}

    def _network(self, spec: TrainSpec) -> dict[str, Any]:
        if spec.network != "auto":
            return {}
        if self.source is not None:
            network = self.source.network
            value = network if isinstance(network, str) else LayersNetwork.model_validate(network)
            return self._because("network", value, "that of the model whose weights it begins with")
        if spec.initial_weights == "pretrained":
            return self._because("network", "resnet18", "a small network with weights learned from photographs")
        return self._because("network", "compact", "residual and normalised: learns well from few pictures at any size")

    def _initialisation(self, spec: TrainSpec) -> dict[str, Any]:
        if spec.initialisation != "auto":
            return {}
        if spec.network != "speedrun" or spec.initial_weights is not None:
            return {"initialisation": None}
        value = Initialisation(whitening=Whitening(), identity=True)
        return self._because("initialisation", value, "what this network is made for")

    def _image_size(self, spec: TrainSpec) -> dict[str, Any]:
        if spec.image_size != "auto":
            return {}
        if self.source is not None:
            return self._because("image_size", self.source.image_size, "that of the model it begins with")
        ladder = PRETRAINED_SIDES if spec.initial_weights else SPEEDRUN_SIDES if spec.recipe == "speedrun" else SIDES
        sides = [side for side in ladder if self._possible(spec, side)] or [ladder[-1]]
        fitting = [side for side in sides if side <= self.facts.median_side * 1.25] or sides[:1]
        quick = [side for side in fitting if self._epochs_that_fit(spec, side) >= LEAST_EPOCHS] or fitting[:1]
        reason = f"the pictures' median side is {self.facts.median_side} px"
        if quick[-1] < fitting[-1]:
            reason += f"; larger ones would not see {LEAST_EPOCHS} epochs in {self.seconds:.0f} s"
        return self._because("image_size", quick[-1], reason)

    def _possible(self, spec: TrainSpec, side: int) -> bool:
        try:
            return self._epochs_that_fit(spec, side) > 0
        except InvalidValue:
            return False

    def _epochs_that_fit(self, spec: TrainSpec, side: int) -> float:
        sized = spec.model_copy(update={"image_size": side, "batch_size": 2})
        return self.seconds * self.flops / (operations(sized, self.facts.classes) * max(self.facts.train_count, 1))

    def _batch_size(self, spec: TrainSpec) -> dict[str, Any]:
        if spec.batch_size != "auto":
            return {}
        value = _power_of_two(self.facts.train_count // 40, 8, 128)
        return self._because("batch_size", value, f"about 40 steps an epoch of {self.facts.train_count} pictures")

    def _progressive(self, spec: TrainSpec) -> dict[str, Any]:
        if spec.progressive != "auto":
            return {}
        assert isinstance(spec.image_size, int)
        if spec.image_size < LARGE:
            return self._because("progressive", None, f"pictures of {spec.image_size} px are small")
        wanted = spec.epochs if isinstance(spec.epochs, int) else self._wanted_epochs()
        if self._epochs_that_fit(spec, spec.image_size) >= wanted:
            return self._because("progressive", None, f"{self.seconds:.0f} s are enough for whole pictures")
        if not can_grow(spec.model_copy(update={"progressive": Progressive()}), self.facts.classes):
            return self._because("progressive", None, "this network takes pictures of one size only")
        return self._because("progressive", Progressive(), f"{self.seconds:.0f} s are short for pictures of this size")

    def _wanted_epochs(self) -> int:
        return min(max(60_000 // max(self.facts.train_count, 1), 12), 60)

    def _epochs(self, spec: TrainSpec) -> dict[str, Any]:
        if spec.epochs != "auto":
            return {}
        wanted = self._wanted_epochs()
        if self.budget is not None:
            reason = f"{wanted} for {self.facts.train_count} pictures, or as many as the budget turns out to allow"
            return self._because("epochs", wanted, reason)
        assert isinstance(spec.image_size, int)
        fitting = int(self._epochs_that_fit(spec, spec.image_size))
        value = max(min(wanted, fitting), 5)
        reason = f"few pictures want many epochs: {wanted} for {self.facts.train_count}"
        return self._because(
            "epochs", value, reason + ("" if value >= wanted else f"; {self.seconds:.0f} s allow less")
        )

    def _optimizer(self, spec: TrainSpec) -> dict[str, Any]:
        given, changes = spec.optimizer, {}
        if given.name == "auto":
            usual = {"classic": "adam", "compact": "muon", "speedrun": "muon"}
            changes["name"] = usual.get(spec.network, "adamw") if isinstance(spec.network, str) else "adamw"
            self.reasons["optimizer.name"] = OPTIMIZERS[changes["name"]]
        name = changes.get("name", given.name)
        if given.lr == "auto":
            changes["lr"] = RATES[name] * (2 if spec.network in ("compact", "speedrun") else 1)  # type: ignore[assignment]
            self.reasons["optimizer.lr"] = f"the usual peak for {name} with this network"
        if given.weight_decay == "auto":
            changes["weight_decay"] = 0.05 if name in ("adamw", "muon") else 0.0  # type: ignore[assignment]
            self.reasons["optimizer.weight_decay"] = f"the usual one for {name}"
        if given.norm_bias_rate == "auto":
            changes["norm_bias_rate"] = 1.0  # type: ignore[assignment]
        return {"optimizer": given.model_copy(update=changes)}

    def _schedule(self, spec: TrainSpec) -> dict[str, Any]:
        if spec.schedule != "auto":
            return {}
        value = Schedule(name="cosine") if spec.network == "classic" else Schedule(name="one_cycle")
        return self._because("schedule", value, "ends with the rate run down, which is worth more than a higher peak")

    def _loss(self, spec: TrainSpec) -> dict[str, Any]:
        given, several = spec.loss, self.facts.several_labels
        changes: dict[str, Any] = {}
        if given.name == "auto":
            changes["name"] = SEVERAL_LABELS_LOSS if several else "cross_entropy"
            self.reasons["loss.name"] = f"the pictures have {'several labels' if several else 'one label each'}"
        if given.label_smoothing == "auto":
            changes["label_smoothing"] = 0.0 if several or spec.network == "classic" else 0.1
            self.reasons["loss.label_smoothing"] = "keeps the network from being surer than the labels"
        if given.class_weights == "auto":
            changes["class_weights"] = "balanced" if self.facts.imbalance > 3 else None
            self.reasons["loss.class_weights"] = f"the largest class has {self.facts.imbalance:.1f} times the smallest"
        return {"loss": given.model_copy(update=changes)}

    def _augment(self, spec: TrainSpec) -> dict[str, Any]:
        if spec.augment != "auto":
            return {}
        if spec.network == "classic":
            value = Augment(crop=0.1, brightness=0.1, contrast=0.1, horizontal_flip=self.facts.mirror)
        elif self.facts.grey:
            value = Augment(crop=0.1, rotate=10.0, zoom=0.1, brightness=0.1, contrast=0.1)
        else:
            value = Augment(crop=0.1, rotate=10.0, zoom=0.15, brightness=0.2, contrast=0.2, saturation=0.2).model_copy(
                update={"horizontal_flip": self.facts.mirror}
            )
        return self._because("augment", value, self._mirroring())

    def _mirroring(self) -> str:
        if self.facts.grey:
            return "the pictures are grey, so mirroring may change what they say"
        if self.facts.signs:
            return "the classes are named by numbers or letters, so mirroring may change what a picture says"
        return "the pictures have colours: photographs"

    def _ema(self, spec: TrainSpec) -> dict[str, Any]:
        if spec.ema != "auto":
            return {}
        assert isinstance(spec.epochs, int)
        assert isinstance(spec.batch_size, int)
        steps = spec.epochs * self.facts.train_count // spec.batch_size
        return self._because("ema", Ema() if steps >= 500 else None, f"{steps} steps; an average over few would lag")

    def _transfer(self, spec: TrainSpec) -> dict[str, Any]:
        if spec.transfer != "auto":
            return {}
        if spec.initial_weights is None:
            return {"transfer": None}
        return self._because("transfer", Transfer(), "a new class layer first; what is learned already changes slowly")

    def _normalisation(self, spec: TrainSpec) -> dict[str, Any]:
        if spec.normalisation != "auto":
            return {}
        if self.source is not None:
            return {"normalisation": self.source.normalisation}
        return {"normalisation": "imagenet" if spec.initial_weights else "plain"}

    def _test_time(self, spec: TrainSpec) -> dict[str, Any]:
        return {"test_time_augmentation": None} if spec.test_time_augmentation == "auto" else {}


def _check_cost(spec: TrainSpec, classes: int, room: Room) -> None:
    needed = room.needs(cost(spec, classes))
    if needed > room.bytes:
        raise InvalidValue(
            "network_too_large",
            f"a training step needs about {needed / 2**30:.1f} GiB, this machine gives {room.bytes / 2**30:.1f} GiB",
            hint="use a smaller network, image_size or batch_size",
            param="/spec/network",
        )


def _check_loss(loss: Loss, facts: DatasetFacts) -> None:
    if loss.name != "auto" and (loss.name == SEVERAL_LABELS_LOSS) != facts.several_labels:
        found = "several labels" if facts.several_labels else "one label each"
        raise InvalidValue(
            "loss_does_not_fit",
            f"{loss.name} does not fit pictures with {found}",
            hint=f"{SEVERAL_LABELS_LOSS} is for several labels, the others are for one; or leave loss.name out",
            param="/spec/loss/name",
        )
    if isinstance(loss.class_weights, list) and len(loss.class_weights) != facts.classes:
        raise InvalidValue(
            "class_weights_count",
            f"{len(loss.class_weights)} class weights for {facts.classes} classes",
            hint="give one weight per class, in the order of the dataset's classes, or 'balanced'",
            param="/spec/loss/class_weights",
        )


def _check_weights(spec: TrainSpec) -> None:
    if spec.initial_weights == "pretrained" and not (isinstance(spec.network, str) and spec.network in NETWORKS):
        raise InvalidValue(
            "no_pretrained_weights",
            "there are pretrained weights for the named torchvision networks only",
            hint="GET /v1/networks lists them; or begin with a model of your own",
            param="/spec/initial_weights",
        )


def _power_of_two(value: int, low: int, high: int) -> int:
    return min(max(1 << max(value, 1).bit_length() - 1, low), high)
