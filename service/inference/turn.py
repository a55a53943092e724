"""Pictures for quick networks, scored on the event loop: those of one turn of it together.

Handing a picture to another thread and its answer back takes as long as such a network does, and lets both threads wait
for the interpreter.
"""

import asyncio
from collections.abc import Sequence

from service.inference.engine import Engine, Pixels, Scored

Answer = asyncio.Future[Scored | None]


class Turn:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._asked: dict[str, list[tuple[Pixels, Answer]]] = {}  # by model version, since the turn began

    async def score(self, version_id: str, pixels: Pixels) -> Scored | None:
        """Of (n, S, S, 3); None where the engine's queue is the way: a network that is not quick, or others wait."""
        if not self._engine.is_quick(version_id):
            return None
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._end)  # behind the other requests of this turn
        answer: Answer = loop.create_future()
        self._asked.setdefault(version_id, []).append((pixels, answer))
        return await answer

    def _end(self) -> None:
        asked, self._asked = self._asked, {}
        for version_id, requests in asked.items():
            waiting = [(pixels, answer) for pixels, answer in requests if not answer.done()]  # a client may be gone
            try:
                scored = self._engine.at_once(version_id, [pixels for pixels, _ in waiting]) if waiting else []
            except Exception as error:  # noqa: BLE001 - whatever the engine raises belongs to the requests
                for _, answer in waiting:
                    answer.set_exception(error)
            else:
                told: Sequence[Scored | None] = scored or [None] * len(waiting)
                for (_, answer), one in zip(waiting, told, strict=True):
                    answer.set_result(one)
