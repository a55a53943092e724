"""`POST /v1/models/{ref}/classify`: pictures in, labels with probabilities out. Nothing is kept."""

import asyncio
import base64
import binascii
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from pydantic import Field, ValidationError
from starlette.concurrency import run_in_threadpool

from service import artifacts, images
from service.api import results, shapes
from service.api.bodies import media_type, stream
from service.api.context import DatabaseDep, SettingsDep, require
from service.api.examples import CLASSIFIED, answers
from service.api.multipart import PartStart, parts
from service.api.problems import from_validation
from service.api.results import Wanted, WantedDep
from service.db import Database
from service.db.tables import Model, ModelVersion
from service.errors import InvalidValue, PayloadTooLarge, ServiceError
from service.ids import new_id
from service.inference.engine import Engine, Scored
from service.layers import Strict
from service.settings import Settings

router = APIRouter(prefix="/v1/models", tags=["classify"], dependencies=[Depends(require("predict"))])

BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"images": {"type": "array", "items": {"type": "string", "format": "byte"}}},
                }
            },
        },
    }
}


class Base64Pictures(Strict):
    images: Annotated[list[str], Field(min_length=1)]


@dataclass(frozen=True)
class Upload:
    filename: str | None
    data: bytes


Decoded = images.Decoded | ServiceError


@router.post("/{ref}/classify", openapi_extra=BODY, responses=answers(CLASSIFIED))
async def classify(
    ref: str,
    request: Request,
    db: DatabaseDep,
    settings: SettingsDep,
    wanted: WantedDep,
) -> dict[str, Any]:
    """Classify one picture (raw bytes), or several (multipart `file` parts, or base64 in JSON).

    One bad picture among several gets its own `error`; a single bad one is a 415 or 422.
    `?coverage=0.95` adds the set of classes that holds the right one for at least that share of pictures like the
    training's, on average. `ood.p_value` is how often one of those would look as strange to the network as this one;
    `decision` is abstain for the strangest `?false_alarm=0.05` of them. `?explain=cam` shows where the label was seen.
    """
    started = time.perf_counter()
    model, version = await run_in_threadpool(_find, db, ref)
    results.check(version.card, wanted)
    uploads = await _uploads(request, settings)
    decode_started = time.perf_counter()
    size = version.card["image_size"]
    decoded = await asyncio.gather(*(run_in_threadpool(_decode, upload.data, size, settings) for upload in uploads))
    if len(decoded) == 1 and isinstance(decoded[0], ServiceError):
        raise decoded[0]
    decode_ms = (time.perf_counter() - decode_started) * 1000
    scored = await _score(request.app.state.engine, db, version, decoded)
    return {
        "id": new_id("pred"),
        "model": shapes.model_block(model, version),
        "results": _results(uploads, decoded, scored, version.card, wanted),
        "timing_ms": {
            "decode": round(decode_ms, 3),
            "queue": round(scored.queue_ms, 3) if scored else 0.0,
            "model": round(scored.model_ms, 3) if scored else 0.0,
            "total": round((time.perf_counter() - started) * 1000, 3),
        },
    }


def _find(db: Database, ref: str) -> tuple[Model, ModelVersion]:
    with db.read() as session:
        return artifacts.find_version(session, ref)


async def _uploads(request: Request, settings: Settings) -> list[Upload]:
    kind = media_type(request)
    body = stream(request, settings.max_classify_bytes, settings)
    if kind == "multipart/form-data":
        found = await _file_parts(request.headers["content-type"], body, settings)
    elif kind == "application/json":
        found = _from_json(await _join(body))
    else:
        found = [Upload(None, await _join(body))]
    if not found or not all(upload.data for upload in found):
        raise InvalidValue("empty_picture", "there is no picture in the body", hint="curl --data-binary @photo.jpg")
    return _few_enough(found, settings)


async def _file_parts(content_type: str, body: AsyncIterator[bytes], settings: Settings) -> list[Upload]:
    names: list[str | None] = []
    bodies: list[bytearray] = []
    wanted = False
    async for event in parts(content_type, body):
        if isinstance(event, PartStart):
            wanted = event.field == "file"
            if wanted:
                names.append(event.filename)
                bodies.append(bytearray())
                _few_enough(names, settings)
        elif wanted:
            bodies[-1] += event
    return [Upload(name, bytes(data)) for name, data in zip(names, bodies, strict=True)]


def _from_json(body: bytes) -> list[Upload]:
    try:
        posted = Base64Pictures.model_validate_json(body)
        return [Upload(None, base64.b64decode(text, validate=True)) for text in posted.images]
    except ValidationError as error:
        raise from_validation([{**one, "loc": ("body", *one["loc"])} for one in error.errors()], None) from error
    except (binascii.Error, ValueError) as error:
        raise InvalidValue(
            "invalid_base64", str(error), hint="base64 without a data: prefix", param="/images"
        ) from error


async def _join(body: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in body])


def _few_enough(found: list[Any], settings: Settings) -> list[Any]:
    if len(found) > settings.max_classify_images:
        raise PayloadTooLarge(
            "too_many_images", f"more than {settings.max_classify_images} pictures", hint="send several requests"
        )
    return found


def _decode(data: bytes, size: int, settings: Settings) -> Decoded:
    try:
        if len(data) > settings.max_image_bytes:
            raise PayloadTooLarge("image_too_large", f"a picture may have {settings.max_image_bytes} bytes")
        return images.decode(data, size, max_pixels=settings.max_image_pixels)
    except ServiceError as error:
        return error


async def _score(engine: Engine, db: Database, version: ModelVersion, decoded: list[Decoded]) -> Scored | None:
    good = [picture.pixels for picture in decoded if isinstance(picture, images.Decoded)]
    if not good:
        return None

    def read() -> bytes:
        with db.read() as session:
            return artifacts.read_blob(session, version.program_id)

    return await asyncio.wrap_future(engine.submit(version.id, read, np.stack(good)))


def _results(
    uploads: list[Upload], decoded: list[Decoded], scored: Scored | None, card: dict[str, Any], wanted: Wanted
) -> list[dict[str, Any]]:
    rows = iter(results.shape(scored.outputs, card, wanted) if scored else ())
    shown = []
    for upload, picture in zip(uploads, decoded, strict=True):
        if isinstance(picture, ServiceError):
            row, error = results.BLANK, picture.as_dict()
        else:
            row, error = next(rows), None
        shown.append({"filename": upload.filename, **row, "error": error})
    return shown
