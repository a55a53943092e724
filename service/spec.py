"""What a client may ask of training: the spec, its checks, and how "auto" becomes a value.

Knows nothing of torch or tables. A resolved spec has no "auto" left but `precision`, which only the training machine
can answer by measuring. `workers.training` reads the resolved spec and nothing else.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import psutil
from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from service.errors import InvalidValue
from service.layers import CLASSIC, LayersNetwork, Strict, shapes, takes_any_size
from service.networks import NETWORKS, side_while_growing

Auto = Literal["auto"]


def _name(text: str) -> str:
    if not text.isprintable() or not 0 < len(text) <= 64 or text != text.strip() or set(text) & set("/@:\\?#%"):
        raise ValueError("a name has 1 to 64 printable characters of any script, but none of / @ : \\ ? # %")
    return text


Name = Annotated[str, AfterValidator(_name)]
"""What a dataset or a model may be called."""

Probability = Annotated[float, Field(ge=0, le=1)]


class Optimizer(Strict):
    """`muon` orthogonalises the momentum of weight matrices and filters (Jordan et al. 2024); the rest gets adamw."""

    name: Literal["adam", "adamw", "sgd", "muon"] = "adam"
    lr: Auto | Annotated[float, Field(gt=0, le=10)] = Field("auto", description="peak learning rate")
    weight_decay: float = Field(0.0, ge=0, le=1, description="not applied to norms and biases")
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd and muon (Nesterov)")
    norm_bias_rate: float = Field(1.0, gt=0, le=100, description="times lr, for the biases of normalisation layers")
    clip_norm: float | None = Field(None, gt=0, le=1e6, description="longest gradient; longer ones are scaled down")
    accumulate: int = Field(1, ge=1, le=256, description="parts a batch is taken in, for less memory")


RATES = {"adam": 1e-3, "adamw": 1e-3, "sgd": 0.05, "muon": 0.02}
"""Peak learning rates that suit these networks with batches of 16 to 128."""


class Schedule(Strict):
    """How the learning rate moves over the whole job; `warmup` is the share of steps it rises linearly from zero."""

    name: Literal["constant", "cosine", "one_cycle", "linear"] = "cosine"
    warmup: float = Field(0.0, ge=0, le=0.5)


class Loss(Strict):
    name: Literal["cross_entropy", "focal"] = "cross_entropy"
    gamma: float = Field(2.0, ge=0, le=10, description="focal only: how much sure answers are passed over")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: Literal["balanced"] | list[Annotated[float, Field(gt=0, le=1e6)]] | None = Field(
        None, description="'balanced' weighs by inverse frequency; a list gives one weight per class, in class order"
    )


class Augment(Strict):
    """Random changes of a training picture, drawn anew each epoch."""

    horizontal_flip: bool | Literal["alternating"] = Field(
        False, description="'alternating': a coin per picture decides the first epoch, every further one inverts it"
    )
    vertical_flip: bool = False
    crop: Probability = Field(0.0, le=0.5, description="largest shift, as a share of the side; edges are replicated")
    brightness: Probability = 0.0
    contrast: Probability = 0.0
    saturation: Probability = 0.0
    rotate: float = Field(0.0, ge=0, le=180, description="largest turn, in degrees")
    zoom: Probability = Field(0.0, le=0.5, description="largest change of scale, as a share")
    erase: Probability = Field(0.0, le=0.5, description="largest erased square, as a share of the area")
    mixup: float = Field(0.0, ge=0, le=4, description="alpha of the Beta distribution of mixing weights; 0 is off")
    cutmix: float = Field(0.0, ge=0, le=4, description="alpha, likewise; with both, a coin decides for each batch")


class Ema(Strict):
    """The weights that are judged and served are an exponential moving average of those that are trained."""

    decay: float = Field(0.99, gt=0, lt=1, description="per step; smaller in the first steps")


class Progressive(Strict):
    """Smaller pictures first: from `start` times image_size, growing evenly, whole from the share `until` on."""

    start: float = Field(0.5, ge=0.25, lt=1)
    until: float = Field(0.7, gt=0, le=1)


class EarlyStopping(Strict):
    patience: int = Field(5, ge=1, le=1000, description="epochs without a better validation loss")


def _which_network(value: Any) -> str:
    return "name" if isinstance(value, str) else "layers"


def _known_network(value: Any) -> Any:
    if isinstance(value, str) and value not in ("auto", "classic", *NETWORKS):
        raise ValueError(f"unknown network {value!r}; GET /v1/networks lists them, or give a list of layers")
    return value


Network = Annotated[
    Annotated[str, Tag("name")] | Annotated[LayersNetwork, Tag("layers")],
    Discriminator(_which_network),
    BeforeValidator(_known_network),
]


class TrainSpec(Strict):
    network: Network = Field("auto", description="'auto', 'classic', a torchvision network, or {'layers': [...]}")
    image_size: Auto | Annotated[int, Field(ge=8, le=512)] = Field("auto", description="side of the square, in pixels")
    initial_weights: None = Field(None, description="only random initial weights so far")
    epochs: Auto | Annotated[int, Field(ge=1, le=10_000)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=2, le=8192)] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field("auto", description="'auto' is measured at job start")
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    loss: Loss = Loss()
    augment: Auto | Augment | None = "auto"
    ema: Auto | Ema | None = Field("auto", description="'auto' decides by the number of steps")
    progressive: Progressive | None = Field(None, description="for networks that take pictures of any size")
    test_time_augmentation: Literal["flip"] | None = Field(
        None, description="'flip': the model answers with the mean over a picture and its mirror image"
    )
    early_stopping: EarlyStopping | None = None


class Goal(Strict):
    """Training ends as soon as an epoch reaches it on the validation split."""

    metric: Literal["accuracy"] = "accuracy"
    at_least: float = Field(gt=0, le=1)


class Budget(Strict):
    """The whole job fits: epochs are left out, and the schedule is compressed so that it still ends annealed."""

    seconds: float = Field(ge=5, le=30 * 86400)


class TrainRequest(Strict):
    type: Literal["train"] = "train"
    model: Name = Field(description="name of the model; each finished job becomes its next version")
    dataset: str = Field(max_length=100, description="'flowers' for the newest version, or 'flowers@2'")
    seed: int = Field(0, ge=0, lt=2**63)
    spec: TrainSpec = TrainSpec()
    goal: Goal | None = None
    budget: Budget | None = None


@dataclass(frozen=True)
class DatasetFacts:
    """What "auto" may look at. Sides in pixels are medians over the pictures."""

    train_count: int
    classes: int
    median_side: int
    grey: bool


def resolve(spec: TrainSpec, facts: DatasetFacts, memory_bytes: int | None = None) -> dict[str, Any]:
    """The spec with every "auto" but precision replaced, as JSON, or InvalidValue naming the field that cannot be.

    `memory_bytes` is the most a training process may take; 80 % of the machine's when None.
    """
    # from 8x8 digits to photographs: never below what three pools need, never above what a CPU trains in minutes
    size = spec.image_size if spec.image_size != "auto" else min(max(round(facts.median_side / 8) * 8, 32), 128)
    network = spec.network if spec.network != "auto" else ("classic" if size <= 64 else "resnet18")
    batch = spec.batch_size if spec.batch_size != "auto" else _power_of_two(facts.train_count // 20, 16, 128)
    epochs = spec.epochs if spec.epochs != "auto" else min(max(50_000 // max(facts.train_count, 1), 10), 40)
    optimizer = spec.optimizer
    if optimizer.lr == "auto":
        optimizer = optimizer.model_copy(update={"lr": RATES[optimizer.name]})
    augment = spec.augment
    if augment == "auto":  # mirroring changes the meaning of digits and letters, seldom that of photographs
        augment = Augment(crop=0.1, brightness=0.1, contrast=0.1, horizontal_flip=not facts.grey)
    _check_loss(spec.loss, facts.classes)
    ema = spec.ema
    if ema == "auto":  # an average over few steps would lag behind
        ema = Ema() if epochs * facts.train_count // batch >= 1000 else None
    changes = {"image_size": size, "network": network, "batch_size": batch, "epochs": epochs, "ema": ema}
    resolved = spec.model_copy(update={**changes, "optimizer": optimizer, "augment": augment})
    _check_progressive(resolved, facts.classes)
    _check_cost(resolved, facts.classes, memory_bytes or int(psutil.virtual_memory().total * 0.8))
    return resolved.model_dump(mode="json")


@dataclass(frozen=True)
class Cost:
    parameters: int
    multiply_adds: int  # of one forward pass of one picture
    memory_bytes: int  # of one training step: weights, gradients, two moments, activations


def cost(spec: TrainSpec, classes: int) -> Cost:
    """What a resolved spec costs, by arithmetic alone. Raises InvalidValue where the shapes are impossible."""
    assert isinstance(spec.image_size, int)
    assert isinstance(spec.batch_size, int)
    if isinstance(spec.network, str) and spec.network != "classic":
        return _named_cost(spec.network, spec.image_size, spec.batch_size)
    network = spec.network if isinstance(spec.network, LayersNetwork) else CLASSIC
    rows = shapes(network, spec.image_size, classes)
    parameters = sum(row.parameters for row in rows)
    activations = 3 * spec.image_size**2 + sum(2 * row.activations for row in rows)
    return Cost(
        parameters=parameters,
        multiply_adds=sum(row.multiply_adds for row in rows),
        memory_bytes=16 * parameters + 4 * 2 * activations * spec.batch_size,
    )


def _named_cost(name: str, image_size: int, batch_size: int) -> Cost:
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
    memory = 16 * known.parameters + int(4 * activations * batch_size)
    return Cost(known.parameters, int(known.giga_multiply_adds * 1e9 * scale), memory)


def layer_table(spec: TrainSpec, classes: int) -> list[dict[str, Any]] | None:
    """What each layer of a resolved spec makes of one picture; None for networks known by name only."""
    network = CLASSIC if spec.network == "classic" else spec.network
    if not isinstance(network, LayersNetwork) or spec.image_size == "auto":
        return None
    rows = shapes(network, spec.image_size, classes)
    return [
        {"kind": row.kind, "out": list(row.out), "parameters": row.parameters, "multiply_adds": row.multiply_adds}
        for row in rows
    ]


def _check_cost(spec: TrainSpec, classes: int, memory_bytes: int) -> None:
    needed = cost(spec, classes).memory_bytes
    if needed > memory_bytes:
        raise InvalidValue(
            "network_too_large",
            f"a training step needs about {needed / 2**30:.1f} GiB, this machine gives {memory_bytes / 2**30:.1f} GiB",
            hint="use a smaller network, image_size or batch_size",
            param="/spec/network",
        )


def _check_loss(loss: Loss, classes: int) -> None:
    if isinstance(loss.class_weights, list) and len(loss.class_weights) != classes:
        raise InvalidValue(
            "class_weights_count",
            f"{len(loss.class_weights)} class weights for {classes} classes",
            hint="give one weight per class, in the order of the dataset's classes, or 'balanced'",
            param="/spec/loss/class_weights",
        )


def _check_progressive(spec: TrainSpec, classes: int) -> None:
    network = CLASSIC if spec.network == "classic" else spec.network
    if spec.progressive and isinstance(network, LayersNetwork) and not takes_any_size(network):
        raise InvalidValue(
            "fixed_size_network",
            "this network takes pictures of one size only",
            hint="put a global_avg_pool before the first dense layer, or leave progressive out",
            param="/spec/progressive",
        )
    if spec.progressive and isinstance(network, LayersNetwork):
        assert isinstance(spec.image_size, int)
        shapes(network, side_while_growing(spec.progressive.model_dump(), spec.image_size, None, 0.0), classes)


def _power_of_two(value: int, low: int, high: int) -> int:
    return min(max(1 << max(value, 1).bit_length() - 1, low), high)
