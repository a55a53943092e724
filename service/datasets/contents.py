"""What a version holds, from its rows alone: classes, splits and the digest. The same content gives the same digest."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from service.labels import separate

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Contents:
    classes: list[dict[str, Any]]  # name, count; a picture of several labels counts for each
    splits: dict[str, int]
    digest: str


def contents(rows: Iterable[tuple[str, str, str]], *, several_labels: bool) -> Contents:
    """`rows` are (SHA-256, label, split) in any order; the digest is the SHA-256 of their sorted JSON."""
    ordered = sorted(rows)
    counts = Counter(name for _, label, _ in ordered for name in separate(label, several=several_labels))
    splits = Counter(split for _, _, split in ordered)
    return Contents(
        classes=[{"name": name, "count": counts[name]} for name in sorted(counts)],
        splits={name: splits[name] for name in SPLITS},
        digest=hashlib.sha256(json.dumps(ordered, ensure_ascii=False).encode()).hexdigest(),
    )
