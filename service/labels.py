"""What a class may be called, wherever its name comes from; several labels of one picture as one text, and back.

A single-label version keeps its class names as they are.
"""

import unicodedata
from collections.abc import Iterable

SEPARATOR = ";"
MAX_CHARACTERS = 200

_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))  # categories of Unicode: control, format, half characters, breaks
_JOINERS = "\u200c\u200d"  # of the second kind, but some scripts and many emoji are not written without them


def name_fault(name: str) -> str | None:
    """Why no class can have this name, as the end of a sentence about it; None if one can."""
    if not name:
        return "is empty"
    if len(name) > MAX_CHARACTERS:
        return f"has {len(name)} characters, more than {MAX_CHARACTERS}"
    if name.isprintable():  # almost every name is, and this is quick
        return None
    unseen = next((one for one in name if unicodedata.category(one) in _UNSEEN and one not in _JOINERS), None)
    return f"holds a character that cannot be seen (U+{ord(unseen):04X})" if unseen is not None else None


def is_portable(name: str) -> bool:
    """Could a labels.csv name it? A folder may have spaces around its name, or the separator in it."""
    return SEPARATOR not in name and name == name.strip()


def joined(names: Iterable[str]) -> str:
    """In the order of their names and each once, so that the same labels are the same text."""
    return SEPARATOR.join(sorted(set(names)))


def separate(label: str, *, several: bool) -> list[str]:
    """The names in a label; `several` is whether the version gives pictures any number of labels, none included."""
    if not several:
        return [label]
    return label.split(SEPARATOR) if label else []
