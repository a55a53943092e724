"""`/v1/datasets/{d}/compare`: two versions of one dataset, side by side."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from service.api import objects
from service.api.context import Reading, require
from service.api.examples import DIFFERENCES, answers
from service.api.objects.values import Described, Json
from service.datasets import versions
from service.datasets.differences import differences

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], dependencies=[Depends(require("data", "train"))])


@router.get("/{dataset}/compare", responses=answers(DIFFERENCES))
def compare(
    dataset: str,
    session: Reading,
    before: Annotated[int, Query(alias="from", ge=1, le=2**31)],
    after: Annotated[int, Query(alias="to", ge=1, le=2**31)],
    limit: Annotated[int, Query(ge=0, le=1000, description="most pictures in each list; the counts are of all")] = 100,
) -> Annotated[Json, Described(objects.Differences)]:
    """Pictures added, removed, relabelled and moved to another split, from one ready version to another."""
    name = versions.find_dataset(session, dataset).name
    old, new = (versions.find_ready(session, f"{name}@{number}") for number in (before, after))
    return {"object": "dataset_comparison", "dataset": name, **differences(session, old, new, limit)}
