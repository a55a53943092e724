"""From names to labels: which entries are pictures, of which class, in which split.

Understood are class/picture, split/class/picture, class/split/picture, labels.csv (path,label, where `;` parts several
labels), each inside any number of wrapping folders. It reads names and labels.csv only, never a picture, and moves
nothing between splits.
"""

import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from service.datasets.archive import PICTURES, is_junk
from service.datasets.zip_format import Entry, quoted
from service.errors import InvalidValue
from service.labels import SEPARATOR, name_fault

LABELS_FILE = "labels.csv"
LEAST_BYTES, BYTES_EACH = 1024**2, 1000  # of labels.csv: always allowed, and for each entry of the archive
MAX_LINE = 1 << 18  # characters of a line; a field has at most half as many, as `csv` wants it
MIN_CLASSES, MIN_PICTURES = 2, 2
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_PATH_TITLES = frozenset({"path", "file", "filename", "file_name", "image", "picture"})

Parts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A picture to decode; `path` is its whole name in the archive."""

    entry: Entry
    path: str
    labels: tuple[str, ...]
    split: str | None


@dataclass(frozen=True)
class Layout:
    candidates: list[Candidate]
    skipped: list[dict[str, str]]  # path, code: junk, not_a_picture, no_label
    several_labels: bool = False  # may a picture have several labels, or none?


def table_bytes(entries: int) -> int:
    """The largest labels.csv of an archive with so many entries: a path and its labels take a hundred bytes or two."""
    return max(LEAST_BYTES, BYTES_EACH * entries)


def arrange(entries: Sequence[Entry], archive_reader: Callable[[Entry], bytes]) -> Layout:
    """`archive_reader` returns the bytes of labels.csv."""
    pictures = [entry for entry in entries if _kind(entry) == "picture"]
    if not pictures:
        raise InvalidValue(
            "no_pictures", "The archive holds no pictures.", hint="Zip one folder of pictures for each class."
        )
    table = _find_table(entries, pictures)
    candidates = _from_table(table, pictures, archive_reader(table)) if table else _from_folders(pictures)
    check_classes([label for candidate in candidates for label in candidate.labels])
    known = {candidate.path for candidate in candidates} | ({table.name} if table else set())
    skipped = [_skip(entry) for entry in entries if entry.name not in known]
    return Layout(candidates, skipped, any(len(candidate.labels) != 1 for candidate in candidates))


def check_classes(labels: Sequence[str]) -> None:
    """At least two classes of at least two pictures; the import asks again once broken pictures are out."""
    counts = Counter(labels)
    if len(counts) < MIN_CLASSES:
        found = f"one class, '{next(iter(counts))}'" if counts else "none"
        raise InvalidValue(
            "too_few_classes",
            f"A classifier needs at least {MIN_CLASSES} classes; there is {found}.",
            hint="Zip one folder of pictures for each class.",
        )
    small = sorted(label for label, count in counts.items() if count < MIN_PICTURES)
    if small:
        raise InvalidValue(
            "class_too_small",
            f"Every class needs at least {MIN_PICTURES} pictures; too few are in: {_some(small)}.",
            hint="Add pictures to these classes or leave them out.",
        )


def _kind(entry: Entry) -> str:
    if is_junk(entry.name):
        return "junk"
    return "picture" if entry.suffix in PICTURES else "not_a_picture"


def _skip(entry: Entry) -> dict[str, str]:
    kind = _kind(entry)
    return {"path": entry.name, "code": "no_label" if kind == "picture" else kind}


def _some(names: Sequence[str]) -> str:
    return ", ".join(f"'{name[:100]}'" for name in names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")


def _parts(entry: Entry) -> Parts:
    return tuple(unicodedata.normalize("NFC", entry.name).split("/"))


# Folders


def _from_folders(pictures: Sequence[Entry]) -> list[Candidate]:
    paths = _unwrapped([_parts(entry) for entry in pictures])
    inside = [parts for parts in paths if len(parts) >= 2]
    place = _split_place(inside)
    if not inside or (place == 0 and all(len(parts) < 3 for parts in inside)):
        raise InvalidValue(
            "no_labels",
            "The pictures lie in no class folders.",
            hint=f"Put each class in a folder of its own, or add a {LABELS_FILE} with the columns path,label.",
        )
    candidates = []
    for entry, parts in zip(pictures, paths, strict=True):
        if len(parts) >= (2 if place is None else 3):
            label, split = _label(parts, place)
            _check_folder(label)
            candidates.append(Candidate(entry, entry.name, (label,), split))
    return candidates


def _check_folder(name: str) -> None:
    if (why := name_fault(name)) is not None:
        raise InvalidValue(
            "invalid_label", f"No class can be named as the folder {quoted(name)}: it {why}.", hint="Rename the folder."
        )


def _unwrapped(paths: list[Parts]) -> list[Parts]:
    """Without the folders that every picture shares, as long as a folder is left for the class."""
    while all(len(parts) >= 2 for parts in paths) and len({parts[0] for parts in paths}) == 1:
        if paths[0][0].casefold() in SPLITS or not any(len(parts) >= 3 for parts in paths):
            break
        paths = [parts[1:] for parts in paths]
    return paths


def _split_place(paths: Sequence[Parts]) -> int | None:
    """Which part of the path names the split, if one does throughout."""
    if paths and all(parts[0].casefold() in SPLITS for parts in paths):
        return 0
    if paths and all(len(parts) >= 3 and parts[1].casefold() in SPLITS for parts in paths):
        return 1
    return None


def _label(parts: Parts, place: int | None) -> tuple[str, str | None]:
    if place is None:
        return parts[0], None
    return parts[1 - place], SPLITS[parts[place].casefold()]


# labels.csv


def _find_table(entries: Sequence[Entry], pictures: Sequence[Entry]) -> Entry | None:
    """The labels.csv in a folder that holds every picture."""
    for entry in entries:
        folder, slash, name = entry.name.rpartition("/")
        named = name.casefold() == LABELS_FILE and not is_junk(entry.name)
        prefix = folder + slash
        if named and all(picture.name.startswith(prefix) for picture in pictures):
            return entry
    return None


def _from_table(table: Entry, pictures: Sequence[Entry], data: bytes) -> list[Candidate]:
    folder = table.name[: -len(LABELS_FILE)]
    by_path = {"/".join(_parts(entry)): entry for entry in pictures}
    found: dict[str, Candidate] = {}
    for number, row in _rows(data):
        path, labels, split = _fields(row, number)
        entry = by_path.get(unicodedata.normalize("NFC", folder + path))
        if entry is None:
            raise _invalid(number, f"names {quoted(path)}, which is no picture in the archive")
        if entry.name in found:
            raise _invalid(number, f"names {quoted(path)} a second time")
        found[entry.name] = Candidate(entry, entry.name, labels, split)
    if not any(len(candidate.labels) > 1 for candidate in found.values()):
        _check_labelled(found)
    return list(found.values())


def _check_labelled(found: dict[str, Candidate]) -> None:
    """Only among pictures of several labels may one have none."""
    for path, candidate in found.items():
        if not candidate.labels:
            raise InvalidValue(
                "labels_csv_invalid",
                f"{LABELS_FILE} gives {quoted(path)} no label.",
                hint="Give it one, or leave its line out; no label is allowed where other pictures have several.",
            )


def _rows(data: bytes) -> Iterator[tuple[int, list[str]]]:
    """The lines that say something, with their numbers. One at a time, so that the first bad one ends it: rows of short
    lines take thirty times the memory of the file."""
    text = io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline="")
    first = True
    for number, line in enumerate(_lines(text, data), 1):
        row = _row(line, number)
        if any(field.strip() for field in row):
            if not (first and _is_title(row)):
                yield number, row
            first = False


def _lines(text: io.TextIOWrapper, data: bytes) -> Iterator[str]:
    """Of at most MAX_LINE characters and one more, which is for the reader to refuse."""
    try:
        while line := text.readline(MAX_LINE + 1):
            yield line
    except UnicodeDecodeError as error:
        raise _invalid(_undecodable(data), "is not UTF-8") from error


def _undecodable(data: bytes) -> int:
    """The line with the first bytes that are not UTF-8; the reader tells only where in a piece of the file they are."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return data[: error.start].count(b"\n") + 1
    raise AssertionError("these bytes are UTF-8")


def _row(line: str, number: int) -> list[str]:
    """Its fields. Each line is read by itself: neither a path nor a label goes over several."""
    if len(line) > MAX_LINE:
        raise _invalid(number, f"has more than {MAX_LINE} characters")
    try:
        row = next(csv.reader([line]))
    except csv.Error as error:
        raise _invalid(number, f"is not CSV ({error})") from error
    if row and row[-1].endswith(("\n", "\r")):
        raise _invalid(number, "opens a quote and does not close it")
    return row


def _is_title(row: list[str]) -> bool:
    return len(row) >= 2 and row[0].strip().casefold() in _PATH_TITLES


def _fields(row: list[str], number: int) -> tuple[str, tuple[str, ...], str | None]:
    if len(row) not in (2, 3):
        raise _invalid(number, f"has {len(row)} columns, not path,label or path,label,split")
    path, label, split = (field.strip() for field in (*row, "")[:3])
    names = [unicodedata.normalize("NFC", name.strip()) for name in label.split(SEPARATOR)] if label else []
    if not path or not all(names) or (split and split.casefold() not in SPLITS):
        raise _invalid(number, "has an empty path or label, or a split other than train, val and test")
    for name in names:
        if (why := name_fault(name)) is not None:
            raise _invalid(number, f"has the label {quoted(name)}, which {why}")
    return path.removeprefix("./"), tuple(sorted(set(names))), SPLITS[split.casefold()] if split else None


def _invalid(number: int, why: str) -> InvalidValue:
    hint = "Write one line per picture: its path as in the archive, a comma, its label; in UTF-8."
    return InvalidValue("labels_csv_invalid", f"Line {number} of {LABELS_FILE} {why}.", hint=hint)
