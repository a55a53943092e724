"""A bundle that came from elsewhere, read as untrusted input: which files, whole by their hashes, and what they say.

Nothing in it is ever run as code, and pickles have no place in it. The network in it is looked at, and run, by
processes that limit themselves (workers.bundle.onnx_check, workers.engine_run).
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from service.datasets import archive
from service.datasets.zip_format import Entry
from service.errors import InvalidValue
from service.images import RESIZE
from service.labels import name_fault
from service.settings import MiB, Settings

MAX_ENTRIES = 200
MAX_JSON_BYTES = 8 * MiB
MAX_FREE_BYTES = 256 * 1024  # of what is kept as it came: lineage and certificate
MAX_DEPTH = 64  # of lists and objects in each other: ours have about ten, and three more for each nested residual block
MAX_WHOLE = 2**64
TEMPERATURES = (0.01, 100.0)  # our own fit gives 0.05 to 20; logits of float32 over these stay numbers of float64
MODEL, CARD, GOLDEN, MANIFEST = "model.onnx", "card.json", "golden.json", "manifest.json"
HINT = "export the model version again, and send the file as it was"


Text = Annotated[str, Field(max_length=200)]
Chance = Annotated[float, Field(ge=0, le=1)]


def _class_name(name: str) -> str:
    if (why := name_fault(name)) is not None:
        raise ValueError(f"the name of a class {why}")
    return name


ClassName = Annotated[str, AfterValidator(_class_name)]


class _Foreign(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class Kept(_Foreign):
    """Held-out scores: see service.inference.conformal."""

    n: int = Field(ge=0, le=2**40)
    step: int = Field(ge=1, le=2**30)
    descending: list[float] = Field(max_length=2000)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if len(self.descending) != -(-self.n // self.step) or self.descending != sorted(self.descending, reverse=True):
            raise ValueError("the scores are not every step-th of n from the largest down")
        return self


class Card(_Foreign):
    """What serving needs to know, and where the model says it came from."""

    model: Text
    version: int = Field(ge=1, le=2**31)
    task: Literal["single_label", "multi_label"]
    classes: list[ClassName] = Field(min_length=2, max_length=10_000)
    image_size: int = Field(ge=8, le=512)
    resize: dict[str, Any]
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    parameters: int = Field(ge=0, le=10**12)
    dataset: Text
    metrics: dict[Text, float] = Field(max_length=50)
    temperature: float = Field(ge=TEMPERATURES[0], le=TEMPERATURES[1])
    thresholds: list[Chance] | None = None
    prediction_sets: Kept | None = None
    strangeness: Kept | None = None
    maps: bool = False
    certificate: dict[str, Any]
    lineage: dict[str, Any]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if "accuracy" not in self.metrics:
            raise ValueError("metrics lack the accuracy")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("a class is named twice")
        if self.resize != RESIZE:
            raise ValueError(f"pictures would have to be resized by {self.resize}, which this version cannot")
        if self.task == "multi_label" and self.prediction_sets is not None:
            raise ValueError("prediction sets belong to single_label models")
        if (self.task == "multi_label") != (self.thresholds is not None):
            raise ValueError("thresholds belong to multi_label models, and to all of them")
        if self.thresholds is not None and len(self.thresholds) != len(self.classes):
            raise ValueError("there must be a threshold for each class")
        if len(json.dumps([self.certificate, self.lineage])) > MAX_FREE_BYTES:
            raise ValueError(f"certificate and lineage have more than {MAX_FREE_BYTES} bytes")
        return self


class Golden(_Foreign):
    """A picture of the bundle, and how it was answered."""

    file: Text
    labels: list[Text] = Field(max_length=10_000)
    probabilities: dict[Text, Chance] = Field(max_length=10_000)
    strangeness: float | None = None


_GOLDENS = TypeAdapter(Annotated[list[Golden], Field(min_length=1, max_length=64)])


@dataclass(frozen=True)
class Opened:
    card: Card
    goldens: list[Golden]
    pictures: list[Entry]  # of the goldens, in their order
    model: bytes


def entries(path: Path, settings: Settings) -> dict[str, Entry]:
    """The files of the zip by name; refuses what is no bundle, before anything of it is unpacked."""
    narrow = settings.model_copy(
        update={"max_archive_entries": MAX_ENTRIES, "max_unpacked_bytes": 2 * settings.max_bundle_bytes}
    )
    found = {entry.name: entry for entry in archive.inspect(path, narrow)}
    missing = [name for name in (MODEL, CARD, GOLDEN, MANIFEST) if name not in found]
    if missing:
        raise InvalidValue("bundle_incomplete", f"the bundle lacks {', '.join(missing)}", hint=HINT)
    return found


def opened(path: Path, settings: Settings) -> Opened:
    """Everything but the network's own meaning. Raises InvalidValue with the reason."""
    files = entries(path, settings)
    with path.open("rb") as file:

        def read(name: str, limit: int) -> bytes:
            return archive.read(file, files[name], limit)

        _check_hashes(files, read, settings)
        card = _valid(CARD, read, Card.model_validate)
        goldens = _valid(GOLDEN, read, _GOLDENS.validate_python)
        for golden in goldens:
            if golden.file not in files or set(golden.probabilities) != set(card.classes):
                raise InvalidValue("bundle_golden", f"{golden.file!r} is no picture with all classes", hint=HINT)
        pictures = [files[golden.file] for golden in goldens]
        return Opened(card, goldens, pictures, read(MODEL, settings.max_bundle_bytes))


def _check_hashes(files: dict[str, Entry], read: Callable[[str, int], bytes], settings: Settings) -> None:
    manifest = _valid(MANIFEST, read, TypeAdapter(dict[Text, Text]).validate_python)
    for name in sorted({*files, *manifest} - {MANIFEST}):
        if name not in files:
            raise InvalidValue("bundle_incomplete", f"the bundle lacks {name!r}", hint=HINT)
        if hashlib.sha256(read(name, settings.max_bundle_bytes)).hexdigest() != manifest.get(name):
            raise InvalidValue("bundle_damaged", f"{name!r} is not what the manifest says", hint=HINT)


def _valid(name: str, read: Callable[[str, int], bytes], check: Callable[[Any], Any]) -> Any:
    """The JSON file as `check` gives it back. Raises InvalidValue (code `bundle_invalid`), which names the place."""
    value = _loaded(name, read)
    if (fault := _fault(value)) is not None:
        raise _invalid(name, *fault)
    try:
        return check(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise _invalid(name, first["loc"], first["msg"]) from error


def _invalid(name: str, place: Iterable[Any], why: str) -> InvalidValue:
    where = "/".join(map(str, place)) or "all of it"
    return InvalidValue("bundle_invalid", f"{name}: {where[:300]}: {why[:200]}", hint=HINT)


def _loaded(name: str, read: Callable[[str, int], bytes]) -> Any:
    try:
        return json.loads(read(name, MAX_JSON_BYTES), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise InvalidValue("bundle_invalid", f"{name} is not JSON as a bundle has it", hint=HINT) from error


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _fault(value: Any, depth: int = 0) -> tuple[list[Any], str] | None:
    """The first place (names and numbers that lead to it) of JSON that no database and no answer could hold, and why.

    One rule for all that is kept, whatever else is asked of a field: JSON can write more than UTF-8, PostgreSQL and
    readers of JSON take.
    """
    if (why := _own_fault(value, depth)) is not None:
        return [], why
    for key, part in _parts(value):
        if (found := _fault(part, depth + 1)) is not None:
            return [key, *found[0]], found[1]
    return None


def _parts(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


def _own_fault(value: Any, depth: int) -> str | None:
    """Of a value but for its parts; the names in an object are its own."""
    if isinstance(value, str):
        return _text_fault(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "a number is too large"
    if isinstance(value, int) and abs(value) >= MAX_WHOLE:
        return "a whole number has more than 64 bits"
    if isinstance(value, dict | list) and depth >= MAX_DEPTH:
        return f"lists and objects are nested more than {MAX_DEPTH} deep"
    names = value if isinstance(value, dict) else ()
    return next((f"of a name in it, {why}" for why in map(_text_fault, names) if why is not None), None)


def _text_fault(text: str) -> str | None:
    if "\0" in text:
        return "the text holds a NUL"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "the text holds a lone surrogate, half of a character"
    return None
