"""What a model says of pictures, here and by the Open Inference Protocol."""

from typing import Annotated, Any, Literal, NotRequired

from typing_extensions import TypedDict

from service.api.objects.models import ModelBlock
from service.api.objects.values import Described, Failure, Json, Sha256, Time


class Ranked(TypedDict, total=False):
    """`threshold` is there where a picture may have several labels."""

    label: str
    probability: float
    threshold: float


class Strangeness(TypedDict):
    """How often a picture like the training's looks as strange."""

    p_value: float


class Explanation(TypedDict):
    """A class activation map for `label`: a PNG in base64."""

    kind: str
    label: str | None
    png: str


class Result(TypedDict):
    """Of one picture; where `error` is not null, nothing else was found."""

    filename: str | None
    label: str | None
    labels: list[str]
    probability: float | None
    predictions: list[Ranked]
    prediction_set: list[str] | None
    ood: Strangeness | None
    decision: Literal["accept", "abstain"] | None
    explanation: Explanation | None
    error: Failure | None


class Milliseconds(TypedDict):
    decode: float
    queue: float
    model: float
    total: float


class Classified(TypedDict):
    id: str
    model: ModelBlock
    results: list[Result]
    timing_ms: Milliseconds


class Kept(Result):
    """`truth` is what somebody said that it shows."""

    image: Sha256 | None
    truth: str | None
    labelled_at: Time | None


class Prediction(TypedDict):
    object: Literal["prediction"]
    id: str
    model: ModelBlock
    ref: str
    parameters: Json
    results: list[Annotated[Json, Described(Kept)]]
    by: str | None
    created_at: Time


class Difference(TypedDict):
    index: int
    field: str
    before: Any
    after: Any


class Replay(TypedDict):
    object: Literal["replay"]
    prediction: str
    model: ModelBlock
    equal: bool
    differences: list[Difference]
    results: list[Annotated[Json, Described(Result)]]


class ServerMetadata(TypedDict):
    name: str
    version: str
    extensions: list[str]


class Tensor(TypedDict):
    name: str
    datatype: str
    shape: list[int]


class ModelReady(TypedDict):
    name: str
    ready: bool


class Filled(Tensor):
    """`data`, or `parameters` that say how many bytes behind the JSON are its."""

    data: NotRequired[list[Any]]
    parameters: NotRequired[Json]


class ModelMetadata(TypedDict):
    name: str
    versions: list[str]
    platform: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    classes: list[str]


class Inference(TypedDict):
    model_name: str
    model_version: str
    id: str
    parameters: Json
    outputs: list[Filled]
