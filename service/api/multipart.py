"""File parts of a multipart/form-data body as they stream in, without a copy on disk or a whole body in memory."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import BadRequest

MAX_HEADER_BYTES = 16 * 1024


@dataclass(frozen=True)
class PartStart:
    field: str
    filename: str | None


Event = PartStart | bytes
"""The start of a part, or bytes of the part that started last."""


async def parts(content_type: str, stream: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    """Raises BadRequest (code `malformed_multipart`) for a body that does not follow RFC 7578, or ends early."""
    reader = _Reader(content_type)
    async for piece in stream:
        for event in reader.feed(piece):
            yield event
    reader.finish()


class _Reader:
    def __init__(self, content_type: str) -> None:
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise _malformed("the Content-Type has no boundary")
        self._events: list[Event] = []
        self._header = [b"", b""]
        self._headers: dict[bytes, bytes] = {}
        self._ended = False
        self._parser = _parser(boundary, self)

    def feed(self, piece: bytes) -> Iterator[Event]:
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise _malformed(str(error)) from error
        events, self._events = self._events, []
        yield from events

    def finish(self) -> None:
        if not self._ended:
            raise _malformed("the body ends before its closing boundary")

    # the parser's callbacks, in the order in which it calls them

    def on_part_begin(self) -> None:
        self._headers = {}

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._grow(0, data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._grow(1, data[start:end])

    def on_header_end(self) -> None:
        name, value = self._header
        self._headers[name.lower()] = value
        self._header = [b"", b""]

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        filename = options.get(b"filename")
        self._events.append(
            PartStart(
                options.get(b"name", b"").decode("utf-8", "replace"),
                None if filename is None else filename.decode("utf-8", "replace"),
            )
        )

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(data[start:end])

    def on_end(self) -> None:
        self._ended = True

    def _grow(self, which: int, piece: bytes) -> None:
        self._header[which] += piece
        if len(self._header[which]) > MAX_HEADER_BYTES:
            raise _malformed("a part's header is too long")


def _parser(boundary: bytes, reader: _Reader) -> MultipartParser:
    try:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": reader.on_part_begin,
                "on_header_field": reader.on_header_field,
                "on_header_value": reader.on_header_value,
                "on_header_end": reader.on_header_end,
                "on_headers_finished": reader.on_headers_finished,
                "on_part_data": reader.on_part_data,
                "on_end": reader.on_end,
            },
        )
    except FormParserError as error:
        raise _malformed(str(error)) from error


def _malformed(why: str) -> BadRequest:
    return BadRequest(
        "malformed_multipart", f"the multipart body cannot be read: {why}", hint="send one part named `file`"
    )
