"""What several objects are made of."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema
from typing_extensions import TypedDict

Json = dict[str, Any]
Time = Annotated[str, Field(description="RFC 3339, UTC")]
Sha256 = Annotated[str, Field(description="SHA-256, hexadecimal")]
Task = Literal["single_label", "multi_label"]


class Described:
    """`Annotated[Json, Described(Kind)]`: documented as `Kind`, and answered as it is."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        unseen = core_schema.plain_serializer_function_ser_schema(_as_it_is)
        kind = handler.generate_schema(self.kind)
        return core_schema.no_info_wrap_validator_function(_as_it_is, kind, serialization=unseen)


def _as_it_is(value: Any, _: Any = None) -> Any:
    return value


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
    """With its interval of 95 %."""

    value: float | None
    low: float
    high: float


class Quantiles(TypedDict):
    """In seconds."""

    p10: float
    p50: float
    p90: float
