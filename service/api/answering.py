"""From pictures to what a model version says of them: the one way, whichever protocol asked."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from service import artifacts, images
from service.api import results
from service.api.context import DatabaseDep, SettingsDep
from service.api.results import Wanted
from service.db.tables import Model, ModelVersion
from service.errors import PayloadTooLarge, ServiceError
from service.inference.engine import Engine, Scored

Picture = bytes | images.Pixels
"""An encoded picture, or (H, W, 3) RGB pixels."""

Decoded = images.Decoded | ServiceError


@dataclass(frozen=True)
class Answered:
    """What became of each picture; `scored` has a row for each that could be decoded, None when none could."""

    pictures: list[Decoded]
    scored: Scored | None
    decode_ms: float

    def results(self, card: dict[str, Any], wanted: Wanted) -> list[dict[str, Any]]:
        """One per picture, in order, with its `error` or null."""
        rows = iter(results.shape(self.scored.outputs, card, wanted) if self.scored else ())
        return [
            {**results.BLANK, "error": picture.as_dict()}
            if isinstance(picture, ServiceError)
            else {**next(rows), "error": None}
            for picture in self.pictures
        ]


class Answering:
    def __init__(self, request: Request, db: DatabaseDep, settings: SettingsDep) -> None:
        engine = request.app.state.engine
        assert isinstance(engine, Engine)
        self._engine = engine
        self._db = db
        self._settings = settings

    async def find(self, ref: str) -> tuple[Model, ModelVersion]:
        """Raises NotFound."""

        def read() -> tuple[Model, ModelVersion]:
            with self._db.read() as session:
                return artifacts.find_version(session, ref)

        return await run_in_threadpool(read)

    async def ask(self, version: ModelVersion, pictures: Sequence[Picture]) -> Answered:
        """Decodes beside the engine, which scores what could be decoded. Raises the reason of a single bad picture."""
        started = time.perf_counter()
        size = version.card["image_size"]
        decoded = await asyncio.gather(*(run_in_threadpool(self._decode, picture, size) for picture in pictures))
        if len(decoded) == 1 and isinstance(decoded[0], ServiceError):
            raise decoded[0]
        decode_ms = (time.perf_counter() - started) * 1000
        return Answered(decoded, await self._score(version, decoded), decode_ms)

    def _decode(self, picture: Picture, size: int) -> Decoded:
        try:
            if not isinstance(picture, bytes):
                return images.from_pixels(picture, size, max_pixels=self._settings.max_image_pixels)
            if len(picture) > self._settings.max_image_bytes:
                limit = self._settings.max_image_bytes
                raise PayloadTooLarge("image_too_large", f"a picture may have {limit} bytes")
            return images.decode(picture, size, max_pixels=self._settings.max_image_pixels)
        except ServiceError as error:
            return error

    async def _score(self, version: ModelVersion, decoded: Sequence[Decoded]) -> Scored | None:
        good = [picture.pixels for picture in decoded if isinstance(picture, images.Decoded)]
        if not good:
            return None

        def read() -> bytes:
            with self._db.read() as session:
                return artifacts.read_blob(session, version.program_id)

        return await asyncio.wrap_future(self._engine.submit(version.id, read, np.stack(good)))


AnsweringDep = Annotated[Answering, Depends()]
