"""How pictures come and go: as the raw body, multipart parts or base64 in JSON, with limits; out, as an attachment."""

import base64
import binascii
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import Field, ValidationError
from starlette.concurrency import run_in_threadpool

from service import images
from service.api.bodies import held, media_type
from service.api.multipart import PartStart, parts
from service.api.problems import from_validation
from service.errors import InvalidValue, PayloadTooLarge, ServiceError
from service.layers import Strict
from service.settings import Settings


class Base64Pictures(Strict):
    images: Annotated[list[str], Field(min_length=1)]


LONG_JSON_BYTES = 64 * 1024  # read in a thread: others need not wait for it


@dataclass(frozen=True)
class Upload:
    filename: str | None
    data: bytes | ServiceError  # why it is no picture, where that is known before anything is decoded


async def uploads(request: Request, settings: Settings, field: str = "file") -> list[Upload]:
    """One picture or more, from parts named `field` where the body is multipart. Raises 400, 408, 413 or 422."""
    kind = media_type(request)
    body = held(request, settings)
    if kind == "multipart/form-data":
        found = await _file_parts(request.headers["content-type"], body, field, settings)
        if not found:
            raise InvalidValue("no_picture", f"no part is named `{field}`", hint=f"curl -F {field}=@a.jpg", param=field)
    elif kind == "application/json":
        text = await joined(body)
        check = partial(_from_json, text, settings)
        found = await run_in_threadpool(check) if len(text) > LONG_JSON_BYTES else check()
    else:
        found = [Upload(None, await joined(body))]
    if len(found) == 1 and not found[0].data:
        raise _empty()
    return [upload if upload.data else Upload(upload.filename, _empty()) for upload in found]


def sha256_of(found: list[Upload]) -> str:
    """Of the pictures and their names: the same however multipart bodies are cut."""
    digest = hashlib.sha256()
    for one in found:
        data = one.data.code.encode() if isinstance(one.data, ServiceError) else one.data
        digest.update(f"{one.filename}\n{len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def _empty() -> InvalidValue:
    return InvalidValue("empty_picture", "there is no picture in it", hint="curl --data-binary @photo.jpg")


async def joined(body: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in body])


def check_count(count: int, settings: Settings) -> None:
    if count > settings.max_classify_images:
        raise PayloadTooLarge(
            "too_many_images", f"more than {settings.max_classify_images} pictures", hint="send several requests"
        )


def from_base64(text: str, param: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidValue("invalid_base64", str(error), hint="base64 without a data: prefix", param=param) from error


def invalid_json(error: ValidationError, body: bytes) -> Exception:
    """What is wrong with a body that pydantic read itself."""
    located: list[Any] = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
    unreadable = located[0]["type"] == "json_invalid"
    return from_validation(located, None if unreadable else json.loads(body))


def attachment(data: bytes) -> Response:
    """A picture as it was sent, typed by its first bytes, that no browser runs."""
    kind = f"image/{(images.signature(data) or 'tiff').lower()}"
    return Response(data, media_type=kind, headers={"Content-Disposition": "attachment"})


async def _file_parts(content_type: str, body: AsyncIterator[bytes], field: str, settings: Settings) -> list[Upload]:
    names: list[str | None] = []
    bodies: list[bytearray] = []
    wanted = False
    async for event in parts(content_type, body):
        if isinstance(event, PartStart):
            wanted = event.field == field
            if wanted:
                names.append(event.filename)
                bodies.append(bytearray())
                check_count(len(names), settings)
        elif wanted:
            bodies[-1] += event
    return [Upload(name, bytes(data)) for name, data in zip(names, bodies, strict=True)]


def _from_json(body: bytes, settings: Settings) -> list[Upload]:
    try:
        posted = Base64Pictures.model_validate_json(body)
    except ValidationError as error:
        raise invalid_json(error, body) from error
    check_count(len(posted.images), settings)
    return [Upload(None, _picture(text, f"/images/{place}")) for place, text in enumerate(posted.images)]


def _picture(text: str, param: str) -> bytes | ServiceError:
    try:
        return from_base64(text, param)
    except InvalidValue as error:
        return error
