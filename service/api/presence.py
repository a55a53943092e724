"""Work that somebody waits for: it ends with the client, and at the latest when its time is over."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request

from service.errors import BadRequest, Overloaded, ServiceError

T = TypeVar("T")

SOON = 0.05  # seconds in which most work is done: only what takes longer is worth a task that watches over it


async def waited_for(request: Request, work: Awaitable[T], seconds: float) -> T:
    """What `work` returns; it is cancelled when the client goes away (BadRequest) or after `seconds` (Overloaded).

    The request's body must have been read, for whatever comes afterwards is taken for its end.
    """
    loop, mine = asyncio.get_running_loop(), asyncio.current_task()
    assert mine is not None
    watching: list[asyncio.Task[ServiceError]] = []

    def watch() -> None:
        watching.append(loop.create_task(_watch(request, mine, began, seconds)))

    began = loop.time()
    later = loop.call_later(min(SOON, seconds), watch)
    try:
        return await work
    except asyncio.CancelledError:
        if not watching or not watching[0].done():
            raise
        mine.uncancel()
        raise watching[0].result() from None
    finally:
        later.cancel()
        for task in watching:
            task.cancel()


async def _watch(request: Request, waiting: "asyncio.Task[object]", began: float, seconds: float) -> ServiceError:
    """Cancels the task that waits when it need wait no more, and says why."""
    try:
        async with asyncio.timeout_at(began + seconds):
            while (await request.receive())["type"] != "http.disconnect":
                pass
        why: ServiceError = BadRequest("client_disconnected", "the client went away before its answer")
    except TimeoutError:
        late = f"there was no answer within {seconds:g} seconds"
        why = Overloaded("timed_out", late, hint="ask for fewer pictures at a time")
    waiting.cancel()
    return why
