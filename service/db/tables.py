"""Every table. Times are UTC seconds since the epoch (REAL): they sort, subtract and mean the same everywhere.

Bytes live in `chunks`, never in a row that is listed. Chunks without their `blobs` row are unfinished and swept; those
of a doomed one are removed a few at a time.
"""

from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Json = dict[str, Any]

JOB_STATUSES = (
    "queued",  # new, or resumed: a worker may claim it
    "running",  # claimed
    "pausing",  # running -> pausing: the worker will write a checkpoint and let go
    "paused",  # pausing -> paused, queued -> paused
    "interrupted",  # its worker let go or died: a worker may claim it
    "cancelling",  # running, pausing -> cancelling: the worker will kill it
    "succeeded",
    "failed",
    "cancelled",
)
VERSION_STATUSES = ("importing", "ready", "failed")


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        Json: JSON,
        list[Any]: JSON,
        float: Float(53),
        int: BigInteger().with_variant(Integer, "sqlite"),
    }


class ApiKey(Base):
    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(String, primary_key=True)
    name: Mapped[str]
    prefix: Mapped[str]  # the first characters, so that a person can tell keys apart
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[Any]]
    created_at: Mapped[float]
    revoked_at: Mapped[float | None]


class WebSession(Base):
    """A signed-in browser, or a one-time code (`kind`) that makes one. It acts with the scopes of its key."""

    __tablename__ = "web_sessions"
    __table_args__ = (CheckConstraint("kind IN ('code', 'session')", name="kind"),)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    kind: Mapped[str]
    created_at: Mapped[float]
    expires_at: Mapped[float]


class IdempotentAnswer(Base):
    """What a POST with this Idempotency-Key answered; written in the transaction that created the object."""

    __tablename__ = "idempotent_answers"
    owner: Mapped[str] = mapped_column(String, primary_key=True)  # id of the API key
    key: Mapped[str] = mapped_column(String, primary_key=True)
    request_sha256: Mapped[str]
    status: Mapped[int]
    body: Mapped[Json]
    headers: Mapped[Json]
    created_at: Mapped[float]


class Dataset(Base):
    __tablename__ = "datasets"
    id: Mapped[str] = mapped_column(String, primary_key=True)
    name: Mapped[str] = mapped_column(String, unique=True)
    created_at: Mapped[float]


class DatasetVersion(Base):
    """Immutable once `ready`. `pictures` counts, `facts` is what "auto" looks at, `report` is the import's."""

    __tablename__ = "dataset_versions"
    __table_args__ = (
        UniqueConstraint("dataset_id", "number"),
        CheckConstraint(f"status IN {VERSION_STATUSES!r}", name="status"),
    )
    id: Mapped[str] = mapped_column(String, primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    number: Mapped[int]
    status: Mapped[str]
    archive_sha256: Mapped[str] = mapped_column(String(64), index=True)
    archive_bytes: Mapped[int]
    digest: Mapped[str | None]
    classes: Mapped[list[Any]]
    splits: Mapped[Json]
    image_count: Mapped[int]
    image_size: Mapped[int | None]  # side in pixels of the cache that import wrote
    facts: Mapped[Json]
    report: Mapped[Json]
    created_at: Mapped[float]


class Item(Base):
    """One accepted picture. `ordinal` is its row in every packed cache of the version."""

    __tablename__ = "items"
    __table_args__ = (Index(None, "version_id", "image"),)
    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    image: Mapped[str] = mapped_column(String(64))  # SHA-256 of the picture file
    path: Mapped[str]  # name in the archive: metadata, never a path
    label: Mapped[str]
    split: Mapped[str]
    width: Mapped[int]
    height: Mapped[int]
    flags: Mapped[list[Any]]
    entry: Mapped[Json]  # where the archive holds the bytes


class Analysis(Base):
    """What an `analyse` job found in a version; `summary` is about all of it. See service.datasets.suspects."""

    __tablename__ = "analyses"
    id: Mapped[str] = mapped_column(String, primary_key=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"), index=True)
    model_version_id: Mapped[str | None] = mapped_column(ForeignKey("model_versions.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    summary: Mapped[Json]
    created_at: Mapped[float]


class Suspect(Base):
    """A picture whose label is probably wrong, as the list shows it."""

    __tablename__ = "suspects"
    analysis_id: Mapped[str] = mapped_column(ForeignKey("analyses.id", ondelete="CASCADE"), primary_key=True)
    rank: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # 1 is the likeliest
    reason: Mapped[str]
    data: Mapped[Json]


class Job(Base):
    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(f"status IN {JOB_STATUSES!r}", name="status"),
        Index(None, "status", "created_at"),
        Index(None, "parent", "trial", unique=True),
    )
    id: Mapped[str] = mapped_column(String, primary_key=True)
    type: Mapped[str]
    status: Mapped[str]
    stop_requested: Mapped[bool] = mapped_column(default=False)
    stop_reason: Mapped[str | None]
    attempt: Mapped[int] = mapped_column(default=0)  # counted at claim; fences every write of the worker
    deaths: Mapped[int] = mapped_column(default=0)  # claims since the last progress, the present one included
    worker: Mapped[Json | None]  # machine, pid and start time of the supervisor that holds it
    lease_expires_at: Mapped[float | None]
    version_id: Mapped[str | None] = mapped_column(ForeignKey("dataset_versions.id"))
    dataset: Mapped[str | None]  # how people call the version: flowers@1
    model: Mapped[str | None]
    seed: Mapped[int]
    spec: Mapped[Json]
    goal: Mapped[Json | None]
    budget: Mapped[Json | None]
    reasons: Mapped[Json | None]  # why "auto" became what it did, by field
    estimate: Mapped[Json | None]  # what was foretold at submission and, in the end, whether it was so
    reproduces: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    search: Mapped[Json | None]  # of a search: space, trials, metric
    parent: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))  # of a trial: its search
    trial: Mapped[int | None]  # its number there, from 1
    parameters: Mapped[Json | None]  # the values that it tries, by pointer into the spec
    plan: Mapped[Json | None]  # what the training machine measured and chose; kept by every later attempt
    device: Mapped[str | None]
    progress: Mapped[Json | None]
    eta_seconds: Mapped[Json | None]
    result: Mapped[Json | None]
    error: Mapped[Json | None]
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]


class Event(Base):
    __tablename__ = "events"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    type: Mapped[str]
    time: Mapped[float]
    data: Mapped[Json]


class Metric(Base):
    __tablename__ = "metrics"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String, primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[int]
    value: Mapped[float]
    time: Mapped[float]


class Blob(Base):
    """The manifest of bytes kept in chunks; its presence says that they are whole."""

    __tablename__ = "blobs"
    id: Mapped[str] = mapped_column(String, primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    bytes: Mapped[int]
    chunks: Mapped[int]
    doomed: Mapped[bool] = mapped_column(default=False)  # nothing refers to it any more


class Chunk(Base):
    __tablename__ = "chunks"
    blob_id: Mapped[str] = mapped_column(String, primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    created_at: Mapped[float]
    data: Mapped[bytes] = mapped_column(LargeBinary)


class Checkpoint(Base):
    """State to resume from (`last`) or to make the model of (`best`); one row can be both."""

    __tablename__ = "checkpoints"
    id: Mapped[str] = mapped_column(ForeignKey("blobs.id"), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    attempt: Mapped[int]
    epoch: Mapped[int]
    step: Mapped[int]
    is_last: Mapped[bool]
    is_best: Mapped[bool]
    created_at: Mapped[float]


class Model(Base):
    __tablename__ = "models"
    id: Mapped[str] = mapped_column(String, primary_key=True)
    name: Mapped[str] = mapped_column(String, unique=True)
    created_at: Mapped[float]


class ModelVersion(Base):
    __tablename__ = "model_versions"
    __table_args__ = (UniqueConstraint("model_id", "number"), UniqueConstraint("job_id"))
    id: Mapped[str] = mapped_column(String, primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    number: Mapped[int]
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    program_id: Mapped[str] = mapped_column(ForeignKey("blobs.id"))
    weights_sha256: Mapped[str]
    parameters: Mapped[int]
    card: Mapped[Json]
    evaluation: Mapped[Json]
    answers: Mapped[Json | None] = mapped_column(deferred=True)  # of each evaluated picture: see service.comparison
    created_at: Mapped[float]


class Bundle(Base):
    """The zip with which a model version leaves: see workers.bundle."""

    __tablename__ = "bundles"
    version_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"), primary_key=True)
    blob_id: Mapped[str] = mapped_column(ForeignKey("blobs.id"))


class EngineProgram(Base):
    """What serves a model version on other engines than torch (`kind` onnx): see service.inference.onnx_program."""

    __tablename__ = "engine_programs"
    version_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String, primary_key=True)
    blob_id: Mapped[str] = mapped_column(ForeignKey("blobs.id"))


class AliasMove(Base):
    """One step in the history of an alias; the newest is where it points. Rows are only ever added."""

    __tablename__ = "alias_moves"
    __table_args__ = (CheckConstraint("action IN ('set', 'rollback')", name="action"),)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    alias: Mapped[str] = mapped_column(String, primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # 1, 2, 3, …: also its ETag
    version: Mapped[int]
    previous: Mapped[int | None]
    action: Mapped[str]
    by: Mapped[str]  # id of the API key
    time: Mapped[float]


class Prediction(Base):
    """An answer that was asked to be kept (`?store=true`), of one picture or several."""

    __tablename__ = "predictions"
    __table_args__ = (Index("ix_predictions_retention", "labelled", "id", "pictures", "bytes"),)
    id: Mapped[str] = mapped_column(String, primary_key=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"), index=True)
    ref: Mapped[str]  # as it was asked: flowers@production
    parameters: Mapped[Json]
    by: Mapped[str]  # id of the API key
    pictures: Mapped[int]  # kept as files
    bytes: Mapped[int]  # of them
    labelled: Mapped[bool] = mapped_column(default=False)  # one of them at least: never dropped to make room
    created_at: Mapped[float]


class PredictionItem(Base):
    """What was said of one picture, and what is true."""

    __tablename__ = "prediction_items"
    __table_args__ = (Index(None, "image"), Index(None, "truth"))
    prediction_id: Mapped[str] = mapped_column(ForeignKey("predictions.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    image: Mapped[str | None] = mapped_column(String(64))  # SHA-256 of its file; None when it was no picture
    label: Mapped[str | None]
    probability: Mapped[float | None]
    decision: Mapped[str | None]
    result: Mapped[Json]  # as it was answered
    truth: Mapped[str | None]
    labelled_at: Mapped[float | None]


class Shadow(Base):
    """A version that gets a share of an alias's traffic and is never answered: how often it says the same."""

    __tablename__ = "shadows"
    __table_args__ = (UniqueConstraint("model_id", "alias"),)
    id: Mapped[str] = mapped_column(String, primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    alias: Mapped[str]
    candidate_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"))
    against_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"))  # what the alias named at the start
    share: Mapped[float]
    n: Mapped[int] = mapped_column(default=0)  # pictures answered by both
    agreed: Mapped[int] = mapped_column(default=0)
    dropped: Mapped[int] = mapped_column(default=0)  # pictures not scored, for answers came first
    failed: Mapped[int] = mapped_column(default=0)
    difference: Mapped[float] = mapped_column(default=0.0)  # sum over n of |probability - candidate's|
    by: Mapped[str]
    created_at: Mapped[float]


class ShadowDisagreement(Base):
    __tablename__ = "shadow_disagreements"
    shadow_id: Mapped[str] = mapped_column(ForeignKey("shadows.id", ondelete="CASCADE"), primary_key=True)
    label: Mapped[str] = mapped_column(String, primary_key=True)
    candidate: Mapped[str] = mapped_column(String, primary_key=True)
    count: Mapped[int]


class Measurement(Base):
    """What a machine once measured (precision and layout that pay), so that it decides alike the next time."""

    __tablename__ = "measurements"
    key: Mapped[str] = mapped_column(String, primary_key=True)
    value: Mapped[Json]
    created_at: Mapped[float]


class Upload(Base):
    """An archive that arrives in pieces. `received` counts the bytes that are safely in its file."""

    __tablename__ = "uploads"
    id: Mapped[str] = mapped_column(String, primary_key=True)
    bytes: Mapped[int]
    received: Mapped[int]
    about: Mapped[str]  # Upload-Metadata as the client gave it
    created_at: Mapped[float]
    expires_at: Mapped[float]
