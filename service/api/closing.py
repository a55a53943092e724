"""That the service is about to end: requests that wait answer with what they know, and bodies come soon or not at all.

Requests that compute go on: whoever stops the service waits for them.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from service.errors import Overloaded

T = TypeVar("T")

GRACE_SECONDS = 1.0  # for bodies that are on their way
RETRY_SECONDS = 5


class Closing:
    """Used by one event loop."""

    def __init__(self) -> None:
        self._ends: float | None = None
        self._limits: set[asyncio.Timeout] = set()

    @property
    def begun(self) -> bool:
        return self._ends is not None

    def begin(self) -> None:
        self._ends = asyncio.get_running_loop().time() + GRACE_SECONDS
        for limit in self._limits:
            if not limit.expired() and (when := limit.when()) is not None:
                limit.reschedule(min(when, self._ends))

    async def within(self, seconds: float, work: Awaitable[T]) -> T:
        """What `work` returns. Raises TimeoutError when that takes longer, or too long for the end of the service."""
        when = asyncio.get_running_loop().time() + seconds
        async with asyncio.timeout_at(when if self._ends is None else min(when, self._ends)) as limit:
            self._limits.add(limit)
            try:
                return await work
            finally:
                self._limits.discard(limit)


def shutting_down() -> Overloaded:
    hint = "send it again: another process may answer already"
    return Overloaded("shutting_down", "the service is about to end", hint=hint, retry_after_seconds=RETRY_SECONDS)
