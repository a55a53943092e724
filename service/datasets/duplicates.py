"""Pictures that are there twice: the same file, the same pixels, or nearly the same pixels.

Near-duplicates are found by difference hashes at most two bits apart and confirmed on 16 x 16 grey thumbnails.
Mirrored, turned and cropped copies are not found. It knows no labels and no files; rows are those of the packed pixels.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

MAX_BITS = 2  # of 64
MAX_DIFFERENCE = 2.0  # mean, of 255
MAX_RELATIVE = 0.06  # of the thumbnail's standard deviation: in a pale picture two levels are much
THUMBNAIL, CHUNK = 16, 1024
_BANDS = (0, 21, 42, 64)  # two differing bits leave one of three bands equal

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Group:
    kind: Literal["exact", "near"]
    rows: list[int]  # ascending, at least two


def find(shas: Sequence[str], pixel_shas: Sequence[str], dhashes: Sequence[str], pixels: Array) -> list[Group]:
    """Groups of rows, each row in one at most; `pixels` (N, S, S, 3) may be a memory map and is read once."""
    leader = _exact(shas, pixel_shas)
    firsts = np.unique(leader)
    near = _near([dhashes[int(row)] for row in firsts], _thumbnails(pixels, firsts))
    groups: dict[int, list[int]] = defaultdict(list)
    position = {int(row): k for k, row in enumerate(firsts)}
    for row, first in enumerate(leader):
        groups[int(firsts[near[position[int(first)]]])].append(row)
    return [
        Group("exact" if len({int(leader[row]) for row in rows}) == 1 else "near", rows)
        for rows in groups.values()
        if len(rows) > 1
    ]


def group_ids(count: int, groups: Sequence[Group]) -> list[int]:
    """For each row the first row of its group, or itself."""
    ids = list(range(count))
    for group in groups:
        for row in group.rows:
            ids[row] = group.rows[0]
    return ids


def leaks(groups: Sequence[Group], splits: Sequence[str | None]) -> list[Group]:
    """Groups with rows in more than one split."""
    return [group for group in groups if len({splits[row] for row in group.rows}) > 1]


def _exact(shas: Sequence[str], pixel_shas: Sequence[str]) -> npt.NDArray[np.int64]:
    """For each row the first with the same file or the same pixels (the same file has the same pixels)."""
    first: dict[str, int] = {}
    return np.array(
        [first.setdefault(pixel or sha, k) for k, (sha, pixel) in enumerate(zip(shas, pixel_shas, strict=True))],
        np.int64,
    )


def _thumbnails(pixels: Array, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """(len(rows), 256) grey means."""
    side = pixels.shape[1]
    edges = np.arange(THUMBNAIL) * side // THUMBNAIL
    area = np.outer(*[np.diff(np.append(edges, side))] * 2).astype(np.float32)
    small = np.empty((len(rows), THUMBNAIL, THUMBNAIL), np.float32)
    for start in range(0, len(rows), CHUNK):
        taken = np.asarray(pixels[rows[start : start + CHUNK]])
        grey = (taken[..., 0].astype(np.float32) + taken[..., 1] + taken[..., 2]) / 3  # 4 times as fast as mean(axis=3)
        summed = np.add.reduceat(np.add.reduceat(grey, edges, axis=1), edges, axis=2)
        small[start : start + CHUNK] = summed / area
    return small.reshape(len(rows), -1)


def _near(dhashes: Sequence[str], thumbs: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """For each picture the one that leads its group. Only leaders are compared with, so likeness makes no chains."""
    hashes = np.array([int(value, 16) for value in dhashes], np.uint64)
    means, limits = thumbs.mean(axis=1), np.minimum(MAX_DIFFERENCE, MAX_RELATIVE * thumbs.std(axis=1))
    leader = np.arange(len(hashes))
    for bucket in _buckets(hashes, means):
        ends = np.searchsorted(means[bucket], means[bucket] + MAX_DIFFERENCE, side="right")
        for at, row in enumerate(bucket[:-1]):
            if leader[row] != row:
                continue
            others = bucket[at + 1 : ends[at]]
            others = others[leader[others] == others]
            others = others[np.bitwise_count(hashes[others] ^ hashes[row]) <= MAX_BITS]
            difference = np.abs(thumbs[others] - thumbs[row]).mean(axis=1)
            leader[others[difference < np.minimum(limits[others], limits[row])]] = row
    return _followed(leader)


def _followed(leader: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """A leader found in one band may follow another in the next."""
    while not np.array_equal(leader, leader[leader]):
        leader = leader[leader]
    return leader


def _buckets(hashes: npt.NDArray[np.uint64], means: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.int64]]:
    """Rows that agree in one band, by rising mean."""
    for low, high in itertools.pairwise(_BANDS):
        band = (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.lexsort((means, band))
        cuts = np.flatnonzero(np.diff(band[order])) + 1
        yield from (bucket for bucket in np.split(order, cuts) if len(bucket) > 1)
