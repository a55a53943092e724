"""How pictures come and go: as the raw body, multipart parts or base64 in JSON, with limits; out, as an attachment."""

import base64
import binascii
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import Field, ValidationError

from service import images
from service.api.bodies import media_type, stream
from service.api.multipart import PartStart, parts
from service.api.problems import from_validation
from service.errors import InvalidValue, PayloadTooLarge
from service.layers import Strict
from service.settings import Settings


class Base64Pictures(Strict):
    images: Annotated[list[str], Field(min_length=1)]


@dataclass(frozen=True)
class Upload:
    filename: str | None
    data: bytes


async def uploads(request: Request, settings: Settings, field: str = "file") -> list[Upload]:
    """One picture or more, from parts named `field` where the body is multipart. Raises 400, 408, 413 or 422."""
    kind = media_type(request)
    body = stream(request, settings.max_classify_bytes, settings)
    if kind == "multipart/form-data":
        found = await _file_parts(request.headers["content-type"], body, field, settings)
    elif kind == "application/json":
        found = _from_json(await joined(body))
    else:
        found = [Upload(None, await joined(body))]
    if not found or not all(upload.data for upload in found):
        raise InvalidValue("empty_picture", "there is no picture in the body", hint="curl --data-binary @photo.jpg")
    check_count(len(found), settings)
    return found


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


def _from_json(body: bytes) -> list[Upload]:
    try:
        posted = Base64Pictures.model_validate_json(body)
    except ValidationError as error:
        raise invalid_json(error, body) from error
    return [Upload(None, from_base64(text, "/images")) for text in posted.images]
