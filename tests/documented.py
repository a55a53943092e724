"""What /openapi.json says of an answer. The client of every test holds each JSON answer against it."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
from starlette.routing import compile_path

from service.api.app import create_app
from service.settings import Settings

JSON = ("application/json", "application/problem+json")


def hold(answer: httpx.Response) -> None:
    """Raises AssertionError for a JSON answer of a documented route that is none of those described."""
    kind = answer.headers.get("content-type", "").partition(";")[0]
    asked = answer.request
    path = path_of(asked.url.path, asked.method.lower()) if kind in JSON else None
    if path is None or asked.method == "HEAD":  # which has no body
        return
    answer.read()
    told = f"{asked.method} {path} -> {answer.status_code} {kind}: {answer.text[:2000]}"
    schema = _schema(path, asked.method.lower(), answer.status_code, kind)
    assert schema is not None, f"not documented: {told}"
    faults = [f"/{'/'.join(map(str, one.instance_path))}: {one.message}" for one in schema.iter_errors(answer.json())]
    assert not faults, f"{faults} in {told}"


@cache
def _document() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        document: dict[str, Any] = create_app(Settings(data=Path(folder))).app.openapi()
    return document


@cache
def path_of(asked: str, method: str) -> str | None:
    """As it is documented: the first that matches, which is how the router finds it."""
    paths = _document()["paths"].items()
    return next((path for path, known in paths if method in known and compile_path(path)[0].match(asked)), None)


@cache
def _schema(path: str, method: str, status: int, kind: str) -> Any:
    """A validator, or None for what is not documented."""
    answers = _document()["paths"][path][method]["responses"]
    content = answers.get(str(status), answers.get(f"{status // 100}XX", {})).get("content", {})
    if kind not in content:
        return None
    return jsonschema_rs.validator_for({**content[kind]["schema"], "components": _document()["components"]})
