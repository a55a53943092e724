"""What a client is told of pydantic's complaints about a JSON document: the place, as a JSON pointer, and the reason.

A field that may be of several kinds, a word or an object, has complaints of every kind. Those of the kind that was
given tell most; where it is none of them, the message tells them all.
"""

import re
from collections.abc import Sequence
from typing import Any

Complaint = Any  # a dictionary: loc, type, msg, ctx

OBJECTS = ("model_type", "model_attributes_type", "dict_type")


def told(complaints: Sequence[Complaint], document: Any) -> tuple[str, str, str]:
    """JSON pointer, type and message of the first complaint, whose `loc` leads into the document."""
    kin = _of_what_was_given(complaints, document)
    first = kin[0]
    message = _accepted(kin) if len(kin) > 1 else first["msg"].removeprefix("Value error, ")
    return pointer(first["loc"], document, missing=first["type"] == "missing"), first["type"], message


def pointer(path: Sequence[Any], document: Any, *, missing: bool = False) -> str:
    """JSON pointer (RFC 6901) of pydantic's location, without the steps that are not in the document: kinds of a field.

    With `missing` the last step is one that should be there.
    """
    parts: list[Any] = []
    for step in path:
        if _is_in(document, step):
            document = document[step]
            parts.append(step)
    if missing and path:
        parts.append(path[-1])
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def _is_in(document: Any, step: Any) -> bool:
    if isinstance(document, dict):
        return step in document
    return isinstance(document, list) and isinstance(step, int) and step < len(document)


def _of_what_was_given(complaints: Sequence[Complaint], document: Any) -> Sequence[Complaint]:
    """The first complaint alone; or one of each kind that its place may be, when what was given is none of them."""
    kin = complaints
    position = 0
    while position < len(kin[0]["loc"]):
        path = kin[0]["loc"]
        kin = [one for one in kin if one["loc"][:position] == path[:position]]
        if _is_in(document, path[position]):
            document = document[path[position]]
        elif path[position] != "[key]" and not _is_missing(kin[0], position) and _kinds(kin, position) > 1:
            fitting = [one for one in kin if not _is_about_kind(one, position)]
            if not fitting:
                return kin
            kin = fitting
        position += 1
    return kin[:1]


def _kinds(complaints: Sequence[Complaint], position: int) -> int:
    return len({one["loc"][position] for one in complaints if len(one["loc"]) > position})


def _is_missing(complaint: Complaint, position: int) -> bool:
    return bool(complaint["type"] == "missing" and len(complaint["loc"]) == position + 1)


def _is_about_kind(complaint: Complaint, position: int) -> bool:
    """Is it that the value at this place is of another kind, and not what is wrong with it or within it?"""
    kind = complaint["type"] in ("literal_error", "none_required", "enum") or complaint["type"].endswith("_type")
    return kind and len(complaint["loc"]) == position + 1


def _accepted(complaints: Sequence[Complaint]) -> str:
    """One message of them all: 'Input should be 'auto' or a valid number'."""
    phrases: list[str] = []
    for one in complaints:
        expected = one["ctx"]["expected"] if one["type"] == "literal_error" else _kind(one)
        phrases += [phrase for phrase in re.split(", | or ", expected) if phrase not in phrases]
    return f"Input should be {', '.join(phrases[:-1])} or {phrases[-1]}"


def _kind(complaint: Complaint) -> str:
    return "an object" if complaint["type"] in OBJECTS else str(complaint["msg"].removeprefix("Input should be "))
