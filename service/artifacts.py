"""Bytes in the database: checkpoints, exported programs, and the registry of model versions.

A blob is written as 1 MiB chunk rows in transactions of their own, so that no other writer waits longer than one chunk
takes; it exists when its manifest row does, and that row is written together with whatever refers to it. What is read
back is checked against its SHA-256 before anybody sees it.
"""

import hashlib
import mmap
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from service import aliases, jobs
from service.db import Database
from service.db.tables import Blob, Bundle, Checkpoint, Chunk, EngineProgram, Model, ModelVersion
from service.errors import InternalError, NotFound, Unavailable
from service.ids import new_id, now
from service.inference import choice
from service.inference.programs import Backend, Stored
from service.jobs import Hold

CHUNK_BYTES = 1024**2
ABANDONED_SECONDS = 3600.0


def write_chunks(database: Database, data: bytes | mmap.mmap) -> Blob:
    """Writes the chunks and returns the manifest, which the caller adds in the transaction that makes it count."""
    blob_id = new_id("blob")
    view = memoryview(data)
    for number, start in enumerate(range(0, len(data), CHUNK_BYTES)):
        with database.write(durable=False) as session:
            piece = view[start : start + CHUNK_BYTES]
            row = {"blob_id": blob_id, "number": number, "created_at": now(), "data": piece}
            session.execute(insert(Chunk), row)
    database.sync()
    chunks = -(-len(data) // CHUNK_BYTES)
    return Blob(id=blob_id, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), chunks=chunks, doomed=False)


def prune(database: Database) -> None:
    """Removes the bytes of blobs that nothing refers to, a chunk per transaction."""
    with database.read() as session:
        doomed = session.execute(select(Blob.id, Blob.chunks).where(Blob.doomed)).all()
    for blob_id, chunks in doomed:
        for number in range(chunks):
            with database.write(durable=False) as session:
                session.execute(delete(Chunk).where(Chunk.blob_id == blob_id, Chunk.number == number))
        with database.write(durable=False) as session:
            session.execute(delete(Blob).where(Blob.id == blob_id))


def read_blob(session: Session, blob_id: str) -> bytes:
    """The bytes of a blob. Raises InternalError (code `blob_corrupt`) when they are not what was written."""
    blob = session.get(Blob, blob_id)
    if blob is None:
        raise NotFound("blob_not_found", f"there are no bytes {blob_id}")
    rows = session.scalars(select(Chunk.data).where(Chunk.blob_id == blob_id).order_by(Chunk.number))
    data = b"".join(rows)
    if hashlib.sha256(data).hexdigest() != blob.sha256:
        raise _corrupt(blob_id)
    return data


def pieces(database: Database, blob: Blob) -> Iterator[bytes]:
    """As `read_blob`, a chunk at a time: the last comes only when all are what was written."""
    digest = hashlib.sha256()
    for number in range(blob.chunks):
        with database.read() as session:
            mine = (Chunk.blob_id == blob.id) & (Chunk.number == number)
            piece = session.scalar(select(Chunk.data).where(mine)) or b""
        digest.update(piece)
        if number == blob.chunks - 1 and digest.hexdigest() != blob.sha256:
            raise _corrupt(blob.id)
        yield piece


def _corrupt(blob_id: str) -> InternalError:
    hint = "the disk of the database may be failing: look at it, and restore the last backup"
    return InternalError("blob_corrupt", f"stored bytes {blob_id} do not match their SHA-256", hint=hint)


def is_whole(session: Session, blob_id: str) -> bool:
    """Are the bytes of a blob those that were written? They are read a chunk at a time."""
    digest = hashlib.sha256()
    rows = select(Chunk.data).where(Chunk.blob_id == blob_id).order_by(Chunk.number)
    for piece in session.scalars(rows.execution_options(yield_per=1)):
        digest.update(piece)
    return digest.hexdigest() == session.get_one(Blob, blob_id).sha256


def sweep(session: Session) -> None:
    """Removes chunks whose manifest was never written, left by a process that died while writing."""
    whole = select(Blob.id)
    session.execute(delete(Chunk).where(Chunk.blob_id.not_in(whole), Chunk.created_at < now() - ABANDONED_SECONDS))


# --- checkpoints -----------------------------------------------------------------------------------------------------


def add_checkpoint(session: Session, hold: Hold, blob: Blob, *, epoch: int, step: int, best: bool) -> None:
    """Makes the blob the job's last checkpoint (and its best), and forgets those that are now neither."""
    mine = Checkpoint.job_id == hold.job_id
    session.execute(update(Checkpoint).where(mine).values(is_last=False))
    if best:
        session.execute(update(Checkpoint).where(mine).values(is_best=False))
    session.add(blob)
    session.flush()
    session.add(
        Checkpoint(
            id=blob.id,
            job_id=hold.job_id,
            attempt=hold.attempt,
            epoch=epoch,
            step=step,
            is_last=True,
            is_best=best,
            created_at=now(),
        )
    )
    session.flush()
    keep = session.scalars(select(Checkpoint.id).where(mine, Checkpoint.is_last | Checkpoint.is_best)).all()
    jobs.delete_checkpoints(session, hold.job_id, keep)


def last_checkpoint(session: Session, job_id: str) -> Checkpoint | None:
    return session.scalar(select(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.is_last))


def best_checkpoint(session: Session, job_id: str) -> Checkpoint | None:
    return session.scalar(select(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.is_best))


@dataclass(frozen=True)
class Resumption:
    """Where a job goes on: a checkpoint with its bytes, or without one the beginning."""

    checkpoint: Checkpoint | None = None
    data: bytes = b""
    is_damaged: bool = False  # is a checkpoint of the job, so that it goes on from an earlier one or from the beginning


def resumption(session: Session, job_id: str) -> Resumption:
    """From the last checkpoint, or where its bytes are damaged from the best, or from the beginning.

    From the beginning too when the best is damaged, for the model is to be made of it. Learned again, it is the same.
    """
    last, best = last_checkpoint(session, job_id), best_checkpoint(session, job_id)
    if best is not None and best is not last and not is_whole(session, best.id):
        return Resumption(is_damaged=True)
    for row in (last, best):
        if row is not None:
            with suppress(InternalError):
                return Resumption(row, read_blob(session, row.id), is_damaged=row is not last)
    return Resumption(is_damaged=last is not None)


def go_back(session: Session, job_id: str, found: Resumption, step: int) -> None:
    """Makes the job's only checkpoint the one that it resumes from, which is of this step; the others are forgotten."""
    keep = [] if found.checkpoint is None else [found.checkpoint.id]
    jobs.delete_checkpoints(session, job_id, keep)
    session.execute(update(Checkpoint).where(Checkpoint.id.in_(keep)).values(is_last=True, step=step))


# --- model versions --------------------------------------------------------------------------------------------------


def add_model_version(
    session: Session,
    name: str,
    job_id: str,
    program: Blob,
    *,
    card: dict[str, Any],
    evaluation: dict[str, Any],
    answers: dict[str, Any] | None = None,
    engines: dict[str, Blob] | None = None,
) -> ModelVersion:
    """Registers the program as the next version of the model. `card` carries weights_sha256 and parameters.

    `engines` are its other forms, by kind: see `program`. `answers` are those of the evaluation, picture for picture,
    as `service.comparison` wants them.
    """
    model = session.scalar(select(Model).where(Model.name == name))
    if model is None:
        model = Model(id=new_id("model"), name=name, created_at=now())
        session.add(model)
    session.add(program)
    session.flush()
    newest = session.scalar(select(func.max(ModelVersion.number)).where(ModelVersion.model_id == model.id))
    version = ModelVersion(
        id=new_id("mv"),
        model_id=model.id,
        number=(newest or 0) + 1,
        job_id=job_id,
        program_id=program.id,
        weights_sha256=card["weights_sha256"],
        parameters=card["parameters"],
        card=card,
        evaluation=evaluation,
        answers=answers,
        created_at=now(),
    )
    session.add(version)
    session.flush()
    for kind, blob in (engines or {}).items():
        session.add(blob)
        session.flush()
        session.add(EngineProgram(version_id=version.id, kind=kind, blob_id=blob.id))
    session.flush()
    return version


def program(session: Session, version: ModelVersion, backend: Backend) -> Stored:
    """The bytes by which a model version is served on this backend. Raises Unavailable when they are damaged."""
    if backend.kind == "torch":
        blob_id = version.program_id
    else:
        blob_id = session.get_one(EngineProgram, (version.id, backend.kind)).blob_id
    try:
        data = read_blob(session, blob_id)
    except InternalError as error:
        detail = f"the stored program of version {version.number} is damaged"
        hint = "point its aliases at another version; restore the last backup, or train the version again"
        raise Unavailable("program_damaged", detail, hint=hint) from error
    return Stored(data, backend, choice.is_quick(version.card, backend))


def bundle(session: Session, ref: str) -> Blob:
    """The manifest of a version's bundle. Raises NotFound while it was not made."""
    model, version = find_version(session, ref)
    row = session.get(Bundle, version.id)
    if row is None:
        name = f"{model.name}:{version.number}"
        hint = f'POST /v1/jobs {{"type": "export", "model": "{name}"}} makes it'
        raise NotFound("bundle_not_found", f"{name} has no bundle yet", hint=hint)
    return session.get_one(Blob, row.blob_id)


def find_model(session: Session, name: str) -> Model:
    """The model of this name or id. Raises NotFound."""
    row = session.scalar(select(Model).where((Model.name == name) | (Model.id == name)))
    if row is None:
        raise NotFound("model_not_found", f"there is no model {name!r}", hint="GET /v1/models lists the models")
    return row


def find_version(session: Session, ref: str) -> tuple[Model, ModelVersion]:
    """The model version that a reference names. Raises NotFound.

    `flowers:3` is version 3, `flowers@staging` where that alias points, and `flowers` where the alias `production`
    points, or the newest while it is not set.
    """
    name, at, alias = ref.partition("@")
    name, colon, number = (name, "", "") if at else ref.partition(":")
    model = find_model(session, name)
    query = select(ModelVersion).where(ModelVersion.model_id == model.id)
    if at:
        query = query.where(ModelVersion.number == aliases.find(session, model, alias).version)
    elif colon:
        query = query.where(ModelVersion.number == _number(number))
    elif move := aliases.current(session, model, aliases.PRODUCTION):
        query = query.where(ModelVersion.number == move.version)
    version = session.scalar(query.order_by(ModelVersion.number.desc()).limit(1))
    if version is None:
        hint = f"GET /v1/models/{model.name}/versions lists its versions"
        raise NotFound("model_not_found", f"there is no model version {ref!r}", hint=hint)
    return model, version


def alias_in(ref: str) -> str | None:
    """The alias by which a reference finds its version, if it is set: `production` for a bare name."""
    _, at, alias = ref.partition("@")
    if at:
        return alias
    return None if ":" in ref else aliases.PRODUCTION


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
