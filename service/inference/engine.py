"""One engine thread per process: it takes what is queued, never waits for a batch, and keeps recent models loaded.
Quick networks are scored in the thread that asks (`at_once`) while it has nothing to do.

Beside it requests only decode and wait, and a model that is not loaded yet is loaded, so that no other waits for it.
Models take turns. What is in hand is bounded in pictures and in expected seconds; beyond that, Overloaded at once.
"""

import math
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.errors import InternalError, Overloaded
from service.inference.pace import Pace
from service.inference.programs import Outputs, Program, Stored, joined, load, rows_fault
from service.settings import Settings

LOADED_OVER_STORED = 3  # memory of a loaded program over its stored bytes: weights, graph, buffers of a batch

Pixels = NDArray[np.uint8]
Read = Callable[[], Stored]


@dataclass(frozen=True)
class Scored:
    """The program's outputs for the n pictures of one request, and how long it waited and ran, in milliseconds."""

    outputs: Outputs
    queue_ms: float
    model_ms: float


def merged(parts: Sequence[Scored]) -> Scored:
    """As of one request, whose pictures went through several batches: the longest wait and run."""
    if len(parts) == 1:
        return parts[0]
    outputs = joined([part.outputs for part in parts])
    return Scored(outputs, max(part.queue_ms for part in parts), max(part.model_ms for part in parts))


@dataclass(eq=False)
class _Request:
    read: Read
    pixels: Pixels  # (n, S, S, 3)
    future: Future[Scored] = field(default_factory=Future)
    queued_at: float = field(default_factory=time.perf_counter)


@dataclass(eq=False)
class _Loaded:
    program: Program
    quick: Program | None  # the same by one thread, where that is enough for a picture
    bytes: int
    pace: Pace = field(default_factory=Pace)


class Engine:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._changed = threading.Condition()  # around all that follows
        self._waiting: OrderedDict[str, deque[_Request]] = OrderedDict()  # by model version, whose turn it is first
        self._in_hand: Counter[str] = Counter()  # pictures between `places` and their answer
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()  # longest unused first
        self._loading: set[str] = set()
        self._running = False  # a program, in whichever thread
        self._closing = False
        self._buffer = np.empty(0, np.uint8)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @contextmanager
    def places(self, version_id: str, pictures: int) -> Iterator[None]:
        """Room for a request of this many pictures, until its answer. Raises Overloaded at once when there is none.

        Each of the models that are asked for may fill its part of the queue, whatever the others do; and when nothing
        is in hand, a request is taken however large it is.
        """
        with self._changed:
            self.check_room(version_id, pictures)
            self._in_hand[version_id] += pictures
        try:
            yield
        finally:
            with self._changed:
                self._in_hand[version_id] -= pictures
                if not self._in_hand[version_id]:
                    del self._in_hand[version_id]

    def check_room(self, version_id: str, pictures: int = 1) -> None:
        """Raises Overloaded when there is no room for so many. Worth asking before their bytes are read."""
        with self._changed:
            in_hand, models = self._in_hand[version_id], len(self._in_hand.keys() | {version_id})
            seconds = in_hand * self._pace(version_id).per_picture() * models
            full = in_hand + pictures > self._settings.inference_queue / models
        if in_hand and (full or seconds > self._settings.queue_seconds):
            raise _overloaded(seconds)

    def submit(self, version_id: str, read: Read, pixels: Pixels) -> Future[Scored]:
        """Queues (n, S, S, 3) pixels for a model version. `read` gives its program's bytes if it must be loaded.

        A future that is cancelled before its turn costs nothing more.
        """
        request = _Request(read, pixels)
        with self._changed:
            self._waiting.setdefault(version_id, deque()).append(request)
            self._load_soon(version_id, read)
            self._changed.notify()
        return request.future

    def is_quick(self, version_id: str) -> bool:
        """Is it loaded, and small enough for `at_once`?"""
        model = self._loaded.get(version_id)
        return model is not None and model.quick is not None

    def at_once(self, version_id: str, parts: Sequence[Pixels]) -> list[Scored] | None:
        """Scores a quick model's (n, S, S, 3) pixels in this thread; None when others are running or waiting."""
        with self._changed:
            model = self._loaded.get(version_id)
            if model is None or model.quick is None or self._running or self._waiting or self._closing:
                return None
            self._running = True
            self._loaded.move_to_end(version_id)
        try:
            return self._scored(model, model.quick, parts, [time.perf_counter()] * len(parts))
        finally:
            self._rest()

    def submit_if_idle(self, version_id: str, read: Read, pixels: Pixels) -> Future[Scored] | None:
        """As `submit`, for what nobody waits for: None when a request waits. Loads the program in this thread."""
        with self._changed:
            loaded = version_id in self._loaded
        if not loaded:
            self._remember(version_id, self._load(read))
        with self._changed:
            if self._waiting or self._closing:
                return None
            return self.submit(version_id, read, pixels)

    def warm(self, version_id: str, read: Read) -> None:
        """Loads a model beside whatever else is done, and with it the engine: seconds that no request need wait for."""
        with self._changed:
            self._load_soon(version_id, read)

    def close(self) -> None:
        """Ends when what can be answered is answered; who waits for a model to be loaded is refused."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        with self._changed:
            for requests in self._waiting.values():
                _fail(requests, Overloaded("closing", "the service is stopping", hint="try again"))

    # --- one batch after the other ---------------------------------------------------------------------------------

    def _run(self) -> None:
        while taken := self._take():
            model, batch = taken
            try:
                self._answer(model, batch)
            except Exception as error:  # noqa: BLE001 - whatever the engine raises belongs to the requests
                for request in batch:
                    request.future.set_exception(error)
            finally:
                self._rest()

    def _rest(self) -> None:
        with self._changed:
            self._running = False
            self._changed.notify()

    def _take(self) -> tuple[_Loaded, list[_Request]] | None:
        """What is queued for the model whose turn it is, up to a batch; waits only when nothing is queued."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._running and (self._next() is not None or self._closing))
                version_id = self._next()
                if version_id is None:
                    return None
                model = self._loaded[version_id]
                self._loaded.move_to_end(version_id)
                batch = self._batch(version_id, model)
                self._running = bool(batch)
            if batch:
                return model, batch

    def _next(self) -> str | None:
        return next((version_id for version_id in self._waiting if version_id in self._loaded), None)

    def _batch(self, version_id: str, model: _Loaded) -> list[_Request]:
        """Takes from the model's queue, and sends the model to the end of the row."""
        requests = self._waiting.pop(version_id)
        room = model.pace.batch(self._settings.max_batch, self._settings.pass_ms / 1000)
        batch: list[_Request] = []
        while requests and (not batch or len(requests[0].pixels) <= room):
            request = requests.popleft()
            if request.future.set_running_or_notify_cancel():
                batch.append(request)
                room -= len(request.pixels)
        if requests:
            self._waiting[version_id] = requests
        return batch

    def _answer(self, model: _Loaded, batch: list[_Request]) -> None:
        parts, queued_at = [request.pixels for request in batch], [request.queued_at for request in batch]
        scored = self._scored(model, model.program, parts, queued_at)
        for request, one in zip(batch, scored, strict=True):
            request.future.set_result(one)

    def _scored(
        self, model: _Loaded, program: Program, parts: Sequence[Pixels], queued_at: Sequence[float]
    ) -> list[Scored]:
        """Of each part, all in one batch or, where they are more than fit into one, several."""
        started = time.perf_counter()
        pixels = parts[0] if len(parts) == 1 else self._joined(parts)
        most = self._settings.max_batch
        pieces = [pixels[start : start + most] for start in range(0, len(pixels), most)]
        outputs = joined([_outputs(program, piece) for piece in pieces])
        seconds = time.perf_counter() - started
        model.pace.ran(min(len(pixels), most), seconds / len(pieces))
        scored, start = [], 0
        for part, since in zip(parts, queued_at, strict=True):
            scored.append(Scored(outputs[start : start + len(part)], (started - since) * 1000, seconds * 1000))
            start += len(part)
        return scored

    def _joined(self, parts: Sequence[Pixels]) -> Pixels:
        """In memory that the next batch uses again: fresh memory costs more than the copy into it."""
        shape = (sum(map(len, parts)), *parts[0].shape[1:])
        size = math.prod(shape)
        if len(self._buffer) < size:
            self._buffer = np.empty(size, np.uint8)
        return np.concatenate(parts, out=self._buffer[:size].reshape(shape))

    # --- models ----------------------------------------------------------------------------------------------------

    def _load_soon(self, version_id: str, read: Read) -> None:
        if version_id not in self._loaded and version_id not in self._loading:
            self._loading.add(version_id)
            threading.Thread(target=self._load_waiting, args=(version_id, read), name="load", daemon=True).start()

    def _load_waiting(self, version_id: str, read: Read) -> None:
        """Loads the program that requests wait for; they get the reason when it cannot be."""
        try:
            self._remember(version_id, self._load(read))
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to the requests
            with self._changed:
                self._loading.discard(version_id)
                requests = self._waiting.pop(version_id, deque())
            _fail(requests, error)

    def _load(self, read: Read) -> _Loaded:
        stored = read()
        quick = load(stored, self._settings.device, 1) if stored.quick else None
        program = load(stored, self._settings.device, self._settings.engine_threads)  # last: torch counts for all
        copies = 1 if quick is None else 2
        return _Loaded(program, quick, copies * len(stored.data) * LOADED_OVER_STORED)

    def _remember(self, version_id: str, model: _Loaded) -> None:
        """Keeps it, and lets the models longest unused go beyond the limit."""
        with self._changed:
            self._loading.discard(version_id)
            self._loaded[version_id] = model
            limit = self._settings.model_memory_bytes
            for unused in [one for one in self._loaded if one != version_id and one not in self._waiting]:
                if sum(one.bytes for one in self._loaded.values()) > limit:
                    del self._loaded[unused]
            self._changed.notify()

    def _pace(self, version_id: str) -> Pace:
        model = self._loaded.get(version_id)
        return model.pace if model else Pace()


def _outputs(program: Program, pixels: Pixels) -> Outputs:
    """Raises InternalError (code `program_rows`) where there is not one row for each picture."""
    found = program.outputs(pixels)
    if (fault := rows_fault(found, len(pixels))) is not None:
        hint = "this model version cannot serve batches; point its aliases at another"
        raise InternalError("program_rows", f"the network does not answer each picture: {fault}", hint=hint)
    return found


def _fail(requests: deque[_Request], error: Exception) -> None:
    for request in requests:
        if request.future.set_running_or_notify_cancel():
            request.future.set_exception(error)


def _overloaded(seconds: float) -> Overloaded:
    again = max(1, math.ceil(seconds / 2))
    return Overloaded(
        "overloaded", "too many pictures are waiting", hint="try again shortly", retry_after_seconds=again
    )
