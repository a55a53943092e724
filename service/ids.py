"""Ids with a typed prefix, and the clock. Ids sort by creation time: 48 bits of milliseconds, then 80 random bits."""

import os
import time
from datetime import UTC, datetime
from typing import overload

AT_ONCE = 100
_unused: list[str] = []  # chance for ids to come: asking the system for each lets other threads in each time
os.register_at_fork(after_in_child=_unused.clear)


def new_id(prefix: str) -> str:
    """`job_0193a7c0e1f2…`: 12 hex digits of time, 20 of chance."""
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{_chance()}"


def _chance() -> str:
    while True:
        try:
            return _unused.pop()
        except IndexError:
            _unused.extend(os.urandom(10).hex() for _ in range(AT_ONCE))


def now() -> float:
    """UTC seconds since the epoch."""
    return time.time()


@overload
def rfc3339(seconds: float) -> str: ...
@overload
def rfc3339(seconds: float | None) -> str | None: ...
def rfc3339(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
