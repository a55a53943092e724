"""From pictures to what a model version says of them: the one way, whichever protocol asked."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, Request
from sqlalchemy import select
from sqlalchemy.orm import Session

from service import artifacts, images, observed, shadows
from service.api import results
from service.api.presence import waited_for
from service.api.remembered import Remembered
from service.api.results import Wanted
from service.db import Database
from service.db.tables import Model, ModelVersion, Shadow
from service.decoding import Decoding
from service.errors import PayloadTooLarge, ServiceError
from service.inference import choice
from service.inference.engine import Engine, Scored, merged
from service.inference.programs import Stored
from service.inference.turn import Turn
from service.mirror import Mirror, Offer
from service.settings import Settings

Picture = bytes | images.Pixels | ServiceError
"""An encoded picture, (H, W, 3) RGB pixels, or why neither arrived."""

Decoded = images.Decoded | ServiceError

SMALL_BYTES, SMALL_PIXELS = 16 * 1024, 128 * 128  # decoded where it arrived: sooner done than handed to a thread
AT_ONCE_BYTES = 64 * 1024  # pictures that a thread decodes in a row, and hands to the engine together
SLICE_SECONDS = 0.05  # of decoding for one request, before those of others have their turn


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

    def observe(self, seconds: float) -> None:
        refused = sum(isinstance(picture, ServiceError) for picture in self.pictures)
        waited = (self.scored.queue_ms, self.scored.model_ms) if self.scored else None
        observed.answered(len(self.pictures), refused, seconds, self.decode_ms, waited)

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
    def __init__(
        self,
        settings: Settings,
        db: Database,
        remembered: Remembered,
        engine: Engine,
        mirror: Mirror,
        decoding: Decoding,
    ) -> None:
        self._settings = settings
        self._db = db
        self._remembered = remembered
        self._engine = engine
        self._turn = Turn(engine)
        self._mirror = mirror
        self._decoding = decoding
        self._decoders = ThreadPoolExecutor(settings.engine_threads, "decode")

    def close(self) -> None:
        self._decoders.shutdown(cancel_futures=True)

    def warm(self) -> None:
        """Loads the newest model version, if there is one, while nobody waits for it."""
        with self._db.read() as session:
            newest = session.scalar(select(ModelVersion).order_by(ModelVersion.created_at.desc()).limit(1))
        if newest is not None:
            self._engine.warm(newest.id, self._reader(newest))

    async def find(self, ref: str) -> Target:
        """Raises NotFound, and Overloaded when there is no room for one picture more."""
        target = await self._remembered.get(("target", ref), lambda session: _find(session, ref))
        self._engine.check_room(target.version.id)
        if target.shadow is None or random.random() < target.shadow.share:
            return target
        return Target(target.model, target.version)

    async def ask(self, request: Request, target: Target, pictures: Sequence[Picture]) -> Answered:
        """Decodes beside the engine, which scores what could be decoded. Raises the reason of a single bad picture.

        Raises Overloaded at once when too much is waiting, or when it took too long; ends when the client goes away.
        """
        began = time.perf_counter()
        with self._engine.places(target.version.id, len(pictures)):
            answered = await waited_for(request, self._answer(target.version, pictures), self._settings.answer_seconds)
        answered.observe(time.perf_counter() - began)
        if target.shadow is not None and answered.scored is not None:
            asyncio.get_running_loop().call_soon(self._offer, target, pictures, answered)  # once the answer has left
        return answered

    async def _answer(self, version: ModelVersion, pictures: Sequence[Picture]) -> Answered:
        groups = list(_groups(pictures))
        if len(groups) == 1:
            parts = [await self._part(version, groups[0])]
            if len(pictures) == 1 and isinstance(parts[0].pictures[0], ServiceError):
                raise parts[0].pictures[0]
        else:
            decoding = asyncio.Semaphore(2 * self._settings.engine_threads)  # the others of the request stand behind
            parts = await asyncio.gather(*(self._part(version, group, decoding) for group in groups))
        scored = [part.scored for part in parts if part.scored is not None]
        decoded = [picture for part in parts for picture in part.pictures]
        return Answered(decoded, merged(scored) if scored else None, max(part.decode_ms for part in parts))

    async def _part(
        self, version: ModelVersion, pictures: Sequence[Picture], decoding: asyncio.Semaphore | None = None
    ) -> Answered:
        """Decoded in a row, and given to the engine together."""
        started = time.perf_counter()
        size = version.card["image_size"]
        decoded = self._decode_small(pictures[0], size) if len(pictures) == 1 else None
        if decoded is None:
            async with decoding or nullcontext():
                decoded = await self._decode_all(pictures, size)
        decode_ms = (time.perf_counter() - started) * 1000
        good = [picture.pixels for picture in decoded if isinstance(picture, images.Decoded)]
        if not good:
            return Answered(decoded, None, decode_ms)

        pixels = good[0][np.newaxis] if len(good) == 1 else np.stack(good)
        scored = await self._turn.score(version.id, pixels) if len(pixels) == 1 else None
        if scored is None:
            scored = await asyncio.wrap_future(self._engine.submit(version.id, self._reader(version), pixels))
        return Answered(decoded, scored, decode_ms)

    def _reader(self, version: ModelVersion) -> Callable[[], Stored]:
        def read() -> Stored:
            with self._db.read() as session:
                return artifacts.program(session, version, choice.pick(version.card, self._settings))

        return read

    def _decode_small(self, picture: Picture, size: int) -> list[Decoded] | None:
        """None for a picture that may take long."""
        if not isinstance(picture, bytes) or len(picture) > SMALL_BYTES or not images.is_plain(picture):
            return None
        found = self._decode(picture, size, SMALL_PIXELS)
        return None if isinstance(found, ServiceError) else [found]

    async def _decode_all(self, pictures: Sequence[Picture], size: int) -> list[Decoded]:
        """In slices, so that a request of dear pictures delays no other by more than one, and ends with its client."""
        loop, decoded = asyncio.get_running_loop(), list[Decoded]()
        while len(decoded) < len(pictures):
            rest = pictures[len(decoded) :]
            decoded += await loop.run_in_executor(self._decoders, self._decode_some, rest, size)
        return decoded

    def _decode_some(self, pictures: Sequence[Picture], size: int) -> list[Decoded]:
        """The first of them, and those that fit into a slice with it."""
        ending, decoded = time.perf_counter() + SLICE_SECONDS, list[Decoded]()
        for picture in pictures:
            decoded.append(self._decode(picture, size, self._settings.max_image_pixels, self._decoding.room_for))
            if time.perf_counter() > ending:
                break
        return decoded

    def _decode(self, picture: Picture, size: int, max_pixels: int, room_for: images.RoomFor | None = None) -> Decoded:
        if isinstance(picture, ServiceError):
            return picture
        try:
            limit = self._settings.max_image_bytes
            if isinstance(picture, bytes) and len(picture) > limit:
                raise PayloadTooLarge("image_too_large", f"a picture may have {limit} bytes")
            return images.from_any(picture, size, max_pixels=max_pixels, room_for=room_for)
        except ServiceError as error:
            return error

    def _offer(self, target: Target, pictures: Sequence[Picture], answered: Answered) -> None:
        assert target.shadow is not None
        assert target.candidate is not None
        assert answered.scored is not None
        both = zip(pictures, answered.pictures, strict=True)
        good = [
            (sent, seen.pixels)
            for sent, seen in both
            if isinstance(seen, images.Decoded) and not isinstance(sent, ServiceError)
        ]
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


def _find(session: Session, ref: str) -> Target:
    model, version = artifacts.find_version(session, ref)
    alias = artifacts.alias_in(ref)
    shadow = shadows.current(session, model, alias) if alias is not None else None
    if shadow is None or shadow.against_id != version.id:
        return Target(model, version)
    return Target(model, version, shadow, session.get_one(ModelVersion, shadow.candidate_id))


def _groups(pictures: Sequence[Picture]) -> Iterator[list[Picture]]:
    """In order, each of about AT_ONCE_BYTES."""
    group: list[Picture] = []
    size = 0
    for picture in pictures:
        group.append(picture)
        size += _bytes(picture)
        if size >= AT_ONCE_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _bytes(picture: Picture) -> int:
    if isinstance(picture, ServiceError):
        return 0
    return len(picture) if isinstance(picture, bytes) else picture.nbytes


async def _answering(request: Request) -> Answering:
    found = request.app.state.answering
    assert isinstance(found, Answering)
    return found


AnsweringDep = Annotated[Answering, Depends(_answering)]
