"""Models, their versions, how good those are, and which of them answers."""

from typing import Annotated, Literal

from typing_extensions import TypedDict

from service.api.objects.values import Described, Interval, Json, Sha256, Share, Task, Time


class Model(TypedDict):
    """`aliases` are version numbers by name."""

    object: Literal["model"]
    id: str
    name: str
    newest_version: int
    aliases: dict[str, int]
    created_at: Time


class ModelBlock(TypedDict):
    """How an answer names the version that gave it."""

    name: str
    version: int
    weights_sha256: Sha256


class Candidate(TypedDict, total=False):
    """An engine that was tried: milliseconds by pictures a pass, and how it compares with the trained network."""

    engine: str
    ms: dict[str, float]
    top1_equal: int | None
    max_probability_difference: float | None
    batch_difference: float | None
    p_worse: float | None
    accuracy: float | None
    p_value: float | None
    passed: bool
    why: str | None


class Certificate(TypedDict, total=False):
    """That the exported program on its engine answers as the trained network did, on the whole test split."""

    engine: str
    n: int
    top1_equal: int
    max_probability_difference: float
    passed: bool
    tolerance: float
    agreement: float | None
    max_drop: float
    source: Json
    reason: str
    threads: int
    candidates: list[Candidate]


class ModelVersion(TypedDict):
    object: Literal["model_version"]
    id: str
    model: str
    version: int
    created_at: Time
    job: str
    weights_sha256: Sha256
    parameters: int
    task: Task
    dataset: str | None
    classes: list[str]
    image_size: int
    metrics: Json
    certificate: Annotated[Json, Described(Certificate)]
    lineage: Json
    resize: Json


class ClassQuality(TypedDict):
    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


class Confusion(TypedDict):
    """`counts[i][j]`: pictures of labels[i] that were called labels[j]."""

    labels: list[str]
    counts: list[list[int]]


class Reliability(TypedDict, total=False):
    """Expected calibration error before and after temperature scaling."""

    ece_before: float
    ece_before_interval: Interval
    ece_after: float
    ece_after_interval: Interval
    temperature: float
    bins: list[Json]


class Coverage(TypedDict, total=False):
    """How often the set named the right class; `expected` is what chance allows."""

    coverage: float
    empirical: Share
    expected: Interval
    kept: bool
    mean_size: float


class Alarm(TypedDict, total=False):
    """How often an ordinary picture is called strange; `expected` is what chance allows."""

    false_alarm: float
    empirical: Share
    expected: Interval
    kept: bool


class Evaluation(TypedDict, total=False):
    """Of single labels; with several labels a picture `mean_average_precision` and thresholds by class are there."""

    split: str
    n: int
    accuracy: Share
    per_class: list[ClassQuality]
    confusion_matrix: Confusion | None
    calibration: Reliability
    thresholds: list[Json]
    mistakes: list[Json]
    prediction_sets: list[Coverage] | None
    out_of_distribution: list[Alarm] | None


class Alias(TypedDict):
    object: Literal["alias"]
    model: str
    alias: str
    version: int
    etag: str
    moved_at: Time


class AliasMove(TypedDict):
    object: Literal["alias_move"]
    sequence: int
    version: int
    previous: int | None
    action: str
    by: str | None
    time: Time


class Pair(TypedDict):
    a: float
    b: float


class Comparison(TypedDict):
    """McNemar's exact test on the pictures that both versions were evaluated on."""

    object: Literal["comparison"]
    a: ModelBlock
    b: ModelBlock
    n: int
    both_right: int
    both_wrong: int
    right_to_wrong: int
    wrong_to_right: int
    accuracy: Pair
    accuracy_difference: Share
    p_value: float
    p_worse: float
    changed: list[Json]


class Disagreement(TypedDict):
    label: str | None
    candidate: str | None
    count: int


class Shadow(TypedDict):
    object: Literal["shadow"]
    model: str
    alias: str
    version: int
    against: int
    share: float
    active: bool
    n: int
    agreed: int
    disagreement: Share
    disagreements: list[Disagreement]
    mean_absolute_difference: float | None
    dropped: int
    failed: int
    by: str | None
    started_at: Time


class At(TypedDict):
    image_size: int
    classes: int


class Network(TypedDict):
    """`parameters` and `multiply_adds` (of one picture) are those `at` this size and number of classes."""

    name: str
    pretrained: bool
    parameters: int
    multiply_adds: int
    at: At
    smallest_image_size: int


class NetworkDetails(Network):
    """`template` can be posted to /v1/jobs; `schema` is the JSON Schema of its spec."""

    template: Json
    layers: list[Json] | None
    schema: Json
