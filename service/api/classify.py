"""`POST /v1/models/{ref}/classify`: pictures in, labels with probabilities out. Nothing is kept unless asked."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.concurrency import run_in_threadpool

from service import predictions
from service.api import pictures, results, shapes
from service.api.answering import AnsweringDep
from service.api.context import DatabaseDep, SettingsDep, require
from service.api.examples import CLASSIFIED, answers
from service.api.results import WantedDep
from service.db.tables import Prediction
from service.ids import new_id, now

router = APIRouter(prefix="/v1/models", tags=["classify"], dependencies=[Depends(require("predict"))])

BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"images": {"type": "array", "items": {"type": "string", "format": "byte"}}},
                }
            },
        },
    }
}


@router.post("/{ref}/classify", openapi_extra=BODY, responses=answers(CLASSIFIED))
async def classify(
    ref: str,
    request: Request,
    answering: AnsweringDep,
    db: DatabaseDep,
    settings: SettingsDep,
    wanted: WantedDep,
    store: Annotated[bool, Query(description="keep pictures and answer under the id: /v1/predictions")] = False,
) -> dict[str, Any]:
    """Classify one picture (raw bytes), or several (multipart `file` parts, or base64 in JSON).

    One bad picture among several gets its own `error`; a single bad one is a 415 or 422.
    `?coverage=0.95` adds the set of classes that holds the right one for at least that share of pictures like the
    training's, on average. `ood.p_value` is how often one of those would look as strange to the network as this one;
    `decision` is abstain for the strangest `?false_alarm=0.05` of them. `?explain=cam` shows where the label was seen.
    With `?store=true` the prediction can be looked up, replayed and labelled as soon as it is answered.
    """
    started = time.perf_counter()
    target = await answering.find(ref)
    model, version = target.model, target.version
    results.check(version.card, wanted)
    uploads = await pictures.uploads(request, settings)
    answered = await answering.ask(target, [upload.data for upload in uploads])
    rows = answered.results(version.card, wanted)
    shown = [{"filename": upload.filename, **row} for upload, row in zip(uploads, rows, strict=True)]
    prediction = Prediction(
        id=new_id("pred"),
        version_id=version.id,
        ref=ref,
        parameters=wanted.kept(),
        by=request.state.caller.key_id,
        created_at=now(),
    )
    if store:
        kept = [_kept(upload.data, row) for upload, row in zip(uploads, shown, strict=True)]
        await run_in_threadpool(predictions.keep, db, settings, prediction, kept)
    return {
        "id": prediction.id,
        "model": shapes.model_block(model, version),
        "results": shown,
        "timing_ms": {
            "decode": round(answered.decode_ms, 3),
            "queue": round(answered.scored.queue_ms, 3) if answered.scored else 0.0,
            "model": round(answered.scored.model_ms, 3) if answered.scored else 0.0,
            "total": round((time.perf_counter() - started) * 1000, 3),
        },
    }


def _kept(data: bytes, result: dict[str, Any]) -> predictions.Shown:
    """What was no picture leaves its error, and an explanation can be made again."""
    return predictions.Shown(data if result["error"] is None else None, {**result, "explanation": None})
