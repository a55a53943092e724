"""How large the next batch is, for engines of which the time of a batch is known."""

import pytest

from service.inference.pace import ENOUGH, Pace


def learned(seconds: dict[int, float]) -> Pace:
    pace = Pace()
    for pictures, took in seconds.items():
        for _ in range(ENOUGH):
            pace.ran(pictures, took)
    return pace


@pytest.mark.parametrize(
    ("seconds", "batch"),
    [
        ({size: 0.001 + 0.0001 * size for size in (1, 2, 4, 8, 16, 32, 64)}, 64),  # the larger, the better
        ({size: 0.010 * size for size in (1, 2, 4, 8, 16)}, 8),  # 16 would take longer than 100 ms
        ({1: 0.001, 2: 0.002, 4: 0.003, 8: 0.004, 16: 0.006, 32: 0.020, 64: 0.040}, 16),  # 32 does not fit the cache
        ({1: 0.5, 2: 1.0}, 1),  # one picture is the least, however long it takes
    ],
)
def test_a_batch_is_as_large_as_pays_within_its_time(seconds: dict[int, float], batch: int) -> None:
    assert learned(seconds).batch(64, 0.1) == batch


def test_sizes_are_tried_from_one_to_the_next() -> None:
    pace = Pace()
    tried = []
    for _ in range(ENOUGH * 7):
        tried.append(pace.batch(50, 0.1))
        pace.ran(tried[-1], 0.001)
    assert sorted(set(tried)) == [1, 2, 4, 8, 16, 32, 50]
    assert pace.batch(50, 0.1) == 50
    assert pace.per_picture() == pytest.approx(0.001 / 50)


def test_an_interruption_is_passed_over() -> None:
    pace = learned({1: 0.001, 2: 0.0015})
    pace.ran(2, 3.0)
    assert pace.batch(2, 0.1) == 2
