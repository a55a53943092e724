"""Archives that arrive in pieces, over any number of connections and processes. It knows no HTTP.

The row counts the bytes that are on the disk; the file may hold more, which nobody was promised and the next writer
cuts off. A lock of the operating system keeps a second writer out, and is gone with the process that held it.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from service import disk
from service.db import Database
from service.db.tables import Upload
from service.errors import Conflict, Locked, NotFound, PayloadTooLarge, TooManyRequests
from service.files import sync_folder
from service.ids import new_id, now
from service.settings import Settings

WHAT = "this upload"
HASHED_AT_ONCE = 1024**2  # bytes


def create(session: Session, settings: Settings, size_bytes: int, about: str) -> Upload:
    """An empty upload. Raises PayloadTooLarge, InsufficientStorage, or TooManyRequests while too many are open."""
    if size_bytes > settings.max_upload_bytes:
        raise PayloadTooLarge(
            "body_too_large",
            f"an upload has at most {settings.max_upload_bytes} bytes",
            hint="split it, or raise the limit (GET /v1/info names it)",
        )
    if (session.scalar(select(func.count()).select_from(Upload)) or 0) >= settings.max_uploads:
        raise TooManyRequests("too_many_uploads", f"{settings.max_uploads} uploads are open", hint="finish or end one")
    settings.uploads.mkdir(parents=True, exist_ok=True)
    disk.check(settings, WHAT, size_bytes)
    created = now()
    upload = Upload(
        id=new_id("up"),
        bytes=size_bytes,
        received=0,
        about=about,
        created_at=created,
        expires_at=created + settings.upload_seconds,
    )
    path_of(settings, upload.id).touch()
    sync_folder(settings.uploads)
    session.add(upload)
    return upload


def find(session: Session, upload_id: str) -> Upload:
    """Raises NotFound for what is no more: consumed, ended or expired."""
    upload = session.get(Upload, upload_id)
    if upload is None or upload.expires_at < now():
        raise NotFound("upload_not_found", f"there is no upload {upload_id!r}", hint="begin a new one")
    return upload


def path_of(settings: Settings, upload_id: str) -> Path:
    return settings.uploads / upload_id


@contextmanager
def opened(settings: Settings, upload: Upload) -> Iterator[FileIO]:
    """The file, for this writer alone. Raises Locked (423) while somebody else has it, NotFound when it is gone."""
    try:
        file = FileIO(path_of(settings, upload.id), "r+")
    except FileNotFoundError as error:
        raise NotFound("upload_not_found", f"there is no upload {upload.id!r}", hint="begin a new one") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Locked("upload_locked", "another request writes to this upload", hint="try again in a moment") from (
                error
            )
        yield file


def write(file: FileIO, piece: bytes, settings: Settings) -> None:
    """Appends all of it. Raises InsufficientStorage."""
    disk.check(settings, WHAT, len(piece))
    rest = memoryview(piece)
    with disk.written(WHAT):
        while rest:
            rest = rest[file.write(rest) :]


def save(db: Database, settings: Settings, file: FileIO, upload_id: str, received: int) -> float:
    """Promises the first `received` bytes; from here on they survive anything. When the upload expires now."""
    os.fsync(file)
    with db.write() as session:
        upload = find(session, upload_id)
        upload.received = received
        upload.expires_at = now() + settings.upload_seconds
        return upload.expires_at


def finished(upload: Upload) -> None:
    """Raises Conflict when bytes are missing."""
    if upload.received < upload.bytes:
        raise Conflict(
            "upload_incomplete",
            f"{upload.received} of {upload.bytes} bytes have arrived",
            hint="send the rest with PATCH /v1/uploads/{upload}",
        )


def sha256_of(file: FileIO) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while piece := file.read(HASHED_AT_ONCE):
        digest.update(piece)
    return digest.hexdigest()


def sweep(db: Database, settings: Settings) -> None:
    """Ends the uploads that have expired, unless somebody is writing to one."""
    with db.read() as session:
        expired = list(session.scalars(select(Upload).where(Upload.expires_at < now())))
    for upload in expired:
        with suppress(Locked, NotFound), opened(settings, upload):
            path_of(settings, upload.id).unlink()
        if not path_of(settings, upload.id).exists():
            with db.write() as session:
                session.execute(delete(Upload).where(Upload.id == upload.id))


def recover(db: Database, settings: Settings) -> None:
    """At the start: what has expired goes, and what a killed request left that no row knows."""
    sweep(db, settings)
    with db.read() as session:
        known = set(session.scalars(select(Upload.id)))
    for path in settings.uploads.glob("*"):
        if path.name not in known:
            path.unlink(missing_ok=True)
