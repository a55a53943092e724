"""Datasets and their versions as rows and files: create, find, read, delete. A version is immutable once ready."""

from pathlib import Path

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from service import jobs
from service.auto import DatasetFacts
from service.datasets import archive, suspects
from service.datasets.zip_format import Entry
from service.db import Database
from service.db.tables import Dataset, DatasetVersion, Item, Job
from service.errors import Conflict, InvalidValue, NotFound
from service.ids import new_id, now
from service.labels import SEPARATOR
from service.settings import Settings


def create_dataset(session: Session, name: str) -> Dataset:
    """Raises Conflict when the name is taken."""
    if session.scalar(select(Dataset.id).where(Dataset.name == name)):
        raise Conflict(
            "dataset_exists", f"there is a dataset {name!r} already", hint=f"POST /v1/datasets/{name}/versions adds one"
        )
    dataset = Dataset(id=new_id("ds"), name=name, created_at=now())
    session.add(dataset)
    session.flush()
    return dataset


def add_version(session: Session, dataset: Dataset, sha256: str, size_bytes: int) -> tuple[DatasetVersion, Job]:
    """The next version, still importing, and the job that fills it."""
    version = DatasetVersion(
        id=new_id("dsv"),
        dataset_id=dataset.id,
        number=newest_number(session, dataset) + 1,
        status="importing",
        archive_sha256=sha256,
        archive_bytes=size_bytes,
        classes=[],
        splits={},
        image_count=0,
        facts={},
        report={},
        created_at=now(),
    )
    session.add(version)
    session.flush()
    return version, jobs.submit(
        session, "import", spec={}, version_id=version.id, dataset=f"{dataset.name}@{version.number}"
    )


def newest_number(session: Session, dataset: Dataset) -> int:
    """0 when it has no version."""
    mine = select(func.max(DatasetVersion.number)).where(DatasetVersion.dataset_id == dataset.id)
    return session.scalar(mine) or 0


def find_dataset(session: Session, name_or_id: str) -> Dataset:
    query = select(Dataset).where((Dataset.name == name_or_id) | (Dataset.id == name_or_id))
    dataset = session.scalar(query)
    if dataset is None:
        raise NotFound("dataset_not_found", f"there is no dataset {name_or_id!r}", hint="GET /v1/datasets lists them")
    return dataset


def find_version(session: Session, dataset: Dataset, number: int | None) -> DatasetVersion:
    """The version with this number, or the newest."""
    query = select(DatasetVersion).where(DatasetVersion.dataset_id == dataset.id)
    if number is not None:
        query = query.where(DatasetVersion.number == max(min(number, 2**31), 0))
    version = session.scalar(query.order_by(DatasetVersion.number.desc()).limit(1))
    if version is None:
        raise NotFound(
            "version_not_found",
            f"dataset {dataset.name!r} has no version {number or ''}".rstrip(),
            hint=f"GET /v1/datasets/{dataset.name}/versions lists them",
        )
    return version


def find_ready(session: Session, ref: str) -> DatasetVersion:
    """The ready version that `flowers` (newest), `flowers@2` or a version id names, for training."""
    version = session.get(DatasetVersion, ref)
    if version is None:
        name, _, number = ref.partition("@")
        if number and not (number.isascii() and number.isdigit() and len(number) < 10):
            raise InvalidValue("invalid_value", f"{ref!r}: the version is a number", param="/dataset")
        version = find_version(session, find_dataset(session, name), int(number) if number else None)
    return ready(version)


def ready(version: DatasetVersion) -> DatasetVersion:
    """The version. Raises Conflict while it is importing, or when that failed."""
    if version.status != "ready":
        raise Conflict(
            "dataset_not_ready",
            f"version {version.number} of the dataset is {version.status}",
            hint="wait for its import job" if version.status == "importing" else "read the import job's error",
        )
    return version


def reference(session: Session, version: DatasetVersion) -> str:
    """How people call it: flowers@2."""
    return f"{session.get_one(Dataset, version.dataset_id).name}@{version.number}"


def several_labels(version: DatasetVersion) -> bool:
    """May a picture of the version have several labels, or none?"""
    return bool(version.facts.get("several_labels"))


def has_label(name: str, *, several: bool) -> ColumnElement[bool]:
    """Of an item: is this one of its labels? By `replace`, because LIKE passes over case in some databases."""
    if not several:
        return Item.label == name
    padded = SEPARATOR + Item.label + SEPARATOR
    return func.replace(padded, f"{SEPARATOR}{name}{SEPARATOR}", "") != padded


def count(version: DatasetVersion, split: str) -> int:
    """Pictures of a split, or of all."""
    return version.image_count if split == "all" else int(version.splits.get(split, 0))


def facts(version: DatasetVersion) -> DatasetFacts:
    return DatasetFacts(
        train_count=version.splits.get("train", 0),
        classes=len(version.classes),
        median_side=version.facts["median_side"],
        grey=version.facts["grey"],
        several_labels=several_labels(version),
        imbalance=max(row["count"] for row in version.classes) / min(row["count"] for row in version.classes),
        signs=all(is_sign(row["name"]) for row in version.classes),
    )


def is_sign(name: str) -> bool:
    """Is it a number or a single letter? Such classes may be writing, or signs of hands."""
    return len(name) == 1 or name.isdigit()


def delete_dataset(db: Database, settings: Settings, name_or_id: str) -> None:
    """Removes the dataset and the files that no other names. Raises NotFound, and Conflict while a job uses it."""
    with db.write() as session:
        ids, hashes = _delete_rows(session, find_dataset(session, name_or_id))
    for path in (path for version_id in ids for path in settings.cache.glob(f"{version_id}-*.npy")):
        path.unlink(missing_ok=True)
    with db.write() as session:  # who brings the same archive meanwhile waits for the writer lock
        named = set(session.scalars(select(DatasetVersion.archive_sha256)))
        for sha256 in hashes - named:
            archive_path(settings, sha256).unlink(missing_ok=True)


def _delete_rows(session: Session, dataset: Dataset) -> tuple[list[str], set[str]]:
    """The ids of the versions that were removed, and the hashes of their archives."""
    mine = list(session.scalars(select(DatasetVersion).where(DatasetVersion.dataset_id == dataset.id)))
    ids = [version.id for version in mine]
    users = session.scalars(select(Job).where(Job.version_id.in_(ids)))
    if busy := next((job for job in users if job.status not in jobs.TERMINAL), None):
        raise Conflict("dataset_in_use", f"{busy.id} still uses the dataset", hint="cancel the job or wait for its end")
    for job in session.scalars(select(Job).where(Job.version_id.in_(ids))):
        job.version_id = None
    suspects.forget(session, suspects.of_versions(session, ids))
    session.execute(delete(Item).where(Item.version_id.in_(ids)))
    session.execute(delete(DatasetVersion).where(DatasetVersion.id.in_(ids)))
    session.delete(dataset)
    return ids, {version.archive_sha256 for version in mine}


def entries(session: Session, version: DatasetVersion) -> list[Entry]:
    """Where the archive holds its pictures, by row of the packed cache."""
    rows = session.scalars(select(Item.entry).where(Item.version_id == version.id).order_by(Item.ordinal))
    return [Entry(**entry) for entry in rows]


def archive_path(settings: Settings, sha256: str) -> Path:
    return settings.archives / sha256[:2] / f"{sha256}.zip"


def cache_path(settings: Settings, version_id: str, size: int) -> Path:
    return settings.cache / f"{version_id}-{size}.npy"


def picture_bytes(settings: Settings, version: DatasetVersion, item: Item) -> bytes:
    """The picture file as it was uploaded, read from the archive. Raises InternalError (code `archive_damaged`)."""
    try:
        with archive_path(settings, version.archive_sha256).open("rb") as file:
            return archive.read(file, Entry(**item.entry), settings.max_image_bytes)
    except FileNotFoundError as error:
        raise archive.damaged("is missing") from error
    except InvalidValue as error:
        if error.code != "entry_corrupt":
            raise
        raise archive.damaged(f"is damaged: {error.detail}") from error
