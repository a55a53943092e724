"""`POST /v1/models/{ref}/classify`: pictures in, labels with probabilities out. Nothing is kept unless asked."""

import re
import time
from functools import lru_cache
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Query, Request, Response
from pydantic import ConfigDict, Field, ValidationError
from pydantic_core import to_json
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from service import predictions
from service.api import objects, pictures, problems, results, shapes
from service.api.answering import Answered, Target
from service.api.bodies import BINARY
from service.api.context import Answer, Caller, IdempotencyKey, identify, once_of
from service.api.examples import CLASSIFIED, answers
from service.api.results import Wanted
from service.db.tables import Prediction
from service.errors import ServiceError
from service.ids import new_id, now

router = APIRouter(prefix="/v1/models", tags=["classify"])
SCOPES = ("predict",)
PATH = re.compile(r"/v1/models/([^/]+)/classify")

BODY: dict[str, Any] = {
    "security": [{"key": []}],
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": BINARY},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "array", "items": BINARY}},
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"images": {"type": "array", "items": {"type": "string", "format": "byte"}}},
                }
            },
        },
    },
}


class Asked(Wanted):
    model_config = ConfigDict(frozen=True, extra="forbid")

    store: bool = Field(False, description="keep pictures and answer under the id: /v1/predictions")


@router.post("/{ref}/classify", openapi_extra=BODY, responses=answers(CLASSIFIED, kind=objects.Classified))
async def classify(
    ref: str, request: Request, asked: Annotated[Asked, Query()], idempotency_key: IdempotencyKey = None
) -> Response:
    """Classify one picture (raw bytes), or several (multipart `file` parts, or base64 in JSON).

    One bad picture among several gets its own `error`; a single bad one is a 415 or 422.
    `?coverage=0.95` adds the set of classes that holds the right one for at least that share of pictures like the
    training's, on average. `ood.p_value` is how often one of those would look as strange to the network as this one;
    `decision` is abstain for the strangest `?false_alarm=0.05` of them. `?explain=cam` shows where the label was seen.
    With `?store=true` the prediction can be looked up, replayed and labelled as soon as it is answered; with an
    Idempotency-Key it is kept once, however often it is sent.
    """
    return await _answer(ref, request, asked, await identify(request, SCOPES))


async def direct(ref: str, scope: Scope, receive: Receive, send: Send) -> None:
    """The same answer as through the framework, whose ways around a route take longer than a small picture does."""
    request = Request(scope, receive)
    try:
        caller = await identify(request, SCOPES)
        answer = await _answer(ref, request, _asked(scope["query_string"]), caller)
    except Exception as error:  # noqa: BLE001 - whatever it is has a problem to tell
        answer = await problems.of(request, error)
    await answer(scope, receive, send)


async def _answer(ref: str, request: Request, asked: Asked, caller: Caller) -> Response:
    started = time.perf_counter()
    state = request.app.state
    target = await state.answering.find(ref)
    results.check(target.version.card, asked)
    uploads = await pictures.uploads(request, state.settings)
    answered = await state.answering.ask(request, target, [upload.data for upload in uploads])
    rows = answered.results(target.version.card, asked)
    shown = [{"filename": upload.filename, **row} for upload, row in zip(uploads, rows, strict=True)]
    body = _body(target, shown, answered, started)
    if asked.store:
        prediction = Prediction(
            id=body["id"],
            version_id=target.version.id,
            ref=ref,
            parameters=asked.kept(),
            by=caller.key_id,
            created_at=now(),
        )
        body = await run_in_threadpool(_keep, request, prediction, uploads, body)
    return Response(to_json(body), media_type="application/json")


class _AnsweredBefore(Exception):
    """The same request with the same Idempotency-Key was."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer


def _keep(
    request: Request, prediction: Prediction, uploads: list[pictures.Upload], body: dict[str, Any]
) -> dict[str, Any]:
    """Keeps the prediction with its answer, which it returns, or that of the same request before."""
    once = once_of(request, str(prediction.by), request.headers.get("idempotency-key"))
    sent = pictures.sha256_of(uploads) if once.key is not None else ""

    def first(session: Session) -> None:
        if before := once.stored(session, sent):
            raise _AnsweredBefore(before)
        once.keep(session, sent, Answer(200, body))

    state = request.app.state
    kept = [_kept(upload.data, row) for upload, row in zip(uploads, body["results"], strict=True)]
    try:
        predictions.keep(state.database, state.settings, prediction, kept, first)
    except _AnsweredBefore as repeated:
        return {**repeated.answer.body}
    return body


@lru_cache(256)
def _asked(query: bytes) -> Asked:
    """Raises InvalidValue."""
    try:
        return Asked.model_validate(dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True)))
    except ValidationError as error:
        located: list[Any] = [{**one, "loc": ("query", *one["loc"])} for one in error.errors()]
        raise problems.from_validation(located, None) from error


def _body(target: Target, rows: list[dict[str, Any]], answered: Answered, started: float) -> dict[str, Any]:
    scored = answered.scored
    return {
        "id": new_id("pred"),
        "model": shapes.model_block(target.model, target.version),
        "results": rows,
        "timing_ms": {
            "decode": round(answered.decode_ms, 3),
            "queue": round(scored.queue_ms, 3) if scored else 0.0,
            "model": round(scored.model_ms, 3) if scored else 0.0,
            "total": round((time.perf_counter() - started) * 1000, 3),
        },
    }


def _kept(data: bytes | ServiceError, result: dict[str, Any]) -> predictions.Shown:
    """What was no picture leaves its error, and an explanation can be made again."""
    picture = None if isinstance(data, ServiceError) or result["error"] is not None else data
    return predictions.Shown(picture, {**result, "explanation": None})
