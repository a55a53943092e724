"""`/v1/models`: what was trained, how good it is, where it came from. `/v1/networks`: what can be trained."""

from typing import Any

from fastapi import APIRouter, Depends
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service import aliases, artifacts
from service.api import shapes
from service.api.context import Reading, require
from service.api.examples import EVALUATION, MODEL, MODEL_VERSION, NETWORK, answers, listed
from service.api.paging import PageDep
from service.db.tables import Model, ModelVersion
from service.networks import NETWORKS

router = APIRouter(prefix="/v1", tags=["models"], dependencies=[Depends(require("predict", "train"))])


@router.get("/networks", responses=listed(NETWORK))
def list_networks() -> dict[str, Any]:
    """The named networks, with parameters (1000 classes) and multiply-adds (224 px). `classic` is the textbook one."""
    data: list[dict[str, Any]] = [{"name": "classic", "smallest_image_size": 8}]
    for name, known in NETWORKS.items():
        multiply_adds = int(known.giga_multiply_adds * 1e9)
        data.append(
            {
                "name": name,
                "parameters": known.parameters,
                "multiply_adds": multiply_adds,
                "smallest_image_size": known.smallest,
            }
        )
    return {"object": "list", "data": data, "has_more": False, "next": None}


@router.get("/models", responses=listed(MODEL))
def list_models(session: Reading, page: PageDep) -> dict[str, Any]:
    return page.read(session, select(Model), Model.id, lambda row: _shape(session, row), newest_first=True)


@router.get("/models/{model}", responses=answers(MODEL))
def show(model: str, session: Reading) -> dict[str, Any]:
    return _shape(session, artifacts.find_model(session, model))


@router.get("/models/{model}/versions", responses=listed(MODEL_VERSION))
def list_versions(model: str, session: Reading, page: PageDep) -> dict[str, Any]:
    row = artifacts.find_model(session, model)
    query = select(ModelVersion).where(ModelVersion.model_id == row.id)

    def shape(version: ModelVersion) -> dict[str, Any]:
        return shapes.model_version(row.name, version)

    return page.read(session, query, ModelVersion.number, shape, newest_first=True)


@router.get("/models/{model}/versions/{number}", responses=answers(MODEL_VERSION))
def show_version(model: str, number: int, session: Reading) -> dict[str, Any]:
    row, version = artifacts.find_version(session, f"{artifacts.find_model(session, model).name}:{abs(number)}")
    return shapes.model_version(row.name, version)


@router.get("/models/{ref}/evaluation", responses=answers(EVALUATION))
def evaluation(ref: str, session: Reading) -> dict[str, Any]:
    """Quality on the test split, which no decision of the training has seen."""
    return artifacts.find_version(session, ref)[1].evaluation


def _shape(session: Session, row: Model) -> dict[str, Any]:
    newest = session.scalar(select(func.max(ModelVersion.number)).where(ModelVersion.model_id == row.id))
    return shapes.model(row, newest or 0, aliases.all_current(session, row))
