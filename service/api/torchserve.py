"""`/predictions/{model}` and `/ping` as TorchServe had them: its clients switch by changing the address and the token.

The answer is that of its image_classifier handler: the five most probable labels with their probabilities.
"""

from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from service import readiness
from service.api import pictures
from service.api.answering import AnsweringDep
from service.api.bodies import BINARY
from service.api.context import DatabaseDep, SettingsDep, require
from service.api.examples import TORCHSERVE, answers
from service.api.results import Wanted
from service.errors import InvalidValue

router = APIRouter(tags=["torchserve"])
asks = Depends(require("predict"))
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": BINARY},
            "multipart/form-data": {"schema": {"type": "object", "properties": {"data": BINARY}, "required": ["data"]}},
        },
    }
}
Health = dict[str, str]
TOP = Wanted(top_k=5, coverage=None, false_alarm=0.05, explain=None)


@router.get(
    "/ping", responses=answers({"status": "Healthy"}, 200, Health) | answers({"status": "Unhealthy"}, 503, Health)
)
def ping(db: DatabaseDep, settings: SettingsDep) -> JSONResponse:
    healthy = readiness.is_ready(readiness.checks(db, settings))
    return JSONResponse({"status": "Healthy" if healthy else "Unhealthy"}, 200 if healthy else 503)


@router.put(  # what `curl -T picture.jpg` sends
    "/predictions/{model}",
    dependencies=[asks],
    openapi_extra=BODY,
    responses=answers(TORCHSERVE),
    operation_id="torchserve_put",
)
@router.post("/predictions/{model}", dependencies=[asks], openapi_extra=BODY, responses=answers(TORCHSERVE))
async def predict(model: str, request: Request, answering: AnsweringDep, settings: SettingsDep) -> dict[str, float]:
    """One picture, as the body or as the multipart field `data`. `model` may be a reference: flowers@production."""
    target = await answering.find(model)
    uploads = await pictures.uploads(request, settings, field="data")
    if len(uploads) != 1:
        raise InvalidValue("one_picture", f"{len(uploads)} pictures; this route takes one", hint="use /v1 for several")
    [row] = (await answering.ask(request, target, [uploads[0].data])).results(target.version.card, TOP)
    return {one["label"]: one["probability"] for one in row["predictions"]}


@router.put(
    "/predictions/{model}/{version}",
    dependencies=[asks],
    openapi_extra=BODY,
    responses=answers(TORCHSERVE),
    operation_id="torchserve_put_version",
)
@router.post("/predictions/{model}/{version}", dependencies=[asks], openapi_extra=BODY, responses=answers(TORCHSERVE))
async def predict_version(
    model: str, version: str, request: Request, answering: AnsweringDep, settings: SettingsDep
) -> dict[str, float]:
    return await predict(f"{model}:{version.removesuffix('.0')}", request, answering, settings)
