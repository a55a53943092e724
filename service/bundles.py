"""A bundle that came from elsewhere, read as untrusted input: which files, whole by their hashes, and what they say.

Nothing in it is ever run as code, and pickles have no place in it. The network in it is looked at, and run, by
processes that limit themselves (workers.bundle.onnx_check, workers.engine_run).
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from service.datasets import archive
from service.datasets.zip_format import Entry
from service.errors import InvalidValue
from service.images import RESIZE
from service.settings import MiB, Settings

MAX_ENTRIES = 200
MAX_JSON_BYTES = 8 * MiB
MAX_FREE_BYTES = 256 * 1024  # of what is kept as it came: lineage and certificate
MODEL, CARD, GOLDEN, MANIFEST = "model.onnx", "card.json", "golden.json", "manifest.json"
HINT = "export the model version again, and send the file as it was"

Text = Annotated[str, Field(max_length=200)]
Chance = Annotated[float, Field(ge=0, le=1)]


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
    classes: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(min_length=2, max_length=10_000)
    image_size: int = Field(ge=8, le=512)
    resize: dict[str, Any]
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    parameters: int = Field(ge=0, le=10**12)
    dataset: Text
    metrics: dict[Text, float] = Field(max_length=50)
    temperature: float = Field(gt=0, le=1000)
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
    try:
        return check(json.loads(read(name, MAX_JSON_BYTES), parse_constant=_no_number))
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(map(str, first["loc"])) or "all of it"
        raise InvalidValue("bundle_invalid", f"{name}: {where}: {first['msg']}"[:500], hint=HINT) from error
    except (ValueError, RecursionError) as error:
        raise InvalidValue("bundle_invalid", f"{name} is not JSON as a bundle has it", hint=HINT) from error


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")
