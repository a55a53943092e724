"""Folders and labels.csv become labels and splits, or a reason."""

import pytest

from service.datasets.layout import Layout, arrange
from service.datasets.zip_format import Entry
from service.errors import InvalidValue


def entry(name: str) -> Entry:
    return Entry(name, 0, 0, 1, 1, 0, 0)


def laid(*names: str, table: str = "") -> Layout:
    return arrange([entry(name) for name in names], lambda found: table.encode("utf-8-sig"))


def rows(layout: Layout) -> list[tuple[str, str | None]]:
    return sorted({(*c.labels, c.split) for c in layout.candidates}, key=str)


def refusal(*names: str, table: str = "") -> str:
    with pytest.raises(InvalidValue) as caught:
        laid(*names, table=table)
    return caught.value.code


PAIRS = [f"{label}/{i}.png" for label in ("猫", "dog") for i in range(2)]


@pytest.mark.parametrize("wrap", ["", "flowers/", "a/b/c/"])
def test_class_folders_in_any_wrapping_are_classes(wrap: str) -> None:
    assert rows(laid(*[wrap + name for name in PAIRS])) == [("dog", None), ("猫", None)]


def test_split_folders_may_lie_above_or_below_the_classes() -> None:
    above = [f"x/{split}/{name}" for split in ("Train", "valid", "testing") for name in PAIRS]
    below = [f"{name.split('/')[0]}/{split}/{name[-5:]}" for split in ("training", "val", "test") for name in PAIRS]
    expected = {(label, split) for label in ("dog", "猫") for split in ("train", "val", "test")}
    assert set(rows(laid(*above))) == set(rows(laid(*below))) == expected


def test_junk_is_skipped_with_a_reason() -> None:
    layout = laid(*PAIRS, "__MACOSX/dog/._0.png", "dog/Thumbs.db", "readme.txt", "loose.png")
    assert [s["code"] for s in layout.skipped] == ["junk", "junk", "not_a_picture", "no_label"]


@pytest.mark.parametrize("title", ["", "path,label\n"])
def test_labels_csv_gives_labels(title: str) -> None:
    table = title + "p/1.png,A\np/2.png,A\n3.png,B\n4.png,B\n"
    layout = laid("w/labels.csv", "w/p/1.png", "w/p/2.png", "w/3.png", "w/4.png", table=table)
    assert rows(layout) == [("A", None), ("B", None)]
    assert not layout.skipped


def test_what_cannot_be_trained_on_is_refused() -> None:
    assert refusal("readme.txt") == "no_pictures"
    assert refusal("1.png", "2.png") == "no_labels"
    assert refusal("a/1.png", "a/2.png") == "too_few_classes"
    assert refusal("a/1.png", "a/2.png", "b/1.png") == "class_too_small"
    assert refusal("labels.csv", "1.png", table="1.png,a;") == "labels_csv_invalid"
    assert refusal("labels.csv", "1.png", "2.png", table="1.png,a\n2.png,") == "labels_csv_invalid"
    for table in ("2.png,a", "1.png", "1.png,", "1.png,a\n1.png,b"):
        assert refusal("labels.csv", "1.png", table=table) == "labels_csv_invalid"
