"""What several objects are made of."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from typing_extensions import TypedDict

Json = dict[str, Any]
Time = Annotated[str, Field(description="RFC 3339, UTC")]
Sha256 = Annotated[str, Field(description="SHA-256, hexadecimal")]
Task = Literal["single_label", "multi_label"]


class Described:
    """`Annotated[Json, Described(Kind)]`: documented as `Kind`, and answered as it is."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def __get_pydantic_json_schema__(self, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(TypeAdapter(self.kind).core_schema)


def one_of(names: Sequence[str]) -> Any:
    """A field that has one of these values, as a check of the database makes sure."""
    return Field(json_schema_extra={"enum": list(names)})


class Failure(TypedDict):
    """Why a job failed, or a picture has no answer."""

    code: str
    message: str
    hint: str | None


class Interval(TypedDict):
    """95 %."""

    low: float
    high: float


class Share(TypedDict):
    """With its interval of 95 % (Wilson)."""

    value: float | None
    low: float
    high: float


class Quantiles(TypedDict):
    """In seconds."""

    p10: float
    p50: float
    p90: float
