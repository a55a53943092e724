"""Every error as RFC 9457 `application/problem+json`: ours, the framework's, and the unforeseen."""

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from service.errors import (
    BadRequest,
    InternalError,
    InvalidValue,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    ServiceError,
    UnsupportedMediaType,
)

log = logging.getLogger("fovea")


def install(app: FastAPI) -> None:
    app.add_exception_handler(ServiceError, _ours)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(Exception, _unforeseen)


async def of(request: Request, error: Exception) -> JSONResponse:
    """What the handlers answer, for a route that the framework does not run."""
    if isinstance(error, ServiceError):
        return await _ours(request, error)
    return await (_framework if isinstance(error, HTTPException) else _unforeseen)(request, error)


def problem(error: ServiceError, request_id: str) -> JSONResponse:
    body: dict[str, Any] = {
        "type": f"/problems/{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "param": error.param,
        "hint": error.hint,
        "request_id": request_id,
        **error.more,
    }
    return JSONResponse(body, error.status, {**error.headers}, media_type="application/problem+json")


def _respond(request: Request, error: ServiceError) -> JSONResponse:
    if f"{request.url.path}/".startswith("/v2/"):
        error.more = {**error.more, "error": error.detail}  # where the Open Inference Protocol has the message
    return problem(error, getattr(request.state, "request_id", ""))


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    return _respond(request, error)


async def _validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return _respond(request, from_validation(error.errors(), error.body))


def from_validation(errors: Sequence[Any], body: Any) -> ServiceError:
    """The first of pydantic's complaints, with a JSON pointer to the field.

    A field that may be a word or a number has a complaint for each; the one about what was given tells most.
    """
    first = _telling(errors, body)
    where, *path = first["loc"] or ("body",)
    if path and isinstance(body, dict) and path[0] == body.get("type"):
        path = path[1:]  # the tag of the kind of job, which is no place in the document
    if first["type"] == "json_invalid":
        return BadRequest("malformed_json", f"the body is not valid JSON: {first['msg']}", hint="check the body")
    if where == "body" and first["type"] in ("missing", "model_attributes_type") and not path:
        return InvalidValue("invalid_value", "a JSON object is needed as the body", param="")
    param = pointer(path, body) if where == "body" else ".".join(map(str, path))
    code = "unknown_field" if first["type"] == "extra_forbidden" else "invalid_value"
    message = first["msg"].removeprefix("Value error, ")
    return InvalidValue(code, f"{param or where}: {message}", param=param, hint="/docs shows what is accepted")


def _telling(errors: Sequence[Any], body: Any) -> Any:
    """Of the complaints about the same field as the first, the first that is about the value and not about its kind."""
    if errors[0]["loc"][:1] != ("body",):
        return errors[0]
    where = pointer(errors[0]["loc"][1:], body)
    same = [error for error in errors if pointer(error["loc"][1:], body) == where]
    about_kind = ("literal_error", "none_required", "enum")
    return next((one for one in same if one["type"] not in about_kind and not one["type"].endswith("_type")), errors[0])


def pointer(path: Sequence[Any], document: Any) -> str:
    """JSON pointer (RFC 6901) of pydantic's location, without the union tags that are not in the document."""
    parts: list[str] = []
    for position, step in enumerate(path):
        inside = isinstance(document, dict) and step in document
        inside = inside or (isinstance(document, list) and isinstance(step, int) and step < len(document))
        if inside:
            document = document[step]
        elif position != len(path) - 1 or not isinstance(document, dict):
            continue
        parts.append(str(step).replace("~", "~0").replace("/", "~1"))
    return "".join(f"/{part}" for part in parts)


async def _framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    known: dict[int, ServiceError] = {
        404: NotFound("not_found", f"there is nothing at {request.url.path}", hint="/docs lists the routes"),
        405: MethodNotAllowed(
            "method_not_allowed", f"{request.method} is not allowed here", headers=dict(error.headers or {})
        ),
        413: PayloadTooLarge("body_too_large", "the body is larger than this route accepts"),
        415: UnsupportedMediaType("unsupported_media_type", detail, hint="send application/json"),
    }
    return _respond(request, known.get(error.status_code) or BadRequest("bad_request", detail))


async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    request_id = getattr(request.state, "request_id", "")
    log.error("unforeseen error in request %s", request_id, exc_info=error)
    fault = InternalError("internal_error", "something went wrong on our side", hint="the log has the request id")
    return _respond(request, fault)
