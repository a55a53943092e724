"""Every error as RFC 9457 `application/problem+json`: ours, the framework's, and the unforeseen."""

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from pydantic import TypeAdapter
from sqlalchemy.exc import DataError
from starlette.exceptions import HTTPException

from service import complaints, observed
from service.api.objects import Problem
from service.errors import (
    BadRequest,
    InternalError,
    InvalidValue,
    MethodNotAllowed,
    NotFound,
    ServiceError,
    UnsupportedMediaType,
)

log = logging.getLogger("fovea")


class Carried(HTTPException):
    """One of ours, raised while the framework reads a body: it would turn any kind but its own into a 400."""

    def __init__(self, error: ServiceError) -> None:
        super().__init__(error.status, error.detail)
        self.error = error


def install(app: FastAPI) -> None:
    app.add_exception_handler(ServiceError, _ours)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(DataError, _unkeepable)
    app.add_exception_handler(Exception, _unforeseen)
    document, schema = app.openapi, TypeAdapter(Problem).json_schema()

    def with_schema() -> dict[str, Any]:
        """The framework would file it under another media type."""
        document()["components"]["schemas"]["Problem"] = schema
        return document()

    app.openapi = with_schema  # type: ignore[method-assign]


async def of(request: Request, error: Exception) -> JSONResponse:
    """What the handlers answer, for a route that the framework does not run."""
    if isinstance(error, ServiceError):
        return await _ours(request, error)
    if isinstance(error, DataError):
        return await _unkeepable(request, error)
    return await (_framework if isinstance(error, HTTPException) else _unforeseen)(request, error)


def problem(error: ServiceError, request_id: str) -> JSONResponse:
    observed.problem(error.status, error.code)
    body = error.as_problem(request_id)
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
    if isinstance(error.body, bytes):  # the framework reads as JSON only what says that it is
        return _respond(request, _not_json(request.headers.get("content-type")))
    return _respond(request, from_validation(error.errors(), error.body))


def from_validation(errors: Sequence[Any], body: Any) -> ServiceError:
    """The first of pydantic's complaints, with a JSON pointer to the field."""
    first = errors[0]
    where, *path = first["loc"] or ("body",)
    if first["type"] == "json_invalid":
        return BadRequest("malformed_json", f"the body is not valid JSON: {first['msg']}", hint="check the body")
    if where == "body" and first["type"] in ("missing", "model_attributes_type") and not path:
        return InvalidValue("invalid_value", "a JSON object is needed as the body", param="")
    param, kind, message = ".".join(map(str, path)), first["type"], first["msg"].removeprefix("Value error, ")
    if where == "body":
        inside = [{**one, "loc": one["loc"][1:]} for one in errors if one["loc"][:1] == ("body",)]
        param, kind, message = complaints.told(inside, body)
    code = "unknown_field" if kind == "extra_forbidden" else "invalid_value"
    return InvalidValue(code, f"{param or where}: {message}", param=param, hint="/docs shows what is accepted")


def _not_json(kind: str | None) -> UnsupportedMediaType:
    detail = f"JSON is needed, not {kind[:80] if kind else 'a body without Content-Type'}"
    return UnsupportedMediaType("unsupported_media_type", detail, hint="send Content-Type: application/json")


async def _framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error, Carried):
        return _respond(request, error.error)
    if error.status_code == 405:
        return _respond(request, _not_allowed(request))
    detail = str(error.detail)
    known: dict[int, ServiceError] = {
        404: NotFound("not_found", f"there is nothing at {request.url.path}", hint="/docs lists the routes"),
        415: UnsupportedMediaType("unsupported_media_type", detail, hint="send application/json"),
    }
    otherwise = BadRequest("bad_request", detail, hint="/docs tells what is expected")
    return _respond(request, known.get(error.status_code, otherwise))


def _not_allowed(request: Request) -> MethodNotAllowed:
    """Allow names all methods of the address, as RFC 9110 (15.5.6) wants; the framework names those of one route."""
    routes = [one for one in iter_route_contexts(request.app.routes) if one.path_regex.match(request.url.path)]
    allowed = ", ".join(sorted({method for route in routes for method in route.methods or ()}))
    detail, headers = f"{request.method} is not allowed here", {"Allow": allowed}
    return MethodNotAllowed("method_not_allowed", detail, hint=f"allowed: {allowed}", headers=headers)


async def _unkeepable(request: Request, _error: Exception) -> JSONResponse:
    """PostgreSQL keeps no NUL, and SQLite does: where one stands in a name or a query is found out by asking it."""
    hint = "leave out NUL characters (\\u0000, %00)"
    return _respond(request, InvalidValue("invalid_value", "a text holds what the database cannot keep", hint=hint))


async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    request_id = getattr(request.state, "request_id", "")
    log.error("unforeseen error in request %s", request_id, exc_info=error)
    fault = InternalError("internal_error", "something went wrong on our side", hint="the log has the request id")
    return _respond(request, fault)
