"""Rows as the JSON that api.md promises."""

from typing import Any

from service import aliases, shadows
from service.api import objects
from service.datasets import versions
from service.db.tables import (
    AliasMove,
    ApiKey,
    Checkpoint,
    Dataset,
    DatasetVersion,
    Event,
    Item,
    Job,
    Model,
    ModelVersion,
    Prediction,
    PredictionItem,
    Shadow,
    Upload,
)
from service.ids import rfc3339
from service.jobs import TERMINAL
from service.labels import separate


def job(row: Job) -> objects.Job:
    return {
        "object": "job",
        "id": row.id,
        "type": row.type,
        "status": row.status,
        "is_terminal": row.status in TERMINAL,
        "stop_reason": row.stop_reason,
        "attempt": row.attempt,
        "progress": row.progress,
        "eta_seconds": row.eta_seconds,
        "spec": row.spec,
        "goal": row.goal,
        "budget": row.budget,
        "reasons": row.reasons,
        "estimate": row.estimate,
        "reproduces": row.reproduces,
        "search": row.search,
        "parent": row.parent,
        "trial": row.trial,
        "parameters": row.parameters,
        "seed": row.seed,
        "device": row.device,
        "determinism": (row.plan or {}).get("determinism"),
        "determinism_reason": (row.plan or {}).get("determinism_reason"),
        "plan": row.plan,
        "dataset": row.dataset,
        "model": row.model,
        "result": row.result,
        "error": row.error,
        "created_at": rfc3339(row.created_at),
        "started_at": rfc3339(row.started_at),
        "finished_at": rfc3339(row.finished_at),
    }


def listed_job(row: Job) -> objects.Job:
    """As in a list: without what is long in an evaluation."""
    shown = job(row)
    if row.type != "evaluate" or not row.result or not (whole := row.result["evaluation"]):
        return shown
    return shown | {"result": row.result | {"evaluation": {name: whole[name] for name in ("split", "n", "accuracy")}}}


def dataset(row: Dataset, versions: int) -> objects.Dataset:
    return {
        "object": "dataset",
        "id": row.id,
        "name": row.name,
        "versions": versions,
        "created_at": rfc3339(row.created_at),
    }


def upload(row: Upload) -> objects.Upload:
    return {
        "object": "upload",
        "id": row.id,
        "bytes": row.bytes,
        "received": row.received,
        "created_at": rfc3339(row.created_at),
        "expires_at": rfc3339(row.expires_at),
    }


def dataset_version(row: DatasetVersion) -> objects.DatasetVersion:
    return {
        "object": "dataset_version",
        "id": row.id,
        "dataset": row.dataset_id,
        "number": row.number,
        "digest": row.digest,
        "status": row.status,
        "task": "multi_label" if versions.several_labels(row) else "single_label",
        "classes": row.classes,
        "splits": row.splits,
        "image_count": row.image_count,
        "bytes": row.archive_bytes,
        "report": row.report,
        "created_at": rfc3339(row.created_at),
    }


def item(row: Item, *, several_labels: bool) -> objects.Item:
    return {
        "image": row.image,
        "path": row.path,
        "label": row.label,
        "split": row.split,
        "width": row.width,
        "height": row.height,
        "flags": row.flags,
        "labels": separate(row.label, several=several_labels),
    }


def event(row: Event) -> objects.Event:
    return {"id": f"evt_{row.number}", "type": row.type, "time": rfc3339(row.time), "data": row.data}


def checkpoint(row: Checkpoint) -> objects.Checkpoint:
    return {
        "id": row.id,
        "attempt": row.attempt,
        "epoch": row.epoch,
        "step": row.step,
        "is_last": row.is_last,
        "is_best": row.is_best,
        "created_at": rfc3339(row.created_at),
    }


def model(row: Model, newest: int, moves: list[AliasMove]) -> objects.Model:
    return {
        "object": "model",
        "id": row.id,
        "name": row.name,
        "newest_version": newest,
        "aliases": {move.alias: move.version for move in moves},
        "created_at": rfc3339(row.created_at),
    }


def model_block(row: Model, version: ModelVersion) -> objects.ModelBlock:
    """How an answer names the model version that gave it."""
    return {"name": row.name, "version": version.number, "weights_sha256": version.weights_sha256}


def model_version(name: str, row: ModelVersion) -> objects.ModelVersion:
    card = row.card
    return {
        "object": "model_version",
        "id": row.id,
        "model": name,
        "version": row.number,
        "created_at": rfc3339(row.created_at),
        "job": row.job_id,
        "weights_sha256": row.weights_sha256,
        "parameters": row.parameters,
        "task": card.get("task", "single_label"),
        "dataset": card["dataset"],
        "classes": card["classes"],
        "image_size": card["image_size"],
        "metrics": card["metrics"],
        "certificate": card["certificate"],
        "lineage": card["lineage"],
        "resize": card["resize"],
    }


def alias(model_name: str, move: AliasMove) -> objects.Alias:
    return {
        "object": "alias",
        "model": model_name,
        "alias": move.alias,
        "version": move.version,
        "etag": aliases.etag(move),
        "moved_at": rfc3339(move.time),
    }


def alias_move(row: AliasMove) -> objects.AliasMove:
    return {
        "object": "alias_move",
        "sequence": row.sequence,
        "version": row.version,
        "previous": row.previous,
        "action": row.action,
        "by": row.by,
        "time": rfc3339(row.time),
    }


def prediction(
    model_row: Model, version: ModelVersion, row: Prediction, items: list[PredictionItem]
) -> objects.Prediction:
    kept = [
        {**one.result, "image": one.image, "truth": one.truth, "labelled_at": rfc3339(one.labelled_at)} for one in items
    ]
    return {
        "object": "prediction",
        "id": row.id,
        "model": model_block(model_row, version),
        "ref": row.ref,
        "parameters": row.parameters,
        "results": kept,
        "by": row.by,
        "created_at": rfc3339(row.created_at),
    }


def shadow(model_name: str, row: Shadow, versions: dict[str, int], active: bool, differ: list[Any]) -> objects.Shadow:
    """`versions` are the numbers of candidate and alias's version, by id."""
    low, high = shadows.wilson(row.n - row.agreed, row.n)
    return {
        "object": "shadow",
        "model": model_name,
        "alias": row.alias,
        "version": versions[row.candidate_id],
        "against": versions[row.against_id],
        "share": row.share,
        "active": active,
        "n": row.n,
        "agreed": row.agreed,
        "disagreement": {"value": (row.n - row.agreed) / row.n if row.n else None, "low": low, "high": high},
        "disagreements": [{"label": one.label, "candidate": one.candidate, "count": one.count} for one in differ],
        "mean_absolute_difference": row.difference / row.n if row.n else None,
        "dropped": row.dropped,
        "failed": row.failed,
        "by": row.by,
        "started_at": rfc3339(row.created_at),
    }


def api_key(row: ApiKey) -> objects.ApiKey:
    return {
        "object": "api_key",
        "id": row.id,
        "name": row.name,
        "prefix": row.prefix,
        "scopes": row.scopes,
        "created_at": rfc3339(row.created_at),
        "revoked_at": rfc3339(row.revoked_at),
    }
