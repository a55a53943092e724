"""Is it alive, is it ready, how is it doing. `/livez` depends on nothing."""

from pathlib import Path

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from sqlalchemy import func, select

import service
from service import disk, observed, readiness
from service.api import objects
from service.api.context import DatabaseDep, Reading, SettingsDep, require
from service.api.examples import INFO, NOT_READY, READY, answers
from service.db import Database
from service.db.tables import Job, ModelVersion
from service.settings import Settings

router = APIRouter(tags=["health"])


@router.get("/livez", response_class=PlainTextResponse)
async def livez() -> str:
    return "ok"


@router.get("/readyz", responses=answers(READY, 200, objects.Ready) | answers(NOT_READY, 503, objects.Ready))
def readyz(db: DatabaseDep, settings: SettingsDep) -> JSONResponse:
    """200 when requests can be served, else 503 naming what is not ready."""
    checks = readiness.checks(db, settings)
    ready = readiness.is_ready(checks)
    return JSONResponse({"ready": ready, "checks": checks}, 200 if ready else 503)


@router.get("/metrics", response_class=PlainTextResponse, dependencies=[Depends(require())])
def metrics(session: Reading, settings: SettingsDep) -> PlainTextResponse:
    """Prometheus text: answers and their seconds, pictures, errors by code; jobs, model versions, free disk."""
    registry = CollectorRegistry()
    jobs = Gauge("fovea_jobs", "Jobs by type and status", ["type", "status"], registry=registry)
    for job_type, status, count in session.execute(
        select(Job.type, Job.status, func.count()).group_by(Job.type, Job.status)
    ):
        jobs.labels(job_type, status).set(count)
    models = Gauge("fovea_model_versions", "Model versions", registry=registry)
    models.set(session.scalar(select(func.count()).select_from(ModelVersion)) or 0)
    free = Gauge("fovea_disk_free_bytes", "Free bytes of the disk that the data is on", registry=registry)
    free.set(disk.free(settings))
    return PlainTextResponse(generate_latest(registry) + observed.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/info", dependencies=[Depends(require())], responses=answers(INFO))
def info(settings: SettingsDep, db: DatabaseDep) -> objects.Info:
    """Version, database, limits, and how many bytes what is kept takes on the disk."""
    names = (
        "max_upload_bytes",
        "max_uploads",
        "max_archive_entries",
        "max_unpacked_bytes",
        "max_image_bytes",
        "max_image_pixels",
        "max_classify_images",
        "max_classify_bytes",
        "max_infer_json_bytes",
    )
    return {
        "version": service.__version__,
        "database": db.engine.dialect.name,
        "device": settings.device,
        "limits": {name: getattr(settings, name) for name in names},
        "storage": _storage(db, settings),
    }


def _storage(db: Database, settings: Settings) -> dict[str, int]:
    """Bytes by what they are for."""
    folders = {name: getattr(settings, name) for name in ("archives", "cache", "uploads", "predictions")}
    found = {name: sum(map(_size, folder.rglob("*"))) for name, folder in folders.items()}
    return {"free": disk.free(settings), "tables": db.bytes(), **found}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0  # gone in between
