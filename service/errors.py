"""The error tree. One handler in `service.api` renders it as RFC 9457 problem+json.

ServiceError
├── BadRequest            400  the request cannot be understood
├── Unauthorized          401  no key, or not a valid one
├── Forbidden             403  the key lacks the scope
├── NotFound              404
├── MethodNotAllowed      405
├── RequestTimeout        408  the client stopped sending
├── Conflict              409  wrong state, or somebody else was first
├── PreconditionFailed    412  If-Match names a state that is no more
├── PayloadTooLarge       413
├── UnsupportedMediaType  415
├── Misdirected           421  asked by a name that is not ours
├── InvalidValue          422  understood, but a value is not acceptable
├── Locked                423  another request has it right now
├── PreconditionRequired  428  a change must say which state it knows
├── TooManyRequests       429  too much is open already (Retry-After)
├── HeadersTooLarge       431  request line and headers
├── ChecksumMismatch      460  a piece of an upload is not what its checksum says (tus)
├── Overloaded            503  try again later (Retry-After)
├── Unavailable           503  what the answer needs is damaged
├── InsufficientStorage   507  the disk is full
└── InternalError         500  our fault; the log has the request id

A worker stores the same errors in a failed job's `error` field, so a code means the same everywhere.
"""

from typing import Any, ClassVar


class ServiceError(Exception):
    """An error with a name. `code` is for programs, `detail` says what happened, `hint` what to do about it.

    `param` is a JSON pointer (RFC 6901) into the request body, or the name of a query parameter. `more` are members
    added to the problem document (RFC 9457, 3.2): what a program needs to decide what to do.
    """

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Error"

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        hint: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
        more: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.hint = hint
        self.param = param
        self.headers = headers or {}
        self.more = more or {}

    def as_dict(self) -> dict[str, Any]:
        """The part that a failed job stores."""
        return {"code": self.code, "message": self.detail, "hint": self.hint}

    def as_problem(self, request_id: str) -> dict[str, Any]:
        """What a client is told (RFC 9457)."""
        return {
            "type": f"/problems/{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "param": self.param,
            "hint": self.hint,
            "request_id": request_id,
            **self.more,
        }


class BadRequest(ServiceError):
    status, title = 400, "Bad request"


class Unauthorized(ServiceError):
    status, title = 401, "Unauthorized"


class Forbidden(ServiceError):
    status, title = 403, "Forbidden"


class NotFound(ServiceError):
    status, title = 404, "Not found"


class MethodNotAllowed(ServiceError):
    status, title = 405, "Method not allowed"


class RequestTimeout(ServiceError):
    status, title = 408, "Request timeout"


class Conflict(ServiceError):
    status, title = 409, "Conflict"


class PreconditionFailed(ServiceError):
    status, title = 412, "Precondition failed"


class PayloadTooLarge(ServiceError):
    status, title = 413, "Payload too large"


class UnsupportedMediaType(ServiceError):
    status, title = 415, "Unsupported media type"


class Misdirected(ServiceError):
    status, title = 421, "Misdirected request"


class InvalidValue(ServiceError):
    status, title = 422, "Invalid value"


class Locked(ServiceError):
    status, title = 423, "Locked"


class PreconditionRequired(ServiceError):
    status, title = 428, "Precondition required"


class HeadersTooLarge(ServiceError):
    status, title = 431, "Request header fields too large"


class ChecksumMismatch(ServiceError):
    status, title = 460, "Checksum mismatch"


class InternalError(ServiceError):
    status, title = 500, "Internal error"


class Overloaded(ServiceError):
    status, title = 503, "Overloaded"

    def __init__(self, code: str, detail: str, *, hint: str | None = None, retry_after_seconds: int = 1) -> None:
        super().__init__(code, detail, hint=hint, headers={"Retry-After": str(retry_after_seconds)})


class Unavailable(ServiceError):
    status, title = 503, "Unavailable"


class TooManyRequests(Overloaded):
    status, title = 429, "Too many requests"


class InsufficientStorage(ServiceError):
    status, title = 507, "Insufficient storage"
