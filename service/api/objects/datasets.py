"""Datasets, their versions and pictures, and uploads."""

from typing import Annotated, Literal

from typing_extensions import TypedDict

from service.api.objects.jobs import Job
from service.api.objects.values import Described, Json, Sha256, Task, Time, one_of
from service.db.tables import VERSION_STATUSES

Split = Annotated[str, one_of(("train", "val", "test"))]


class Dataset(TypedDict):
    object: Literal["dataset"]
    id: str
    name: str
    versions: int
    created_at: Time


class ClassCount(TypedDict):
    name: str
    count: int


class Named(TypedDict):
    """One of several pictures that are alike."""

    path: str
    label: str
    split: Split


class Report(TypedDict, total=False):
    """What an import or an edit found; pictures that are alike in groups."""

    accepted: int
    rejected: list[Json]
    skipped: list[Json]
    duplicates: list[list[Named]]
    near_duplicates: list[list[Named]]
    leaks: list[list[Named]]
    warnings: list[Json]
    edited: Json


class DatasetVersion(TypedDict):
    object: Literal["dataset_version"]
    id: str
    dataset: str
    number: int
    digest: Sha256 | None
    status: Annotated[str, one_of(VERSION_STATUSES)]
    task: Task
    classes: list[Annotated[Json, Described(ClassCount)]]
    splits: dict[str, int]
    image_count: int
    bytes: int
    report: Annotated[Json, Described(Report)]
    created_at: Time


class Item(TypedDict):
    """A picture of a version. `label` is as a labels.csv has it, `labels` are its parts."""

    image: Sha256
    path: str
    label: str
    split: Split
    width: int
    height: int
    flags: list[str]
    labels: list[str]


class Pushed(TypedDict):
    """A dataset, its new version's number, and the job that fills it."""

    id: str
    name: str
    version: int
    job: Job


class Grown(Pushed):
    added: int
    of: int


class Upload(TypedDict):
    object: Literal["upload"]
    id: str
    bytes: int
    received: int
    created_at: Time
    expires_at: Time


class Suspect(TypedDict):
    """A picture whose label is probably wrong, and what it might be."""

    rank: int
    image: Sha256
    path: str
    label: str
    labels: list[str]
    split: Split
    reason: str
    message: str
    suggested: str | None
    suggested_labels: list[str] | None
    self_confidence: float | None
    suggested_probability: float | None
    alike: list[Sha256]


class Analysis(TypedDict, total=False):
    id: str
    job: str
    model: str | None
    pictures: int
    folds: int
    agreement: float | None
    suspects: dict[str, int]
    created_at: Time


class Suspects(TypedDict):
    object: Literal["list"]
    data: list[Annotated[Json, Described(Suspect)]]
    has_more: bool
    next: str | None
    analysis: Annotated[Json, Described(Analysis)]


class Listed(TypedDict):
    image: Sha256
    path: str
    label: str
    split: Split


PictureCounts = TypedDict("PictureCounts", {"from": int, "to": int, "both": int})
Changed = TypedDict("Changed", {"image": Sha256, "path": str, "label": str, "split": Split, "from": str, "to": str})


class Counts(TypedDict):
    added: int
    removed: int
    relabelled: int
    moved: int


Differences = TypedDict(
    "Differences",
    {
        "object": Literal["dataset_comparison"],
        "dataset": str,
        "from": int,
        "to": int,
        "pictures": PictureCounts,
        "counts": Counts,
        "added": list[Listed],
        "removed": list[Listed],
        "relabelled": list[Changed],
        "moved": list[Changed],
    },
)
