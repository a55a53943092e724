"""How much memory the pictures that a process decodes at the same time may take. It decodes nothing itself."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

TRIMMED_BYTES = 32 * 1024**2  # glibc keeps what is freed, apart for each thread: six had 600 MB for one picture of 100


class Decoding:
    """Lets decoders wait until what they need fits beside what others have. One alone may always have what it needs."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._taken = 0
        self._changed = threading.Condition()
        self._next = threading.Lock()  # held by who waits: nobody is passed by smaller ones for ever

    @contextmanager
    def room_for(self, size_bytes: int) -> Iterator[None]:
        """As `images.decode` wants it."""
        with self._next, self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + size_bytes <= self._limit)
            self._taken += size_bytes
        try:
            yield
        finally:
            if size_bytes > TRIMMED_BYTES:
                _trim()
            with self._changed:
                self._taken -= size_bytes
                self._changed.notify()


def _trim() -> None:
    """Gives freed memory back to the system, where the C library can."""
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
