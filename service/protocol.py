"""One client's connection: uvicorn's protocol, stricter, and with a time and a size for the headers of a request.

A timer for each connection would be set and cancelled with every request. `Server` looks at all of them every second
instead, and a connection only notes until when it may be silent.
"""

import json
from collections.abc import Callable
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from service.errors import BadRequest, HeadersTooLarge, RequestTimeout, ServiceError
from service.ids import new_id

MOST_HEADER_BYTES = 64 * 1024  # of a request line and headers, which the parser joins anew with every read
VERSIONS = ("1.0", "1.1")
LINGER_SECONDS = 2.0  # in which a refused client can read why: closed at once, its unread bytes would reset it


class Connection(HttpToolsProtocol):
    """`ended` is called when it has ended. What this refuses itself is told as problem+json, as everywhere."""

    def __init__(
        self,
        config: Config,
        state: ServerState,
        app_state: dict[str, Any],
        header_seconds: float,
        ended: Callable[[], None],
    ) -> None:
        super().__init__(config, state, app_state)
        self._header_seconds = header_seconds
        self._ended = ended
        self._due: float | None = None  # when what the client is to send must be there
        self._in_body = False  # between a request's headers and its last byte
        self._overhead = 0  # bytes since a request's beginning, or the last ones of a body: headers, trailers, framing
        self._refused = False  # whatever comes is thrown away
        self._fault: ServiceError | None = None  # why the parser was stopped, where we did

    def end_if_late(self, now: float) -> None:
        if self._due is None or now < self._due:
            return
        self._due = None
        if self._in_body or not self._overhead:
            self.transport.close()
        else:
            self._refuse(RequestTimeout("headers_stalled", "the headers of the request did not come in time"))

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait(self._header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._due is None and not self._in_body:
            self._wait(self._header_seconds)
        self._overhead += len(data)
        super().data_received(data)
        if self._overhead > MOST_HEADER_BYTES and not self._refused:
            self._refuse(_too_large())

    def on_headers_complete(self) -> None:
        self._fault = self._fault_of_headers()
        if self._fault is not None:
            raise self._fault
        super().on_headers_complete()
        self._in_body, self._overhead, self._due = True, 0, None

    def on_body(self, body: bytes) -> None:
        self._overhead = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body, self._overhead, self._due = False, 0, None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body and self.cycle.response_complete:
            self._wait(self._header_seconds)  # for the rest of a body that nobody wants

    def send_400_response(self, msg: str) -> None:
        """Called where the parser stops."""
        self._refuse(self._fault or BadRequest("malformed_request", "this is not HTTP/1.1"))

    def _fault_of_headers(self) -> ServiceError | None:
        """What the parser lets pass, and RFC 9112 (2.3, 3.2, 6.1) and this service do not."""
        version, names = self.parser.get_http_version(), [name for name, _ in self.headers]
        hosts = names.count(b"host")
        if self._overhead > MOST_HEADER_BYTES and self._header_bytes() > MOST_HEADER_BYTES:
            return _too_large()
        if version not in VERSIONS:
            return BadRequest("http_version", f"this is HTTP/{version}", hint="HTTP/1.1 is spoken here")
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            return BadRequest("host_header", f"there are {hosts} Host headers", hint="send exactly one")
        if b"transfer-encoding" in names and (self._codings() != [b"chunked"] or version == "1.0"):
            return BadRequest("transfer_encoding", "of transfer encodings only chunked is known", hint="send chunked")
        return None

    def _header_bytes(self) -> int:
        """Without what came behind them in the same read."""
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)  # ": " and a line's end

    def _codings(self) -> list[bytes]:
        return [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]

    def _wait(self, seconds: float) -> None:
        self._due = self.loop.time() + seconds

    def _refuse(self, error: ServiceError) -> None:
        """The last answer of this connection, unless another is on its way, which is then the last."""
        self._refused, self._due = True, None
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering and not self._in_body:  # the requests before this one
            self.cycle.keep_alive = False
        elif answering and (self.pipeline or self.cycle.response_started):
            self.transport.close()
        else:
            if answering:  # the request whose body went wrong: its route is told that nothing more comes
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            self.transport.write(self._problem(error))
            self.transport.write_eof()
            self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _problem(self, error: ServiceError) -> bytes:
        from service import observed  # only now: who counts together was not known when this was imported

        observed.problem(error.status, error.code)
        request_id = new_id("req")
        body = json.dumps(error.as_problem(request_id)).encode()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/problem+json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-content-type-options", b"nosniff"),
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
        ]
        lines = [b"%b: %b\r\n" % header for header in headers]
        return b"".join([STATUS_LINE[error.status], *lines, b"\r\n", body])


def _too_large() -> HeadersTooLarge:
    return HeadersTooLarge("headers_too_large", f"the headers have more than {MOST_HEADER_BYTES} bytes")
