"""Bodies that stream: to a file for archives, to memory for pictures. Limits are counted, never believed."""

import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.types import Message, Receive

from service import disk
from service.api.closing import Closing, shutting_down
from service.api.multipart import PartStart, parts
from service.errors import (
    BadRequest,
    Overloaded,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
)
from service.ids import new_id
from service.settings import Settings

BINARY = {"type": "string", "format": "binary"}  # a body of bytes, as JSON Schema has it
ZIP_TYPES = ("application/zip", "application/x-zip-compressed", "application/octet-stream")


@dataclass(frozen=True)
class Received:
    path: Path
    sha256: str
    bytes: int


def zip_body(otherwise: type[BaseModel] | None = None) -> dict[str, Any]:
    """The documentation of what `archive` takes, or of that and JSON."""
    kinds = {
        "application/zip": BINARY,
        "multipart/form-data": {"type": "object", "properties": {"file": BINARY}, "required": ["file"]},
        **({"application/json": otherwise.model_json_schema()} if otherwise else {}),
    }
    return {"requestBody": {"required": True, "content": {name: {"schema": schema} for name, schema in kinds.items()}}}


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def archive(request: Request, settings: Settings) -> Received:
    """Streams a zip (raw, or the multipart field `file`) to a file under `<data>/uploads`, fsynced.

    The caller owns the file and removes or renames it. Raises 400, 408, 413, 415, 503 or 507, leaving nothing behind.
    """
    settings.uploads.mkdir(parents=True, exist_ok=True)
    target = settings.uploads / new_id("up")
    try:
        return await _to_file(_archive_bytes(request, settings), target, settings)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


async def small(request: Request, settings: Settings) -> bytes:
    """A JSON body on a route that otherwise streams."""
    return b"".join([piece async for piece in stream(request, settings.max_body_bytes, settings)])


class Room:
    """The bytes of pictures that all requests of a process together may have in memory. Used by one event loop."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0

    def check(self, size: int) -> None:
        """Raises Overloaded when so many more are too many. A request that has the room for itself is never refused."""
        if self._taken and self._taken + size > self._limit:
            raise Overloaded("overloaded", "the pictures of other requests fill the memory", hint="try again shortly")

    def take(self, request: Request, size: int) -> None:
        """Until the request's `give_back`. Raises Overloaded, likewise."""
        mine = getattr(request.state, "body_bytes", 0)
        if self._taken > mine:
            self.check(size)
        self._taken += size
        request.state.body_bytes = mine + size

    def give_back(self, state: dict[str, Any]) -> None:
        self._taken -= state.pop("body_bytes", 0)


async def held(request: Request, settings: Settings) -> AsyncIterator[bytes]:
    """The body of a request for answers, in pieces that stay in memory. As `stream`, and raises Overloaded."""
    room: Room = request.app.state.room
    declared = request.headers.get("content-length", "0")
    room.check(int(declared) if declared.isdigit() else 0)
    async for piece in stream(request, settings.max_classify_bytes, settings):
        room.take(request, len(piece))
        yield piece


async def stream(request: Request, limit: int, settings: Settings) -> AsyncIterator[bytes]:
    """The body in pieces. Raises PayloadTooLarge beyond `limit` bytes, RequestTimeout when the client falls silent,
    Overloaded when the service is to end meanwhile, and BadRequest when the client goes away."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise too_large(limit)
    received = 0
    more = True
    while more:
        message = await arriving(request.receive, settings.receive_timeout_seconds, request.app.state.closing)
        if message["type"] == "http.disconnect":
            raise BadRequest("client_disconnected", "the client went away before the end of the body")
        piece, more = message.get("body", b""), message.get("more_body", False)
        received += len(piece)
        if received > limit:
            raise too_large(limit)
        if piece:
            yield piece


async def arriving(receive: Receive, seconds: float, closing: Closing) -> Message:
    """The next piece of a body. Raises RequestTimeout when it takes longer, Overloaded when the service is to end."""
    try:
        return await closing.within(seconds, receive())
    except TimeoutError as error:
        if closing.begun:
            raise shutting_down() from error
        raise RequestTimeout("body_stalled", "the client stopped sending", headers={"Connection": "close"}) from error


async def _archive_bytes(request: Request, settings: Settings) -> AsyncIterator[bytes]:
    kind = media_type(request)
    body = stream(request, settings.max_upload_bytes, settings)
    if kind in ZIP_TYPES:
        async for piece in body:
            yield piece
    elif kind == "multipart/form-data":
        async for piece in _field(request.headers["content-type"], body):
            yield piece
    else:
        raise UnsupportedMediaType(
            "unsupported_media_type",
            f"a zip archive is needed, not {kind or 'a body without Content-Type'}",
            hint="send application/zip, or multipart/form-data with a part named `file`",
        )


async def _field(content_type: str, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    wanted, found = False, 0
    async for event in parts(content_type, body):
        if isinstance(event, PartStart):
            wanted = event.field == "file"
            found += wanted
        elif wanted and found == 1:
            yield event
    if found != 1:
        raise BadRequest("file_field", f"{found} parts named `file`; exactly one is needed", hint="-F file=@photos.zip")


async def _to_file(pieces: AsyncIterator[bytes], target: Path, settings: Settings) -> Received:
    digest, written = hashlib.sha256(), 0
    with disk.written("this upload"), target.open("wb") as file:
        async for piece in pieces:
            disk.check(settings, "this upload")
            digest.update(piece)
            written += len(piece)
            await run_in_threadpool(file.write, piece)
        file.flush()
        await run_in_threadpool(os.fsync, file.fileno())
    return Received(target, digest.hexdigest(), written)


def too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        "body_too_large",
        f"the body is larger than {limit} bytes",
        hint="split it, or raise the limit (GET /v1/info names it)",
        headers={"Connection": "close"},
    )
