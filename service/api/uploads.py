"""`/v1/uploads`: resumable uploads by tus 1.0 (tus.io/protocols/resumable-upload), for any tus client.

Core, creation, checksum, expiration and termination. What has arrived becomes a dataset by `{"upload": "up_…"}`.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from email.utils import formatdate
from io import FileIO
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from service import uploads
from service.api import objects, shapes
from service.api.bodies import BINARY, media_type, stream
from service.api.context import Answer, DatabaseDep, OnceDep, Reading, SettingsDep, require
from service.api.examples import UPLOAD, answers
from service.db import Database
from service.db.tables import Upload
from service.errors import (
    BadRequest,
    ChecksumMismatch,
    Conflict,
    PreconditionFailed,
    UnsupportedMediaType,
)
from service.settings import Settings

VERSION = "1.0.0"
ALGORITHMS = ("sha1", "sha256")
MOST_METADATA = 4096  # characters
SAVED_EVERY = 8 * 1024**2  # bytes: what a killed server may ask for again


def versioned(tus_resumable: Annotated[str | None, Header(description="1.0.0")] = None) -> None:
    """Raises PreconditionFailed (412) for another version of the protocol."""
    if tus_resumable != VERSION:
        raise PreconditionFailed(
            "tus_version", f"Tus-Resumable: {VERSION} is needed", hint="any tus client sends it", headers=_versions()
        )


def _versions() -> dict[str, str]:
    return {"Tus-Version": VERSION, "Tus-Resumable": VERSION}


router = APIRouter(prefix="/v1/uploads", tags=["uploads"])
guarded = [Depends(require("data")), Depends(versioned)]


@router.options("", status_code=204)
@router.options("/{upload}", status_code=204, include_in_schema=False)
def options(settings: SettingsDep) -> Response:
    """What of tus is spoken here."""
    headers = {
        **_versions(),
        "Tus-Extension": "creation,checksum,expiration,termination",
        "Tus-Max-Size": str(settings.max_upload_bytes),
        "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
    }
    return Response(status_code=204, headers=headers)


@router.post("", status_code=201, dependencies=guarded, responses=answers(UPLOAD, 201, objects.Upload))
def create(
    db: DatabaseDep,
    settings: SettingsDep,
    once: OnceDep,
    upload_length: Annotated[str, Header(description="bytes of the whole")] = "",
    upload_metadata: Annotated[str, Header(description="kept and given back by HEAD")] = "",
) -> JSONResponse:
    """Begins an upload; `Location` is where to send its pieces."""
    size = _number("Upload-Length", upload_length)
    if len(upload_metadata) > MOST_METADATA:
        raise BadRequest("metadata_too_long", f"Upload-Metadata has at most {MOST_METADATA} characters")

    uploads.sweep(db, settings)

    def make(session: Session) -> Answer:
        row = uploads.create(session, settings, size, upload_metadata)
        headers = {"Location": f"/v1/uploads/{row.id}", "Upload-Expires": _date(row.expires_at)}
        return Answer(201, shapes.upload(row), headers)

    given = hashlib.sha256(f"{size}\n{upload_metadata}".encode()).hexdigest()
    with db.write() as session:
        answer: Answer = once.do(session, given, lambda: make(session))
    return answer.response()


@router.head("/{upload}", dependencies=guarded, response_class=Response)
def show(upload: str, session: Reading) -> Response:
    """`Upload-Offset`: how many bytes are safe, and so where to go on."""
    row = uploads.find(session, upload)
    headers = {
        "Upload-Offset": str(row.received),
        "Upload-Length": str(row.bytes),
        "Upload-Expires": _date(row.expires_at),
    }
    return Response(headers=headers | ({"Upload-Metadata": row.about} if row.about else {}))


OFFSET_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/offset+octet-stream": {"schema": BINARY}},
    }
}


@router.patch("/{upload}", status_code=204, dependencies=guarded, openapi_extra=OFFSET_BODY)
async def append(
    upload: str,
    request: Request,
    db: DatabaseDep,
    settings: SettingsDep,
    upload_offset: Annotated[str, Header(description="where the body begins")] = "",
    upload_checksum: Annotated[str, Header(description="of the body: `sha256 BASE64`")] = "",
) -> Response:
    """The next bytes. What has arrived of a body that breaks off is kept, unless it has a checksum."""
    if media_type(request) != "application/offset+octet-stream":
        raise UnsupportedMediaType(
            "unsupported_media_type", "the body is the next bytes", hint="send application/offset+octet-stream"
        )
    offset, expected = _number("Upload-Offset", upload_offset), _checksum(upload_checksum)
    with uploads.opened(settings, await run_in_threadpool(_find, db, upload)) as file:
        row = await run_in_threadpool(_find, db, upload)  # as it is now that nobody else writes
        if row.received != offset:
            raise Conflict(
                "offset_conflict",
                f"{row.received} bytes have arrived, the body begins at {offset}",
                hint="HEAD tells the offset",
                headers={"Upload-Offset": str(row.received)},
            )
        receiving = Receiving(db, settings, file, row)
        await receiving.all_of(request, expected)
    headers = {"Upload-Offset": str(receiving.received), "Upload-Expires": _date(receiving.expires_at)}
    return Response(status_code=204, headers=headers)


@router.delete("/{upload}", status_code=204, dependencies=guarded)
def end(upload: str, db: DatabaseDep, settings: SettingsDep) -> Response:
    """Throws it away."""
    row = _find(db, upload)
    with uploads.opened(settings, row):
        with db.write() as session:
            session.delete(uploads.find(session, row.id))
        uploads.path_of(settings, row.id).unlink(missing_ok=True)
    return Response(status_code=204)


@router.post("/{upload}", status_code=204, dependencies=guarded, include_in_schema=False)
async def overridden(upload: str, request: Request, db: DatabaseDep, settings: SettingsDep) -> Response:
    """PATCH and DELETE for clients that can only POST: X-HTTP-Method-Override, which tus asks for."""
    method = request.headers.get("x-http-method-override", "").upper()
    if method == "DELETE":
        return await run_in_threadpool(end, upload, db, settings)
    if method == "PATCH":
        given = (request.headers.get(name, "") for name in ("upload-offset", "upload-checksum"))
        return await append(upload, request, db, settings, *given)
    raise HTTPException(405)


@dataclass
class Receiving:
    """One body on its way into the file of an upload."""

    db: Database
    settings: Settings
    file: FileIO
    row: Upload

    def __post_init__(self) -> None:
        self.received = self.saved = self.row.received
        self.expires_at = self.row.expires_at

    async def all_of(self, request: Request, expected: tuple[str, bytes] | None) -> None:
        """Raises ChecksumMismatch (460), PayloadTooLarge, RequestTimeout, InsufficientStorage."""
        self.file.truncate(self.received)
        self.file.seek(self.received)
        digest = hashlib.new(expected[0], usedforsecurity=False) if expected else None
        try:
            async for piece in stream(request, self.row.bytes - self.received, self.settings):
                await run_in_threadpool(uploads.write, self.file, piece, self.settings)
                self.received += len(piece)
                if digest is not None:
                    digest.update(piece)
                elif self.received - self.saved >= SAVED_EVERY:
                    await run_in_threadpool(self.save)
            if digest is not None and expected is not None and digest.digest() != expected[1]:
                raise ChecksumMismatch(
                    "checksum_mismatch", "the body is not what its checksum says", hint="send it again"
                )
            await run_in_threadpool(self.save)
        finally:
            if digest is None and self.received > self.saved:
                self.save()  # not in a thread: this request may have been cancelled

    def save(self) -> None:
        self.expires_at = uploads.save(self.db, self.settings, self.file, self.row.id, self.received)
        self.saved = self.received


def _find(db: Database, upload: str) -> Upload:
    with db.read() as session:
        return uploads.find(session, upload)


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise BadRequest("header_invalid", f"{name} must be a number of bytes", hint="see tus.io", param=name)
    return int(text)


def _checksum(header: str) -> tuple[str, bytes] | None:
    """(algorithm, digest), or None without the header."""
    if not header:
        return None
    algorithm, _, encoded = header.partition(" ")
    try:
        digest = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if algorithm not in ALGORITHMS or len(digest) != hashlib.new(algorithm, usedforsecurity=False).digest_size:
        raise BadRequest(
            "checksum_invalid",
            "Upload-Checksum is an algorithm and a digest in base64",
            hint=f"the algorithms are {', '.join(ALGORITHMS)}",
            param="Upload-Checksum",
        )
    return algorithm, digest


def _date(seconds: float) -> str:
    return formatdate(seconds, usegmt=True)
