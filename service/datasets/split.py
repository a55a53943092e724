"""Who is in train, val and test: seeded, stratified by class, near-duplicates kept together, given splits respected.

The draw is a pure function of (seed, image, path), so the order of the archive does not matter. It knows no files.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

SHARE = Fraction(15, 100)  # of a class, for val and for test each


@dataclass(frozen=True, slots=True)
class Row:
    image: str  # sha256 of the file
    path: str
    label: str
    group: int  # rows of one group look the same and stay together
    split: str | None = None  # as given by the archive


def assign(rows: Sequence[Row], seed: int = 0) -> list[str]:
    """The split of each row. What is given stays; val and test are taken from train where they are missing."""
    given = {row.split for row in rows if row.split}
    if "train" not in given and all(row.split for row in rows):
        given = set()  # all in val or test: nothing could be trained, so nothing counts as given
    splits = [(row.split if given else None) or "train" for row in rows]
    missing = [split for split in ("test", "val") if split not in given]
    pool = [i for i, split in enumerate(splits) if split == "train"]
    if missing:
        for i, split in _draw(rows, pool, missing, seed).items():
            splits[i] = split
    return splits


def _draw(rows: Sequence[Row], pool: Sequence[int], missing: Sequence[str], seed: int) -> dict[int, str]:
    """Rows of the pool that leave train."""
    taken: dict[int, str] = {}
    for groups in _by_class(rows, pool, seed).values():
        wanted = _wanted(sum(map(len, groups)), missing)
        for group, split in _fill(groups, wanted):
            taken.update(dict.fromkeys(group, split))
    return taken


def _by_class(rows: Sequence[Row], pool: Sequence[int], seed: int) -> dict[str, list[list[int]]]:
    """For each class its groups in drawn order; a group of several classes goes with its commonest."""
    members: dict[int, list[int]] = defaultdict(list)
    ranks = {i: _rank(rows[i], seed) for i in pool}
    for i in sorted(pool, key=lambda i: ranks[i]):
        members[rows[i].group].append(i)
    classes: dict[str, list[list[int]]] = {}
    for label in sorted({rows[i].label for i in pool}):
        classes[label] = []
    for group in members.values():
        counts = Counter(rows[i].label for i in group)
        classes[min(counts, key=lambda label: (-counts[label], label))].append(group)
    return classes


def _rank(row: Row, seed: int) -> bytes:
    return hashlib.sha256(f"split:{seed}:{row.image}:{row.path}".encode()).digest()


def _wanted(count: int, missing: Sequence[str]) -> dict[str, int]:
    """Pictures for each missing split: 15 %, at least one while one stays in train."""
    wanted: dict[str, int] = {}
    for split in missing:
        spare = count - sum(wanted.values()) - 1
        wanted[split] = min(max(1, round(SHARE * count)), max(spare, 0))
    return wanted


def _fill(groups: Sequence[list[int]], wanted: dict[str, int]) -> list[tuple[list[int], str]]:
    """Groups in drawn order to the splits they fit; a split left empty gets the smallest group, train keeps one."""
    left, rest = dict(wanted), list[list[int]]()
    filled: list[tuple[list[int], str]] = []
    for group in groups:
        split = next((split for split, room in left.items() if 0 < len(group) <= room), None)
        if split is None or len(filled) + 1 == len(groups):
            rest.append(group)
        else:
            left[split] -= len(group)
            filled.append((group, split))
    for split, count in wanted.items():
        if count and left[split] == count and len(rest) > 1:
            smallest = min(rest, key=len)
            rest.remove(smallest)
            filled.append((smallest, split))
    return filled
