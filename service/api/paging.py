"""Lists by cursor: `{"object": "list", "data", "has_more", "next"}`. The cursor is the last row's sort key."""

from collections.abc import Callable
from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import Depends, Query
from pydantic import with_config
from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session
from typing_extensions import TypedDict

from service.errors import InvalidValue

T = TypeVar("T")


@with_config(json_schema_extra=lambda schema: schema.pop("title"))  # the same for a page of whatever
class Listing(TypedDict, Generic[T]):
    """A page of a list: `next` is the `after` of the page that follows, if `has_more`."""

    object: Literal["list"]
    data: list[T]
    has_more: bool
    next: str | None


def whole(data: list[T]) -> Listing[T]:
    """A list that has one page."""
    return {"object": "list", "data": data, "has_more": False, "next": None}


class Page:
    def __init__(
        self,
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        after: Annotated[str | None, Query(max_length=200, description="`next` of the page before")] = None,
    ) -> None:
        self.limit = limit
        self.after = after

    def read(
        self,
        session: Session,
        query: Select[Any],
        column: InstrumentedAttribute[Any],
        shape: Callable[[Any], T],
        *,
        newest_first: bool = False,
    ) -> Listing[T]:
        """One page of `query`, ordered by a unique column."""
        if self.after is not None:
            mark = self.mark(column)
            query = query.where(column < mark if newest_first else column > mark)
        query = query.order_by(column.desc() if newest_first else column).limit(self.limit + 1)
        rows = session.scalars(query).all()
        shown = rows[: self.limit]
        more = len(rows) > self.limit
        last = str(getattr(shown[-1], column.key)) if more else None
        return {"object": "list", "data": [shape(row) for row in shown], "has_more": more, "next": last}

    def mark(self, column: InstrumentedAttribute[Any]) -> Any:
        """The sort key that `after` names. Raises InvalidValue when it cannot be one."""
        assert self.after is not None
        if column.type.python_type is not int:
            return self.after
        text = self.after.removeprefix("evt_")
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise InvalidValue("invalid_cursor", "not a cursor", hint="use `next` of a page, unchanged", param="after")
        return int(text)


PageDep = Annotated[Page, Depends()]
