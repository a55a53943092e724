"""`/v1/models`: what was trained, how good it is, where it came from. `/v1/networks`: what can be trained."""

from typing import Annotated

from fastapi import APIRouter, Depends
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service import aliases, artifacts, estimates
from service.api import objects, shapes
from service.api.context import Reading, require
from service.api.examples import (
    CALIBRATION,
    EVALUATION,
    MODEL,
    MODEL_VERSION,
    NETWORK,
    NETWORK_DETAILS,
    answers,
    listed,
)
from service.api.objects.values import Described, Json
from service.api.paging import Listing, PageDep, whole
from service.cost import cost
from service.db.tables import Model, ModelVersion
from service.errors import Conflict, NotFound
from service.networks import NETWORKS
from service.presets import CLASSIC, PRESETS
from service.spec import TrainSpec

router = APIRouter(prefix="/v1", tags=["models"], dependencies=[Depends(require("predict", "train"))])


@router.get("/networks", responses=listed(NETWORK))
def list_networks() -> Listing[objects.Network]:
    """The networks that have names, with parameters and multiply-adds. A list of layers makes any other."""
    return whole([_network(name) for name in (*PRESETS, *NETWORKS)])


@router.get("/networks/{name}", responses=answers(NETWORK_DETAILS))
def show_network(name: str) -> objects.NetworkDetails:
    """One network, with a job to post, the JSON Schema of every field of its spec, and its layers where it has a list.

    `layers` names the schema of a network that is a list of layers.
    """
    if name not in (*PRESETS, *NETWORKS, "layers"):
        raise NotFound("network_not_found", f"there is no network {name!r}", hint="GET /v1/networks lists them")
    named = name if name != "layers" else CLASSIC.model_dump(mode="json")
    template = {"type": "train", "model": "NAME", "dataset": "DATASET", "spec": {"network": named}}
    layers = PRESETS[name].model_dump(mode="json")["layers"] if name in PRESETS else None
    details = _network(name if name != "layers" else "classic")
    return {**details, "name": name, "template": template, "layers": layers, "schema": TrainSpec.model_json_schema()}


def _network(name: str) -> objects.Network:
    if name in NETWORKS:
        known, side, classes = NETWORKS[name], 224, 1000
        parameters, multiply_adds = known.parameters, int(known.giga_multiply_adds * 1e9)
    else:
        side, classes = 32, 10
        needed = cost(TrainSpec(network=name, image_size=side, batch_size=2), classes)
        parameters, multiply_adds = needed.parameters, needed.multiply_adds
    return {
        "name": name,
        "pretrained": name in NETWORKS,
        "parameters": parameters,
        "multiply_adds": multiply_adds,
        "at": {"image_size": side, "classes": classes},
        "smallest_image_size": NETWORKS[name].smallest if name in NETWORKS else 8,
    }


@router.get("/estimates/calibration", responses=answers(CALIBRATION))
def estimates_calibration(session: Reading) -> Annotated[Json, Described(objects.Calibration)]:
    """Of the finished jobs, how many ended between the p10 and p90 that were foretold."""
    return estimates.calibration(session)


@router.get("/models", responses=listed(MODEL))
def list_models(session: Reading, page: PageDep) -> Listing[objects.Model]:
    return page.read(session, select(Model), Model.id, lambda row: _shape(session, row), newest_first=True)


@router.get("/models/{model}", responses=answers(MODEL))
def show(model: str, session: Reading) -> objects.Model:
    return _shape(session, artifacts.find_model(session, model))


@router.get("/models/{model}/versions", responses=listed(MODEL_VERSION))
def list_versions(model: str, session: Reading, page: PageDep) -> Listing[objects.ModelVersion]:
    row = artifacts.find_model(session, model)
    query = select(ModelVersion).where(ModelVersion.model_id == row.id)

    def shape(version: ModelVersion) -> objects.ModelVersion:
        return shapes.model_version(row.name, version)

    return page.read(session, query, ModelVersion.number, shape, newest_first=True)


@router.get("/models/{model}/versions/{number}", responses=answers(MODEL_VERSION))
def show_version(model: str, number: int, session: Reading) -> objects.ModelVersion:
    row, version = artifacts.find_version(session, f"{artifacts.find_model(session, model).name}:{number}")
    return shapes.model_version(row.name, version)


@router.get("/models/{ref}/evaluation", responses=answers(EVALUATION))
def evaluation(ref: str, session: Reading) -> Annotated[Json, Described(objects.Evaluation)]:
    """Quality on the test split, which no decision of the training has seen."""
    found = artifacts.find_version(session, ref)[1].evaluation
    if not found:
        raise Conflict(
            "not_evaluated",
            f"{ref} was imported, and its test pictures did not come with it",
            hint="`metrics` of the version are what its card says",
        )
    return found


def _shape(session: Session, row: Model) -> objects.Model:
    newest = session.scalar(select(func.max(ModelVersion.number)).where(ModelVersion.model_id == row.id))
    return shapes.model(row, newest or 0, aliases.all_current(session, row))
