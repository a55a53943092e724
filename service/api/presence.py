"""Work that somebody waits for: it ends with the client, and at the latest when its time is over."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request

from service.errors import BadRequest, Overloaded

T = TypeVar("T")


async def waited_for(request: Request, work: Awaitable[T], seconds: float) -> T:
    """What `work` returns; it is cancelled when the client goes away (BadRequest) or after `seconds` (Overloaded).

    The request's body must have been read, for whatever comes afterwards is taken for its end.
    """
    mine = asyncio.current_task()
    assert mine is not None
    watching = asyncio.create_task(_until_gone(request, mine))
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError as error:
        raise Overloaded(
            "timed_out", f"there was no answer within {seconds:g} seconds", hint="ask for fewer pictures at a time"
        ) from error
    except asyncio.CancelledError as error:
        if not watching.done():
            raise
        mine.uncancel()
        raise BadRequest("client_disconnected", "the client went away before its answer") from error
    finally:
        watching.cancel()


async def _until_gone(request: Request, waiting: asyncio.Task[object]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    waiting.cancel()
