"""Folders and labels.csv become labels and splits, or a reason."""

import tracemalloc
from pathlib import Path

import pytest

from service.datasets.importer import read_layout
from service.datasets.layout import LEAST_BYTES, MAX_LINE, Layout, arrange, table_bytes
from service.datasets.zip_format import Entry
from service.errors import InvalidValue
from service.settings import Settings
from tests import hostile


def entry(name: str) -> Entry:
    return Entry(name, 0, 0, 1, 1, 0, 0)


def laid(*names: str, table: str = "") -> Layout:
    return arrange([entry(name) for name in names], lambda found: table.encode("utf-8-sig"))


def rows(layout: Layout) -> list[tuple[str, str | None]]:
    return sorted({(*c.labels, c.split) for c in layout.candidates}, key=str)


def refused(*names: str, table: str = "") -> InvalidValue:
    with pytest.raises(InvalidValue) as caught:
        laid(*names, table=table)
    return caught.value


def refusal(*names: str, table: str = "") -> str:
    return refused(*names, table=table).code


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


FOUR = "p/1.png,A\np/2.png,A\n3.png,B\n4.png,B\n"
FOUR_NAMES = ("labels.csv", "p/1.png", "p/2.png", "3.png", "4.png")


def test_rows_are_read_one_by_one_and_the_first_bad_one_ends_it() -> None:
    many = "a,b\n" * (LEAST_BYTES // 4)  # rows of all of them would take fifty megabytes
    for table in (many, FOUR + many, FOUR * 20_000):
        tracemalloc.start()
        found = refused(*FOUR_NAMES, table=table)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.code == "labels_csv_invalid"
        assert found.detail.startswith("Line 1 " if table is many else "Line 5 ")
        assert peak < 4 * len(table) + 10**6


def test_a_labels_csv_is_as_long_as_its_pictures_need(tmp_path: Path) -> None:
    pictures = {f"{k}.png": hostile.picture(seed=k) for k in range(2)}
    for size, code in ((LEAST_BYTES, "labels_csv_invalid"), (60 * 2**20, "entry_too_large")):
        table = {"labels.csv": b"x,y\n" * (size // 4)}
        path = hostile.make_zip(tmp_path / "a.zip", pictures | table)
        with pytest.raises(InvalidValue) as caught:
            read_layout(path, Settings(data=tmp_path))
        assert caught.value.code == code
    assert table_bytes(50_000) == 50_000_000


def test_lines_of_a_labels_csv_are_numbered_as_an_editor_does() -> None:
    windows = "Path,Label\r\n\r\n" + FOUR.replace("\n", "\r\n") + '"p/1.png","A"\r\n'
    assert refused(*FOUR_NAMES, table=windows).detail.startswith("Line 7 of labels.csv names 'p/1.png' a second time")
    quoted = FOUR.replace("3.png,B", '"3.png","B"')
    assert rows(laid(*FOUR_NAMES, table=quoted)) == [("A", None), ("B", None)]
    for third in ('3.png,"B', "3.png," + "B" * MAX_LINE, '3.png,"' + "B" * 140_000 + '"'):
        found = refused(*FOUR_NAMES, table=FOUR.replace("3.png,B", third))
        assert (found.code, found.detail[:7]) == ("labels_csv_invalid", "Line 3 ")


def test_bytes_that_are_not_utf_8_are_named_by_their_line() -> None:
    names = [f"{k}.png" for k in range(3000)]
    entries = [entry(name) for name in ("labels.csv", *names)]
    good = "".join(f"{name},A\n" for name in names).encode()
    for body, number in ((b"0.png,\xff\n" + good, 1), (good + b"\xff", 3001)):
        with pytest.raises(InvalidValue, match=f"Line {number} of labels.csv is not UTF-8"):
            arrange(entries, lambda found, body=body: body)  # type: ignore[misc]


UNSEEN = ("A\0", "A\x1b[31m", "A\u202eB", "A\u2066B", "A\u200bB", "A\u00adB", "A\u2028B", "\ufeffA", "A\x85B")


@pytest.mark.parametrize("name", [*UNSEEN, "B" * 201, "é" * 201])
def test_what_no_class_can_be_called_is_refused_with_its_line_or_its_folder(name: str) -> None:
    found = refused("labels.csv", *PAIRS, table=f"{PAIRS[0]},good\n{PAIRS[1]},bad;{name}\n")
    assert found.code == "labels_csv_invalid"
    assert found.detail.startswith("Line 2 of labels.csv has the label ")
    found = refused(*PAIRS, f"{name}/1.png", f"{name}/2.png")
    assert found.code == "invalid_label"
    assert "No class can be named as the folder" in found.detail
    assert len(found.detail) < 400
    assert laid(*PAIRS, f"{name}/readme.txt").candidates  # what labels no picture may have any name


@pytest.mark.parametrize(
    "name", ["a b", '6" nail', "=SUM(A1)", "нет", "می\u200cخواهم", "👩\u200d🔬", "é" * 200, "a\u00a0b"]
)
def test_ordinary_names_of_all_scripts_are_classes(name: str) -> None:
    assert rows(laid(f"{name}/1.png", f"{name}/2.png", *PAIRS))
    quote = name.replace('"', '""')
    table = "".join(f'{path},"{quote}"\n' for path in PAIRS[:2]) + "".join(f"{path},B\n" for path in PAIRS[2:])
    assert {label for label, _ in rows(laid("labels.csv", *PAIRS, table=table))} == {name, "B"}
