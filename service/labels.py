"""Several labels of one picture as one text, and back. A single-label version keeps its class names as they are."""

from collections.abc import Iterable

SEPARATOR = ";"


def joined(names: Iterable[str]) -> str:
    """In the order of their names and each once, so that the same labels are the same text."""
    return SEPARATOR.join(sorted(set(names)))


def separate(label: str, *, several: bool) -> list[str]:
    """The names in a label; `several` is whether the version gives pictures any number of labels, none included."""
    if not several:
        return [label]
    return label.split(SEPARATOR) if label else []
