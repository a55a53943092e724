"""What a client may ask of a search: JSON pointers into the spec, each with the values to try.

Everything is checked before a search exists: each choice and both ends of each range, put into the base spec alone,
must give a spec that `service.spec` accepts and resolves. What only a combination makes impossible is found by the
trial that meets it, and fails that trial alone. Knows nothing of sampling.
"""

import copy
import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from service import complaints
from service.auto import DatasetFacts, resolve
from service.cost import Room
from service.errors import InvalidValue
from service.layers import Strict
from service.spec import Budget, Name, TrainSpec

DEEPEST = 64  # lists and objects in a choice
SHOWN = 80  # characters of a value in an error

Metric = Literal["val/accuracy", "val/loss", "val/mean_average_precision"]
Bounds = Annotated[list[float], Field(min_length=2, max_length=2)]
WholeBounds = Annotated[list[int], Field(min_length=2, max_length=2)]


class Dimension(Strict):
    """What one pointer may be: an object with exactly one of the keys. Ranges are `[low, high]`, both ends included."""

    choice: list[Any] | None = Field(None, min_length=1, max_length=50, description="any JSON values, all different")
    uniform: Bounds | None = None
    log_uniform: Bounds | None = Field(None, description="evenly over the orders of magnitude; low above 0")
    int: WholeBounds | None = None

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(type(self).model_fields)}")
        if self.choice is not None:
            if _depth(self.choice) > DEEPEST:
                raise ValueError(f"a value is nested more than {DEEPEST} deep")
            if len({json.dumps(value, sort_keys=True) for value in self.choice}) != len(self.choice):
                raise ValueError("the same value is there twice")
            return self
        low, high = getattr(self, given[0])
        if not low < high:
            raise ValueError("a range is [low, high] with low < high")
        if self.log_uniform is not None and low <= 0:
            raise ValueError("a log_uniform range begins above 0")
        return self

    def to_check(self) -> Iterator[tuple[str, Any]]:
        """Where in the dimension, and the value: each choice, or both ends of the range."""
        for kind in ("choice", "uniform", "log_uniform", "int"):
            for index, value in enumerate(getattr(self, kind) or ()):
                yield f"{kind}/{index}", value


def _depth(value: Any) -> int:
    """How deep lists and objects are nested, without recursion: a client may send what no stack would hold."""
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, dict | list)]:
        depth += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return depth


def _pointer(text: str) -> str:
    if not text.startswith("/") or len(text) > 200:
        raise ValueError("a key of the space is a JSON pointer into the spec, such as /optimizer/lr")
    return text


def _apart(space: dict[str, Dimension]) -> dict[str, Dimension]:
    for pointer in space:
        within = [other for other in space if other.startswith(f"{pointer}/")]
        if within:
            raise ValueError(f"{within[0]} lies within {pointer}: search one of them")
    return space


Space = Annotated[
    dict[Annotated[str, AfterValidator(_pointer)], Dimension],
    Field(min_length=1, max_length=30),
    AfterValidator(_apart),
]


class SearchRequest(Strict):
    """Trains `trials` variants of the spec, one after the other; the best becomes the model's next version."""

    type: Literal["search"]
    model: Name = Field(description="name of the model; the best trial of the search becomes its next version")
    dataset: str = Field(max_length=100, description="'flowers' for the newest version, or 'flowers@2'")
    seed: int = Field(0, ge=0, lt=2**63, description="of the sampling, and of every trial's training")
    spec: TrainSpec = Field(TrainSpec(), description="what all trials share; 'auto' is resolved for each trial anew")
    space: Space = Field(description="JSON pointers into the spec, and what may stand there")
    trials: int = Field(20, ge=1, le=1000)
    budget: Budget | None = Field(None, description="no further trial is begun that would not fit")
    metric: Metric = Field(
        "val/accuracy",
        description="what the best trial is best at, at its best epoch; mean_average_precision of several labels only",
    )


def vary(spec: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """The spec with the values put where the pointers (RFC 6901) say. Raises InvalidValue where one leads nowhere."""
    varied = copy.deepcopy(spec)
    for pointer, value in parameters.items():
        *path, last = (step.replace("~1", "/").replace("~0", "~") for step in pointer[1:].split("/"))
        place: Any = varied
        for step in path:
            place = _into(place, step, pointer)
        if isinstance(place, list):
            _into(place, last, pointer)
            place[int(last)] = copy.deepcopy(value)
        elif isinstance(place, dict):
            place[last] = copy.deepcopy(value)
        else:
            raise _nowhere(pointer)
    return varied


def _into(place: Any, step: str, pointer: str) -> Any:
    if isinstance(place, dict) and step in place:
        return place[step]
    if isinstance(place, list) and step.isascii() and step.isdigit() and len(step) < 5 and int(step) < len(place):
        return place[int(step)]
    raise _nowhere(pointer)


def _nowhere(pointer: str) -> InvalidValue:
    return InvalidValue(
        "pointer_leads_nowhere",
        f"{pointer}: the spec has no such place",
        hint="give the object or list it points into in the spec, in place of a name, null or 'auto'",
    )


def resolve_varied(
    spec: dict[str, Any], parameters: dict[str, Any], facts: DatasetFacts, room: Room | None = None
) -> dict[str, Any]:
    """The resolved spec of the trial with these parameters, or InvalidValue."""
    try:
        varied = TrainSpec.model_validate(document := vary(spec, parameters))
    except ValidationError as error:
        where, _, message = complaints.told(error.errors(), document)
        raise InvalidValue("invalid_value", f"{where}: {message}", hint="/docs shows what a spec may be") from error
    if varied.initial_weights not in (None, "pretrained"):
        raise InvalidValue(
            "not_in_a_search",
            "a search begins with random or pretrained weights",
            hint="search without them; train from a model of your own afterwards",
        )
    return resolve(varied, facts, room)


def check(request: SearchRequest, facts: DatasetFacts, room: Room | None = None) -> None:
    """Raises InvalidValue, with `param` at the metric, or the value in the request that does not give a valid spec."""
    if request.metric == "val/mean_average_precision" and not facts.several_labels:
        raise InvalidValue(
            "metric_does_not_fit",
            "mean_average_precision is of pictures with several labels",
            hint="take val/accuracy",
            param="/metric",
        )
    spec = request.spec.model_dump(mode="json")
    for pointer, dimension in request.space.items():
        escaped = pointer.replace("~", "~0").replace("/", "~1")
        for place, value in dimension.to_check():
            try:
                resolve_varied(spec, {pointer: value}, facts, room)
            except InvalidValue as error:
                nowhere = error.code == "pointer_leads_nowhere"
                reason = error.detail.removeprefix(f"{pointer}: ")
                raise InvalidValue(
                    error.code,
                    error.detail if nowhere else f"{pointer} = {json.dumps(value)[:SHOWN]}: {reason}",
                    hint=error.hint,
                    param=f"/space/{escaped}" if nowhere else f"/space/{escaped}/{place}",
                ) from error
