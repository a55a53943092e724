"""One engine thread per process: it takes what is queued, never waits for a batch, and keeps recent models loaded.

Beside it requests only decode and wait. The queue is bounded in pictures; beyond that, Overloaded at once.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import psutil
from numpy.typing import NDArray

from service.errors import Overloaded
from service.inference.programs import Outputs, Program, Stored, joined, load
from service.settings import Settings

LOADED_OVER_STORED = 3  # memory of a loaded program over its stored bytes: weights, graph, buffers of a batch


@dataclass(frozen=True)
class Scored:
    """The program's outputs for the n pictures of one request, and how long it waited and ran, in milliseconds."""

    outputs: Outputs
    queue_ms: float
    model_ms: float


@dataclass
class _Request:
    version_id: str
    read: Callable[[], Stored]
    pixels: NDArray[np.uint8]  # (n, S, S, 3)
    future: Future[Scored] = field(default_factory=Future)
    queued_at: float = field(default_factory=time.perf_counter)


class Engine:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._waiting: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._loaded: OrderedDict[str, tuple[Program, int]] = OrderedDict()
        self._models = threading.Lock()  # around _loaded
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, version_id: str, read: Callable[[], Stored], pixels: NDArray[np.uint8]) -> Future[Scored]:
        """Queues (n, S, S, 3) pixels for a model version. `read` gives its program if it must be loaded."""
        request = _Request(version_id, read, pixels)
        with self._changed:
            waiting = sum(len(other.pixels) for other in self._waiting)
            if waiting and waiting + len(pixels) > self._settings.inference_queue:
                raise Overloaded("overloaded", "too many pictures are waiting", hint="try again shortly")
            self._waiting.append(request)
            self._changed.notify()
        return request.future

    def submit_if_idle(
        self, version_id: str, read: Callable[[], Stored], pixels: NDArray[np.uint8]
    ) -> Future[Scored] | None:
        """As `submit`, for what nobody waits for: None when a request waits. Loads the program in this thread."""
        if not self._is_loaded(version_id):
            self._remember(version_id, *self._load(read))
        request = _Request(version_id, read, pixels)
        with self._changed:
            if self._waiting or self._closing:
                return None
            self._waiting.append(request)
            self._changed.notify()
        return request.future

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._take():
            try:
                self._answer(batch)
            except Exception as error:  # noqa: BLE001 - whatever the engine raises belongs to the requests
                for request in batch:
                    request.future.set_exception(error)

    def _take(self) -> list[_Request]:
        """All that is queued for the model at the head, up to a full batch; waits only when nothing is queued."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting:
                return []
            batch, rest = [self._waiting.popleft()], deque[_Request]()
            room = self._settings.max_batch - len(batch[0].pixels)
            while self._waiting:
                request = self._waiting.popleft()
                fits = request.version_id == batch[0].version_id and len(request.pixels) <= room
                (batch if fits else rest).append(request)
                room -= len(request.pixels) * fits
            self._waiting = rest
            return [request for request in batch if request.future.set_running_or_notify_cancel()] or self._take()

    def _answer(self, batch: list[_Request]) -> None:
        program = self._program(batch[0])
        started = time.perf_counter()
        pixels = batch[0].pixels if len(batch) == 1 else np.concatenate([request.pixels for request in batch])
        most = self._settings.max_batch
        outputs = joined([program.outputs(pixels[start : start + most]) for start in range(0, len(pixels), most)])
        model_ms = (time.perf_counter() - started) * 1000
        start = 0
        for request in batch:
            end = start + len(request.pixels)
            waited_ms = (started - request.queued_at) * 1000
            request.future.set_result(Scored(outputs[start:end], waited_ms, model_ms))
            start = end

    def _program(self, request: _Request) -> Program:
        with self._models:
            if request.version_id in self._loaded:
                self._loaded.move_to_end(request.version_id)
                return self._loaded[request.version_id][0]
        program, size = self._load(request.read)
        self._remember(request.version_id, program, size)
        return program

    def _load(self, read: Callable[[], Stored]) -> tuple[Program, int]:
        stored = read()
        threads = self._settings.inference_threads or psutil.cpu_count() or 1
        return load(stored, self._settings.device, threads), len(stored.data) * LOADED_OVER_STORED

    def _is_loaded(self, version_id: str) -> bool:
        with self._models:
            return version_id in self._loaded

    def _remember(self, version_id: str, program: Program, size: int) -> None:
        """Keeps it, and lets the models longest unused go beyond the limit."""
        with self._models:
            self._loaded[version_id] = (program, size)
            while (
                len(self._loaded) > 1
                and sum(one for _, one in self._loaded.values()) > self._settings.model_memory_bytes
            ):
                self._loaded.popitem(last=False)
