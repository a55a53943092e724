"""From pictures to what a model version says of them: the one way, whichever protocol asked."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import BackgroundTasks, Depends, Request
from starlette.concurrency import run_in_threadpool

from service import artifacts, images, shadows
from service.api import results
from service.api.context import DatabaseDep, SettingsDep
from service.api.results import Wanted
from service.db.tables import Model, ModelVersion, Shadow
from service.errors import PayloadTooLarge, ServiceError
from service.inference import choice
from service.inference.engine import Engine, Scored
from service.inference.programs import Stored
from service.mirror import Mirror, Offer

Picture = bytes | images.Pixels
"""An encoded picture, or (H, W, 3) RGB pixels."""

Decoded = images.Decoded | ServiceError


@dataclass(frozen=True)
class Target:
    """Who answers, and whose shadow watches."""

    model: Model
    version: ModelVersion
    shadow: Shadow | None = None
    candidate: ModelVersion | None = None


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
    def __init__(self, request: Request, db: DatabaseDep, settings: SettingsDep, afterwards: BackgroundTasks) -> None:
        engine, mirror = request.app.state.engine, request.app.state.mirror
        assert isinstance(engine, Engine)
        assert isinstance(mirror, Mirror)
        self._engine = engine
        self._mirror = mirror
        self._afterwards = afterwards
        self._db = db
        self._settings = settings

    async def find(self, ref: str) -> Target:
        """Raises NotFound."""
        return await run_in_threadpool(self._find, ref)

    def _find(self, ref: str) -> Target:
        with self._db.read() as session:
            model, version = artifacts.find_version(session, ref)
            alias = artifacts.alias_in(ref)
            shadow = shadows.current(session, model, alias) if alias is not None else None
            if shadow is None or shadow.against_id != version.id or random.random() >= shadow.share:
                return Target(model, version)
            return Target(model, version, shadow, session.get_one(ModelVersion, shadow.candidate_id))

    async def ask(self, target: Target, pictures: Sequence[Picture]) -> Answered:
        """Decodes beside the engine, which scores what could be decoded. Raises the reason of a single bad picture."""
        version = target.version
        started = time.perf_counter()
        size = version.card["image_size"]
        decoded = await asyncio.gather(*(run_in_threadpool(self._decode, picture, size) for picture in pictures))
        if len(decoded) == 1 and isinstance(decoded[0], ServiceError):
            raise decoded[0]
        decode_ms = (time.perf_counter() - started) * 1000
        answered = Answered(decoded, await self._score(version, decoded), decode_ms)
        if target.shadow is not None and answered.scored is not None:
            self._afterwards.add_task(self._offer, target, pictures, answered)
        return answered

    async def _offer(self, target: Target, pictures: Sequence[Picture], answered: Answered) -> None:
        """Runs once the answer has left."""
        assert target.shadow is not None
        assert target.candidate is not None
        assert answered.scored is not None
        both = zip(pictures, answered.pictures, strict=True)
        good = [(sent, seen.pixels) for sent, seen in both if isinstance(seen, images.Decoded)]
        self._mirror.offer(
            Offer(
                shadow_id=target.shadow.id,
                candidate=target.candidate,
                version=target.version,
                pictures=[sent for sent, _ in good],
                pixels=np.stack([seen for _, seen in good]),
                logits=answered.scored.outputs.logits,
            )
        )

    def _decode(self, picture: Picture, size: int) -> Decoded:
        try:
            limit = self._settings.max_image_bytes
            if isinstance(picture, bytes) and len(picture) > limit:
                raise PayloadTooLarge("image_too_large", f"a picture may have {limit} bytes")
            return images.from_any(picture, size, max_pixels=self._settings.max_image_pixels)
        except ServiceError as error:
            return error

    async def _score(self, version: ModelVersion, decoded: Sequence[Decoded]) -> Scored | None:
        good = [picture.pixels for picture in decoded if isinstance(picture, images.Decoded)]
        if not good:
            return None

        def read() -> Stored:
            with self._db.read() as session:
                return artifacts.program(session, version, choice.pick(version.card, self._settings))

        return await asyncio.wrap_future(self._engine.submit(version.id, read, np.stack(good)))


AnsweringDep = Annotated[Answering, Depends()]
