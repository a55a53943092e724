"""`/v2`: the Open Inference Protocol (KServe, V2, HTTP/REST), through the decoder, engine and calibration of classify.

One input, `image`: BYTES [N], encoded pictures; or pixels [N, height, width, 3], RGB, UINT8 in 0..255 or FP32 in 0..1.
Errors are problem+json as everywhere, with the protocol's member `error`.
"""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

import service
from service import artifacts, readiness
from service.api import objects, pictures, results, tensors
from service.api.answering import Answered, AnsweringDep
from service.api.bodies import BINARY, held
from service.api.context import DatabaseDep, Reading, SettingsDep, require
from service.api.examples import INFERENCE, INFERENCE_REQUEST, MODEL_METADATA, SERVER_METADATA, answers
from service.api.tensors import OutputTensor
from service.db.tables import Model, ModelVersion
from service.errors import ServiceError
from service.ids import new_id
from service.inference import choice, score
from service.labels import joined

router = APIRouter(prefix="/v2", tags=["open inference protocol"])
asks = Depends(require("predict"))

BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object"}, "example": INFERENCE_REQUEST},
            "application/octet-stream": {"schema": BINARY},
        },
    }
}
PLATFORMS = {"torch": "pytorch_export", "onnxruntime": "onnxruntime_onnx", "openvino": "openvino_onnx"}
INFERRED = answers(INFERENCE, kind=objects.Inference, also="application/octet-stream")
Health = dict[str, bool]
JsonBytes = Annotated[
    str | None, Header(alias="Inference-Header-Content-Length", description="length of the JSON before binary data")
]


@router.get("", dependencies=[asks], responses=answers(SERVER_METADATA))
async def server_metadata() -> objects.ServerMetadata:
    return {"name": "fovea", "version": service.__version__, "extensions": ["binary_tensor_data"]}


@router.get("/health/live", responses=answers({"live": True}))
async def live() -> dict[str, bool]:
    return {"live": True}


@router.get(
    "/health/ready",
    responses=answers({"ready": True, "live": True}, 200, Health)
    | answers({"ready": False, "live": True}, 503, Health),
)
def ready(db: DatabaseDep, settings: SettingsDep) -> JSONResponse:
    """200 or 503, as /readyz. The protocol's text calls the member `live`, its servers `ready`; both are here."""
    is_ready = readiness.is_ready(readiness.checks(db, settings))
    return JSONResponse({"ready": is_ready, "live": True}, 200 if is_ready else 503)


@router.get("/models/{model}", dependencies=[asks], responses=answers(MODEL_METADATA))
def model_metadata(model: str, session: Reading) -> objects.ModelMetadata:
    """`model` may be a reference: flowers, flowers:3, flowers@staging. `classes` are the columns of probabilities."""
    return _metadata(session, *artifacts.find_version(session, model))


@router.get("/models/{model}/versions/{version}", dependencies=[asks], responses=answers(MODEL_METADATA))
def version_metadata(model: str, version: str, session: Reading) -> objects.ModelMetadata:
    return _metadata(session, *artifacts.find_version(session, _ref(model, version)))


@router.get("/models/{model}/ready", dependencies=[asks], responses=answers({"name": "flowers", "ready": True}))
def model_ready(model: str, session: Reading) -> objects.ModelReady:
    """A model version is registered when it is certified; its program is loaded with the first request."""
    return {"name": artifacts.find_version(session, model)[0].name, "ready": True}


@router.get(
    "/models/{model}/versions/{version}/ready",
    dependencies=[asks],
    responses=answers({"name": "flowers", "ready": True}),
)
def version_ready(model: str, version: str, session: Reading) -> objects.ModelReady:
    return {"name": artifacts.find_version(session, _ref(model, version))[0].name, "ready": True}


@router.post(
    "/models/{model}/infer",
    dependencies=[asks],
    openapi_extra=BODY,
    responses=INFERRED,
)
async def infer(
    model: str, request: Request, answering: AnsweringDep, settings: SettingsDep, json_bytes: JsonBytes = None
) -> Response:
    """Pictures in, `labels`, `probabilities` and `p_values` out, as JSON or as binary tensor data.

    One bad picture fails the whole request, and the error names it.
    """
    target = await answering.find(model)
    found, version = target.model, target.version
    body = await pictures.joined(held(request, settings))
    asked, given = await run_in_threadpool(tensors.read, body, json_bytes, settings)
    answered = await answering.ask(request, target, given)
    _refuse_broken(answered)
    outputs = tensors.select(asked, _outputs(answered, version))
    traced = {"weights_sha256": version.weights_sha256}
    head = {"model_name": found.name, "model_version": str(version.number), "id": asked.id or new_id("pred")}
    shown, binary = tensors.write({**head, "parameters": traced}, outputs)
    if not binary:
        return Response(shown, media_type="application/json")
    return Response(
        shown + binary,
        media_type="application/octet-stream",
        headers={"Inference-Header-Content-Length": str(len(shown))},
    )


@router.post(
    "/models/{model}/versions/{version}/infer",
    dependencies=[asks],
    openapi_extra=BODY,
    responses=INFERRED,
)
async def infer_version(
    model: str,
    version: str,
    request: Request,
    answering: AnsweringDep,
    settings: SettingsDep,
    json_bytes: JsonBytes = None,
) -> Response:
    return await infer(_ref(model, version), request, answering, settings, json_bytes)


def _ref(model: str, version: str) -> str:
    return f"{model}:{version}"


def _metadata(session: Session, model: Model, version: ModelVersion) -> objects.ModelMetadata:
    numbers = select(ModelVersion.number).where(ModelVersion.model_id == model.id).order_by(ModelVersion.number)
    outputs = [("labels", "BYTES", [-1]), ("probabilities", "FP32", [-1, len(version.card["classes"])])]
    if "strangeness" in version.card:
        outputs.append(("p_values", "FP32", [-1]))
    return {
        "name": model.name,
        "versions": [str(number) for number in session.scalars(numbers)],
        "platform": PLATFORMS[choice.certified(version.card)[0].name],
        "inputs": [{"name": tensors.INPUT, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": name, "datatype": kind, "shape": shape} for name, kind, shape in outputs],
        "classes": version.card["classes"],
    }


def _refuse_broken(answered: Answered) -> None:
    for place, picture in enumerate(answered.pictures):
        if isinstance(picture, ServiceError):
            picture.param = f"/inputs/0/data/{place}"
            raise picture


def _outputs(answered: Answered, version: ModelVersion) -> list[OutputTensor]:
    assert answered.scored is not None
    outputs = answered.scored.outputs
    chances = score.chances(outputs.logits, version.card)
    labels = [joined(score.labels(row, version.card)) for row in chances]
    made = [OutputTensor("labels", labels), OutputTensor("probabilities", chances.astype(np.float32))]
    p_values = results.p_values_of(outputs, version.card)
    return made if p_values is None else [*made, OutputTensor("p_values", p_values.astype(np.float32))]
