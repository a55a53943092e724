"""The split is a pure function of content and seed, and keeps look-alikes together."""

import random
from collections import Counter

from service.datasets.split import Row, assign


def rows(count: int, split: str | None = None, label: str = "a", start: int = 0) -> list[Row]:
    return [Row(f"{label}{k}", f"{label}/{k}.png", label, hash((label, k)), split) for k in range(start, start + count)]


def test_every_class_is_split_70_15_15() -> None:
    everything = rows(100) + rows(40, label="b")
    splits = assign(everything)
    assert Counter(splits[:100]) == {"train": 70, "val": 15, "test": 15}
    assert Counter(splits[100:]) == {"train": 28, "val": 6, "test": 6}


def test_small_classes_reach_as_far_as_they_can() -> None:
    assert sorted(assign(rows(2))) == ["test", "train"]
    assert sorted(assign(rows(3))) == ["test", "train", "val"]


def test_the_order_of_the_archive_does_not_matter_and_the_seed_does() -> None:
    everything = rows(50)
    shuffled = random.Random(1).sample(everything, 50)
    assert dict(zip(everything, assign(everything), strict=True)) == dict(zip(shuffled, assign(shuffled), strict=True))
    assert assign(everything, 0) != assign(everything, 1)


def test_groups_stay_together() -> None:
    everything = [Row(str(k), f"a/{k}.png", "a", k // 4) for k in range(80)]
    splits = assign(everything)
    assert all(len(set(splits[k : k + 4])) == 1 for k in range(0, 80, 4))
    assert set(splits) == {"train", "val", "test"}


def test_what_is_given_stays_and_what_is_missing_comes_from_train() -> None:
    splits = assign(rows(100, "train") + rows(10, "test", start=100))
    assert splits[100:] == ["test"] * 10
    assert Counter(splits[:100]) == {"train": 85, "val": 15}
    assert Counter(assign(rows(100, "train"))) == {"train": 70, "val": 15, "test": 15}
