"""Gives shadows their share: one thread that scores again what was answered already, when nobody waits for the engine.

What it is offered is dropped, and counted, rather than kept waiting. Counts go to the database every few seconds, so a
process that is killed loses those of the last seconds, and no answer ever waits for them. It knows no HTTP.
"""

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service import artifacts, images, shadows
from service.db import Database
from service.db.tables import ModelVersion
from service.decoding import Decoding
from service.inference import choice
from service.inference.engine import Engine
from service.inference.programs import Stored
from service.inference.score import chances, labels
from service.labels import joined
from service.settings import Settings
from service.shadows import Counts

log = logging.getLogger("fovea")

FLUSH_SECONDS = 2.0
MOST_PICTURES = 64
MOST_BYTES = 64 * 1024**2


@dataclass(frozen=True)
class Offer:
    """Pictures that were answered: as they were sent, as the model saw them, and its logits (N, K)."""

    shadow_id: str
    candidate: ModelVersion
    version: ModelVersion
    pictures: Sequence[bytes | images.Pixels]
    pixels: NDArray[np.uint8]  # (N, S, S, 3)
    logits: NDArray[np.float32]

    @property
    def bytes(self) -> int:
        return sum(len(one) if isinstance(one, bytes) else one.nbytes for one in self.pictures) + self.pixels.nbytes


class Mirror:
    def __init__(self, settings: Settings, db: Database, engine: Engine, decoding: Decoding) -> None:
        self._settings = settings
        self._db = db
        self._engine = engine
        self._decoding = decoding
        self._offers: deque[Offer] = deque()
        self._changed = threading.Condition()
        self._counts: dict[str, Counts] = defaultdict(Counts)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    def offer(self, one: Offer) -> None:
        """Never waits. What does not fit beside what is waiting is dropped."""
        with self._changed:
            pictures = sum(len(other.pictures) for other in self._offers) + len(one.pictures)
            size = sum(other.bytes for other in self._offers) + one.bytes
            if pictures > MOST_PICTURES or size > MOST_BYTES:
                self._counts[one.shadow_id].dropped += len(one.pictures)
            else:
                self._offers.append(one)
            self._changed.notify()

    def close(self) -> None:
        """Writes what was counted; offers that wait are dropped."""
        with self._changed:
            self._closing = True
            for one in self._offers:
                self._counts[one.shadow_id].dropped += len(one.pictures)
            self._offers.clear()
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        flushed_at = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._offers or self._closing, FLUSH_SECONDS if self._counts else None)
                one = self._offers.popleft() if self._offers else None
            if one is not None:
                self._score(one)
            if one is None or self._closing or time.monotonic() > flushed_at + FLUSH_SECONDS:
                self._flush()
                flushed_at = time.monotonic()
            if self._closing:
                return

    def _score(self, one: Offer) -> None:
        try:
            seen = self._seen(one)
        except Exception:
            log.warning("shadow %s could not score", one.shadow_id, exc_info=True)
            seen = Counts(failed=len(one.pictures))
        with self._changed:
            _merge(self._counts[one.shadow_id], seen)

    def _seen(self, one: Offer) -> Counts:
        def read() -> Stored:
            with self._db.read() as session:
                return artifacts.program(session, one.candidate, choice.pick(one.candidate.card, self._settings))

        scoring = self._engine.submit_if_idle(one.candidate.id, read, self._pixels(one))
        if scoring is None:
            return Counts(dropped=len(one.pictures))
        counts = Counts()
        first, second = _said(one.logits, one.version), _said(scoring.result().outputs.logits, one.candidate)
        for (label, chance), (candidate, candidate_chance) in zip(first, second, strict=True):
            counts.see(label, chance, candidate, candidate_chance)
        return counts

    def _pixels(self, one: Offer) -> NDArray[np.uint8]:
        size = one.candidate.card["image_size"]
        if one.pixels.shape[1] == size:
            return one.pixels
        most, room_for = self._settings.max_image_pixels, self._decoding.room_for
        decoded = [images.from_any(picture, size, max_pixels=most, room_for=room_for) for picture in one.pictures]
        return np.stack([picture.pixels for picture in decoded])

    def _flush(self) -> None:
        with self._changed:
            counted, self._counts = self._counts, defaultdict(Counts)
        if not counted:
            return
        try:
            with self._db.write(durable=False) as session:
                shadows.add(session, counted)
        except Exception:
            log.warning("the counts of shadows could not be written", exc_info=True)
            with self._changed:
                for shadow_id, counts in counted.items():
                    _merge(self._counts[shadow_id], counts)


def _merge(counts: Counts, more: Counts) -> None:
    counts.n += more.n
    counts.agreed += more.agreed
    counts.dropped += more.dropped
    counts.failed += more.failed
    counts.difference += more.difference
    counts.pairs.update(more.pairs)


def _said(logits: NDArray[np.float32], version: ModelVersion) -> list[tuple[str, float]]:
    """The labels of each row, as one text, and its greatest calibrated probability."""
    return [(joined(labels(row, version.card)), float(row.max())) for row in chances(logits, version.card)]
