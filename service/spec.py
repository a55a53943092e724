"""What a client may ask of training: the fields, their meaning and their limits. `service.auto` fills in "auto".

Knows nothing of torch or tables. A resolved spec has no "auto" left but `precision`, which only the training machine
can answer by measuring. `workers.training` reads the resolved spec and nothing else.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from service.layers import LayersNetwork, Strict
from service.networks import NETWORKS
from service.presets import PRESETS

Auto = Literal["auto"]


def _name(text: str) -> str:
    if not text.isprintable() or not 0 < len(text) <= 64 or text != text.strip() or set(text) & set("/@:\\?#%"):
        raise ValueError("a name has 1 to 64 printable characters of any script, but none of / @ : \\ ? # %")
    return text


Name = Annotated[
    str,
    Field(
        json_schema_extra={"minLength": 1, "maxLength": 64, "pattern": r"^[^\s/@:\\?#%]([^/@:\\?#%]*[^\s/@:\\?#%])?$"}
    ),
    AfterValidator(_name),
]
"""What a dataset or a model may be called; a pattern cannot say all of it."""

Probability = Annotated[float, Field(ge=0, le=1)]
Half = Annotated[float, Field(ge=0, le=0.5)]


class Optimizer(Strict):
    """`muon` orthogonalises the momentum of weight matrices and filters (Jordan et al. 2024); the rest gets adamw."""

    name: Auto | Literal["adam", "adamw", "sgd", "muon"] = Field("auto", description="what turns gradients into steps")
    lr: Auto | Annotated[float, Field(gt=0, le=10)] = Field(
        "auto", title="Learning rate", description="the highest of the schedule"
    )
    weight_decay: Auto | Annotated[float, Field(ge=0, le=1)] = Field(
        "auto", description="how hard weights are pulled towards zero; never norms and biases"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd and muon (Nesterov): share of a step that is kept")
    norm_bias_rate: Auto | Annotated[float, Field(gt=0, le=100)] = Field(
        "auto", description="times lr, for the biases of normalisation layers; 1 without a recipe"
    )
    clip_norm: float | None = Field(
        None, gt=0, le=1e6, description="longest gradient; longer ones are scaled down; null: never"
    )
    accumulate: int = Field(1, ge=1, le=256, description="parts a batch is taken in, for less memory")


class Schedule(Strict):
    """How the learning rate moves over the whole job; `warmup` is the share of steps it rises linearly from zero."""

    name: Literal["constant", "cosine", "one_cycle", "linear"] = Field(
        "cosine", description="the shape of its way down; one_cycle rises for a third of the steps first"
    )
    warmup: float = Field(0.0, ge=0, le=0.5, description="share of all steps in which the rate rises from zero")


class Loss(Strict):
    """Pictures of several labels are learned with `binary_cross_entropy`, each class a question of its own."""

    name: Auto | Literal["cross_entropy", "focal", "binary_cross_entropy"] = Field(
        "auto", description="binary_cross_entropy is for pictures of several labels, the others for one label each"
    )
    gamma: float = Field(2.0, ge=0, le=10, description="focal only: how much sure answers are passed over")
    label_smoothing: Auto | Annotated[float, Field(ge=0, lt=1)] = Field(
        "auto", description="share of a label's certainty that is spread over all classes"
    )
    class_weights: Literal["auto", "balanced"] | list[Annotated[float, Field(gt=0, le=1e6)]] | None = Field(
        "auto",
        description="'balanced' weighs by inverse frequency; a list gives one weight per class, in class order; "
        "of several labels it weighs those that are there",
    )


class Augment(Strict):
    """Random changes of a training picture, drawn anew each epoch."""

    horizontal_flip: bool | Literal["alternating"] = Field(
        False, description="'alternating': a coin per picture decides the first epoch, every further one inverts it"
    )
    vertical_flip: bool = Field(False, description="a coin per picture turns it upside down")
    crop: Half = Field(0.0, description="largest shift, as a share of the side; edges are replicated")
    brightness: Probability = Field(0.0, description="largest change, as a share")
    contrast: Probability = Field(0.0, description="largest change, as a share")
    saturation: Probability = Field(0.0, description="largest change, as a share")
    rotate: float = Field(0.0, ge=0, le=180, description="largest turn, in degrees")
    zoom: Half = Field(0.0, description="largest change of scale, as a share")
    erase: Half = Field(0.0, description="largest erased square, as a share of the area")
    mixup: float = Field(0.0, ge=0, le=4, description="alpha of the Beta distribution of mixing weights; 0 is off")
    cutmix: float = Field(0.0, ge=0, le=4, description="alpha, likewise; with both, a coin decides for each batch")


class Ema(Strict):
    """The weights that are judged and served are an exponential moving average of those that are trained."""

    decay: float = Field(0.99, gt=0, lt=1, description="per step; smaller in the first steps")


class Progressive(Strict):
    """Smaller pictures first: from `start` times image_size, growing evenly, whole from the share `until` on."""

    start: float = Field(0.5, ge=0.25, lt=1, description="side of the first pictures, as a share of image_size")
    until: float = Field(0.7, gt=0, le=1, description="share of all steps after which pictures are whole")


class Whitening(Strict):
    """The first convolution gets filters that make the patches of the training pictures uncorrelated, and keeps them.

    Its filters are at most twice as many as a patch has numbers (each direction and its negative): 54 for a window
    of 3.
    """

    eps: float = Field(5e-4, gt=0, le=1, description="added to each variance, of pixels in units of a quarter of white")


class Initialisation(Strict):
    """How random weights begin, for lists of layers and the networks made of them."""

    whitening: Whitening | None = Field(None, description="filters of the first convolution, from the pictures")
    identity: bool = Field(False, description="convolutions with an odd window first pass on what they are given")


VIEWS = {None: 1, "flip": 2, "translate": 3, "flip_translate": 6}
"""Forward passes for one answer, by test_time_augmentation."""


class Transfer(Strict):
    """First the class layer alone, then all layers, those before it more slowly (Howard & Ruder 2018)."""

    head_epochs: int = Field(1, ge=0, le=1000, description="epochs in which the class layer alone learns")
    backbone_rate: float = Field(0.1, gt=0, le=1, description="of the class layer's learning rate")


class EarlyStopping(Strict):
    patience: int = Field(5, ge=1, le=1000, description="epochs without a better validation loss")


def _which_network(value: Any) -> str:
    return "name" if isinstance(value, str) else "layers"


def _known_network(value: Any) -> Any:
    if isinstance(value, str) and value not in ("auto", *PRESETS, *NETWORKS):
        raise ValueError(f"unknown network {value!r}; GET /v1/networks lists them, or give a list of layers")
    return value


Network = Annotated[
    Annotated[str, Tag("name")] | Annotated[LayersNetwork, Tag("layers")],
    Discriminator(_which_network),
    BeforeValidator(_known_network),
]


class TrainSpec(Strict):
    recipe: Literal["textbook", "speedrun"] | None = Field(
        None,
        description="what stands in for 'auto': 'speedrun' learns small pictures in few epochs; null asks the data",
    )
    network: Network = Field(
        "auto", description="'auto', 'classic', 'compact', 'speedrun', a torchvision network, or {'layers': [...]}"
    )
    image_size: Auto | Annotated[int, Field(ge=8, le=512)] = Field("auto", description="side of the square, in pixels")
    initial_weights: str | None = Field(
        None,
        max_length=200,
        description="null: random; 'pretrained': torchvision's; 'flowers:3': those of a model of one's own",
    )
    initialisation: Auto | Initialisation | None = Field("auto", description="of random weights; null: torch's own")
    transfer: Auto | Transfer | None = Field("auto", description="how initial weights are learned on from")
    normalisation: Auto | Literal["plain", "imagenet"] = Field("auto", description="'imagenet' with pretrained weights")
    epochs: Auto | Annotated[int, Field(ge=1, le=10_000)] = Field("auto", description="passes over the pictures")
    batch_size: Auto | Annotated[int, Field(ge=2, le=8192)] = Field("auto", description="pictures of one step")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field("auto", description="'auto' is measured at job start")
    optimizer: Optimizer = Optimizer()
    schedule: Auto | Schedule = Field("auto", description="how the learning rate moves over the job")
    loss: Loss = Loss()
    augment: Auto | Augment | None = Field("auto", description="random changes of training pictures; null: as they are")
    ema: Auto | Ema | None = Field(
        "auto",
        title="Averaged weights",
        description="the moving average of the weights is what is served; 'auto' decides by the number of steps",
    )
    progressive: Auto | Progressive | None = Field(
        "auto", description="for networks that take pictures of any size; null: never"
    )
    test_time_augmentation: Auto | Literal["flip", "translate", "flip_translate"] | None = Field(
        "auto",
        description="the model answers with the mean over a picture and its mirror image, or slightly shifted copies, "
        "or both: 2, 3 or 6 times the work of an answer; null without a recipe",
    )
    early_stopping: EarlyStopping | None = Field(None, description="end when nothing gets better; null: never")


class Goal(Strict):
    """Training ends as soon as an epoch reaches it on the validation split."""

    metric: Literal["accuracy", "mean_average_precision"] = Field(
        "accuracy", description="mean_average_precision of several labels only"
    )
    at_least: float = Field(gt=0, le=1, description="share, as 0.95")


class Budget(Strict):
    """The whole job fits: epochs are left out, and the schedule is compressed so that it still ends annealed."""

    seconds: float = Field(ge=5, le=30 * 86400, description="of the whole job, export and judging included")


class Int8(Strict):
    """Eight bits instead of 32: the model's next version, unless it loses too much by it."""

    max_drop: float = Field(
        0.01, ge=0, lt=1, description="of accuracy on the test split, as a share, against the version it is made of"
    )
    even_if_slower: bool = Field(
        False, description="also where this machine answers sooner without it: it may be meant for another"
    )


class ExportRequest(Strict):
    """Makes a model version's bundle: one zip that needs nothing of Fovea. With `int8`, the next version."""

    type: Literal["export"]
    model: str = Field(max_length=200, description="'flowers', 'flowers:3' or 'flowers@production'")
    int8: Int8 | None = Field(None, description="quantises the version; null: makes its bundle")


class AnalyseRequest(Strict):
    """Looks for wrong labels: answers for every picture by classifiers that have not seen it."""

    type: Literal["analyse"]
    dataset: str = Field(max_length=100, description="'flowers' for the newest version, or 'flowers@2'")
    model: str | None = Field(
        None, max_length=200, description="a model of the same classes: its answers count where it did not learn"
    )
    folds: int = Field(5, ge=2, le=20, description="parts of the pictures, each answered by what the others teach")
    seed: int = Field(0, ge=0, lt=2**63)


class EvaluateRequest(Strict):
    """Asks a model version about pictures that it did not learn from: how well it answers, how strange they look."""

    type: Literal["evaluate"]
    model: str = Field(max_length=200, description="'flowers', 'flowers:3' or 'flowers@production'")
    dataset: str = Field(max_length=100, description="'flowers' for the newest version, or 'flowers@2'")
    split: Literal["all", "train", "val", "test"] = Field("all", description="which of its pictures")


class TrainRequest(Strict):
    type: Literal["train"] = "train"
    model: Name = Field(description="name of the model; each finished job becomes its next version")
    dataset: str = Field(max_length=100, description="'flowers' for the newest version, or 'flowers@2'")
    seed: int = Field(0, ge=0, lt=2**63, description="the same seed gives the same weights on the same machine")
    spec: TrainSpec = TrainSpec()
    goal: Goal | None = None
    budget: Budget | None = None
