"""How long an engine takes for a batch, learned from those it ran, and so how large the next should be.

It knows neither programs nor clocks.
"""

from collections import deque
from collections.abc import Iterator
from statistics import median

KEPT = 15  # batches of each size: their median passes over an interruption, and follows a machine that gets busier
ENOUGH = 3  # of a size, to judge it
WORTH = 0.95  # of the best rate: a larger batch that reaches less is not worth its wait
AFRESH = 1000  # batches after which all is measured again


class Pace:
    """Batches by size: the power of two that holds them, 1, 2, 3-4, 5-8, …"""

    def __init__(self) -> None:
        self._each: dict[int, deque[float]] = {}  # seconds of one picture, by size
        self._medians: dict[int, float] = {}
        self._least = 0.0  # of those: other threads ask for it while a batch ends
        self._runs = 0

    def ran(self, pictures: int, seconds: float) -> None:
        self._runs += 1
        if self._runs % AFRESH == 0:
            self._each.clear()
            self._medians.clear()
        size = _size(pictures)
        runs = self._each.setdefault(size, deque(maxlen=KEPT))
        runs.append(seconds / pictures)
        self._medians[size] = median(runs)
        self._least = min(self._medians.values())

    def per_picture(self) -> float:
        """Seconds of a picture at the size where they are least; 0 while nothing was measured."""
        return self._least

    def batch(self, most: int, seconds: float) -> int:
        """Pictures of the next batch, at most `most`: the most that run within `seconds` and are worth their wait.

        A size that was not judged yet is tried, if at the pace of the size before it would run within `seconds`.
        """
        chosen, before = 1, 0.0
        for size in _sizes(most):
            if len(self._each.get(_size(size), ())) < ENOUGH:
                return size if before * size <= seconds else chosen
            before = self._medians[_size(size)]
            if size > 1 and before * size > seconds:
                return chosen
            if before * WORTH <= self._least:
                chosen = size
        return chosen


def _size(pictures: int) -> int:
    return 1 << (pictures - 1).bit_length()


def _sizes(most: int) -> Iterator[int]:
    """1, 2, 4, … and `most`."""
    size = 1
    while size < most:
        yield size
        size *= 2
    yield most
