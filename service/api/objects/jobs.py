"""Jobs, what is told before they start, and what they leave behind."""

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from service.api.objects.values import Described, Failure, Json, Quantiles, Time, one_of
from service.db.tables import JOB_STATUSES


class Progress(TypedDict, total=False):
    """Of a training: epochs and steps; of a search: trials; of other jobs the fraction."""

    fraction: float
    epoch: int
    epochs: int
    step: int
    steps: int
    images_per_second: float
    trial: int
    trials: int
    best_value: float | None


class Estimate(TypedDict, total=False):
    """`parts` and `formula` say what it is made of; the truth is added when the job has ended."""

    seconds: Quantiles
    parts: dict[str, float]
    formula: dict[str, float]
    memory_bytes: int
    disk_bytes: int
    based_on: str
    actual_seconds: float
    actual_memory_bytes: int
    inside: bool


class Job(TypedDict):
    """Long work. `spec` is resolved: no "auto" is left in a training's; `result` is there when it has succeeded."""

    object: Literal["job"]
    id: str
    type: str
    status: Annotated[str, one_of(JOB_STATUSES)]
    is_terminal: bool
    stop_reason: str | None
    attempt: int
    progress: Annotated[Json, Described(Progress)] | None
    eta_seconds: Annotated[Json, Described(Quantiles)] | None
    spec: Json
    goal: Json | None
    budget: Json | None
    reasons: dict[str, str] | None
    estimate: Annotated[Json, Described(Estimate)] | None
    reproduces: str | None
    search: Json | None
    parent: str | None
    trial: int | None
    parameters: Json | None
    seed: int
    device: str | None
    determinism: str | None
    determinism_reason: str | None
    plan: Json | None
    dataset: str | None
    model: str | None
    result: Json | None
    error: Annotated[Json, Described(Failure)] | None
    created_at: Time
    started_at: Time | None
    finished_at: Time | None


class LayerRow(TypedDict):
    """`out` is the shape (channels, height, width) or (features,) after it."""

    kind: str
    out: list[int]
    parameters: int
    multiply_adds: int


class DryRun(TypedDict, total=False):
    """What a training would be, or each trial of a search, whose `search` is there."""

    spec: Json
    reasons: dict[str, str]
    dataset: str
    parameters: int
    multiply_adds: int
    memory_bytes: int
    estimate: Annotated[Json, Described(Estimate)]
    layers: list[LayerRow] | None
    search: Json


class Calibration(TypedDict):
    """Of the estimates: the share of jobs that ended between p10 and p90; 0.8 is intended."""

    jobs: int
    inside: int
    share: float | None
    intended: float


class Event(TypedDict):
    id: str
    type: str
    time: Time
    data: Json


class Checkpoint(TypedDict):
    id: str
    attempt: int
    epoch: int
    step: int
    is_last: bool
    is_best: bool
    created_at: Time


class Series(TypedDict):
    """A metric's history; a point is [step, epoch, value, time]."""

    name: str
    points: Annotated[list[list[Any]], Field(description="[step, epoch, value, time]")]


class Metrics(TypedDict):
    series: list[Series]
