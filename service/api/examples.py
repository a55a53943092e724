"""What each route answers, as examples in /openapi.json. A test holds their fields against real answers."""

from typing import Any

from service.api import objects

TIME = "2026-01-31T09:30:00.000Z"

PROBLEM: objects.Problem = {
    "type": "/problems/unknown_field",
    "title": "Unprocessable Content",
    "status": 422,
    "detail": "/spec/netwrok: Extra inputs are not permitted",
    "code": "unknown_field",
    "param": "/spec/netwrok",
    "hint": "/docs shows what is accepted",
    "request_id": "req_06b2c9a1",
}
SPEC = {
    "recipe": None,
    "network": "classic",
    "image_size": 64,
    "initial_weights": None,
    "initialisation": None,
    "epochs": 20,
    "batch_size": 64,
    "precision": "auto",
    "optimizer": {
        "name": "adam",
        "lr": 0.001,
        "weight_decay": 0.0,
        "momentum": 0.9,
        "norm_bias_rate": 1.0,
        "clip_norm": None,
        "accumulate": 1,
    },
    "schedule": {"name": "cosine", "warmup": 0.0},
    "loss": {"name": "cross_entropy", "gamma": 2.0, "label_smoothing": 0.0, "class_weights": None},
    "augment": {
        "horizontal_flip": True,
        "vertical_flip": False,
        "crop": 0.1,
        "brightness": 0.1,
        "contrast": 0.1,
        "saturation": 0.1,
        "rotate": 0.0,
        "zoom": 0.0,
        "erase": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
    },
    "ema": None,
    "progressive": None,
    "test_time_augmentation": None,
    "transfer": None,
    "normalisation": "plain",
    "early_stopping": None,
}
ESTIMATE = {
    "seconds": {"p10": 24.1, "p50": 29.5, "p90": 41.0},
    "parts": {"start": 1.9, "training": 21.0, "end": 6.2},
    "formula": {
        "start": 4.0,
        "training": 30.1,
        "steps": 900,
        "pictures": 28800,
        "end": 7.2,
        "end_pictures": 5500,
        "memory": 1140850688,
    },
    "memory_bytes": 301989888,
    "disk_bytes": 51200000,
    "based_on": "earlier jobs of this machine",
}
JOB: objects.Job = {
    "object": "job",
    "id": "job_06b2c9a1",
    "type": "train",
    "status": "running",
    "is_terminal": False,
    "stop_reason": None,
    "attempt": 1,
    "progress": {"epoch": 3, "epochs": 20, "step": 96, "steps": 640, "fraction": 0.15, "images_per_second": 1340.2},
    "eta_seconds": {"p10": 24.1, "p50": 26.0, "p90": 30.4},
    "spec": SPEC,
    "goal": {"metric": "accuracy", "at_least": 0.95},
    "budget": {"seconds": 900.0},
    "reasons": {"epochs": "few pictures want many epochs: 60 for 126"},
    "estimate": ESTIMATE,
    "reproduces": None,
    "search": None,
    "parent": None,
    "trial": None,
    "parameters": None,
    "seed": 7,
    "device": "cpu",
    "determinism": "exact",
    "determinism_reason": None,
    "plan": {
        "precision": "fp32",
        "channels_last": True,
        "seconds": {"fp32": 0.07, "fp32_channels_last": 0.05},
        "determinism": "exact",
        "determinism_reason": None,
    },
    "dataset": "flowers@1",
    "model": "flowers",
    "result": None,
    "error": None,
    "created_at": TIME,
    "started_at": TIME,
    "finished_at": None,
}
CALIBRATION: objects.Calibration = {"jobs": 20, "inside": 17, "share": 0.85, "intended": 0.8}
IMPORT_JOB: objects.Job = {
    **JOB,
    "type": "import",
    "spec": {},
    "model": None,
    "status": "queued",
    "attempt": 0,
    "plan": None,
    "determinism": None,
}
TRAIN = {
    "type": "train",
    "model": "flowers",
    "dataset": "flowers",
    "seed": 7,
    "spec": {"network": "resnet18", "optimizer": {"name": "adamw"}},
    "goal": {"metric": "accuracy", "at_least": 0.95},
    "budget": {"seconds": 900},
}
SEARCH = {
    "type": "search",
    "model": "flowers",
    "dataset": "flowers",
    "seed": 7,
    "spec": {"epochs": 8},
    "space": {
        "/optimizer/lr": {"log_uniform": [0.0001, 0.1]},
        "/optimizer/name": {"choice": ["adam", "adamw", "sgd"]},
        "/network": {"choice": ["classic", "resnet18", {"layers": [{"conv": {"filters": 16}}, {"max_pool": 4}]}]},
        "/loss/label_smoothing": {"uniform": [0, 0.2]},
    },
    "trials": 20,
    "budget": {"seconds": 600},
    "metric": "val/accuracy",
}
IMPORT_MODEL_JOB: objects.Job = {
    **IMPORT_JOB,
    "type": "import_model",
    "spec": {"blob_id": "blob_06b2c9a1", "sha256": "9f2c" * 16, "bytes": 4_200_000},
    "model": "flowers",
    "dataset": None,
}
EXPORT = {"type": "export", "model": "flowers:3"}
EXPORT_JOB: objects.Job = {
    **IMPORT_JOB,
    "type": "export",
    "spec": {"model": "flowers:3", "version_id": "mv_06b2c9a1"},
    "model": "flowers",
    "dataset": None,
}
INT8 = {"type": "export", "model": "flowers:3", "int8": {"max_drop": 0.01}}
INT8_JOB: objects.Job = {
    **EXPORT_JOB,
    "spec": {
        "model": "flowers:3",
        "version_id": "mv_06b2c9a1",
        "image_size": 64,
        "int8": {"max_drop": 0.01, "even_if_slower": False},
    },
    "dataset": "flowers@1",
}
ANALYSE = {"type": "analyse", "dataset": "flowers@1"}
ANALYSE_JOB: objects.Job = {
    **IMPORT_JOB,
    "type": "analyse",
    "spec": {"folds": 5, "image_size": 64, "model": None, "model_version_id": None},
}
TRIAL = {"/optimizer/lr": 0.0021, "/optimizer/name": "adamw", "/network": "classic", "/loss/label_smoothing": 0.04}
SEARCH_JOB: objects.Job = {
    **JOB,
    "type": "search",
    "status": "succeeded",
    "is_terminal": True,
    "stop_reason": "completed",
    "progress": {"trial": 20, "trials": 20, "fraction": 1.0, "best_value": 0.963},
    "search": {key: SEARCH[key] for key in ("space", "trials", "metric")},
    "result": {
        "trial": "job_06b2c9b7",
        "parameters": TRIAL,
        "value": 0.963,
        "model": "flowers",
        "version": 2,
        "weights_sha256": "c0ffee…",
        "metrics": {"accuracy": 0.951, "best_epoch": 8},
        "trials": 20,
        "pruned": 6,
    },
    "finished_at": TIME,
}
DATASET: objects.Dataset = {
    "object": "dataset",
    "id": "ds_06b2c9a1",
    "name": "flowers",
    "versions": 1,
    "created_at": TIME,
}
UPLOAD: objects.Upload = {
    "object": "upload",
    "id": "up_06b2c9a1",
    "bytes": 5242880,
    "received": 0,
    "created_at": TIME,
    "expires_at": TIME,
}
PUSHED: objects.Pushed = {"id": "ds_06b2c9a1", "name": "flowers", "version": 1, "job": IMPORT_JOB}
REPORT = {
    "accepted": 180,
    "rejected": [{"path": "rose/07.jpg", "code": "image_truncated", "message": "The JPEG picture ends …", "hint": "…"}],
    "skipped": [{"path": "notes.txt", "code": "not_a_picture"}],
    "duplicates": [],
    "near_duplicates": [],
    "leaks": [],
    "warnings": [{"code": "rejected", "message": "1 pictures were left out", "hint": "see `rejected` …"}],
}
VERSION: objects.DatasetVersion = {
    "object": "dataset_version",
    "id": "dv_06b2c9a1",
    "dataset": "ds_06b2c9a1",
    "number": 1,
    "digest": "9f2c…",
    "status": "ready",
    "task": "single_label",
    "classes": [{"name": "rose", "count": 90}, {"name": "tulip", "count": 90}],
    "splits": {"train": 126, "val": 27, "test": 27},
    "image_count": 180,
    "bytes": 5242880,
    "report": REPORT,
    "created_at": TIME,
}
EDITED: objects.DatasetVersion = {
    **VERSION,
    "number": 2,
    "digest": "71d0…",
    "report": {
        **{key: [] for key in REPORT},
        "accepted": 180,
        "edited": {"from": 1, "relabelled": 3, "moved": 0, "removed": 0},
    },
}
ITEM: objects.Item = {
    "image": "5e88…",
    "path": "rose/01.jpg",
    "label": "rose",
    "split": "train",
    "width": 640,
    "height": 480,
    "flags": [],
    "labels": ["rose"],
}
SUSPECT = {
    "rank": 1,
    "image": "5e88…",
    "path": "rose/01.jpg",
    "label": "rose",
    "labels": ["rose"],
    "split": "train",
    "reason": "improbable_label",
    "message": "a classifier that has not seen it says 'tulip' (97%), and 'rose' with 1.2%",
    "suggested": "tulip",
    "suggested_labels": ["tulip"],
    "self_confidence": 0.012,
    "suggested_probability": 0.97,
    "alike": [],
}
SUSPECTS: objects.Suspects = {
    "object": "list",
    "data": [SUSPECT],
    "has_more": False,
    "next": None,
    "analysis": {
        "id": "an_06b2c9a1",
        "job": "job_06b2c9a1",
        "model": None,
        "pictures": 180,
        "folds": 5,
        "agreement": 0.93,
        "suspects": {"duplicates_disagree": 0, "improbable_label": 1, "unusual_picture": 0},
        "created_at": TIME,
    },
}
LISTED: objects.Listed = {"image": "5e88…", "path": "rose/01.jpg", "label": "rose", "split": "train"}
DIFFERENCES: objects.Differences = {
    "object": "dataset_comparison",
    "dataset": "flowers",
    "from": 1,
    "to": 2,
    "pictures": {"from": 180, "to": 181, "both": 180},
    "counts": {"added": 1, "removed": 0, "relabelled": 1, "moved": 1},
    "added": [{**LISTED, "image": "77ab…", "path": "rose/91.jpg"}],
    "removed": [],
    "relabelled": [{**LISTED, "from": "tulip", "to": "rose"}],
    "moved": [{**LISTED, "from": "test", "to": "train"}],
}
EVENT: objects.Event = {"id": "evt_12", "type": "status", "time": TIME, "data": {"status": "running", "attempt": 1}}
CHECKPOINT: objects.Checkpoint = {
    "id": "blob_06b2c9a1",
    "attempt": 1,
    "epoch": 3,
    "step": 96,
    "is_last": True,
    "is_best": True,
    "created_at": TIME,
}
METRICS: objects.Metrics = {"series": [{"name": "val/accuracy", "points": [[32, 1, 0.71, TIME], [64, 2, 0.83, TIME]]}]}
MODEL: objects.Model = {
    "object": "model",
    "id": "model_06b2c9a1",
    "name": "flowers",
    "newest_version": 1,
    "aliases": {"production": 1},
    "created_at": TIME,
}
CERTIFICATE = {
    "engine": "openvino fp32",
    "n": 27,
    "top1_equal": 27,
    "max_probability_difference": 2.4e-07,
    "passed": True,
    "tolerance": 0.0001,
    "agreement": 0.99,
    "reason": "the fastest that may be: 1 picture in 0.33 ms, 8 in 1.13 ms, 64 in 7.75 ms, against "
    "torch fp32 1 picture in 1.13 ms, 8 in 3.61 ms, 64 in 26.9 ms",
    "threads": 2,
    "candidates": [
        {
            "engine": engine,
            "ms": {"1": alone, "8": eight, "64": many},
            "top1_equal": 27,
            "max_probability_difference": 2.4e-07,
            "batch_difference": 1.2e-07,
            "p_worse": 1.0,
            "passed": True,
            "why": None,
        }
        for engine, alone, eight, many in (("torch fp32", 1.13, 3.61, 26.9), ("openvino fp32", 0.33, 1.13, 7.75))
    ],
}
MODEL_VERSION: objects.ModelVersion = {
    "object": "model_version",
    "id": "mv_06b2c9a1",
    "model": "flowers",
    "version": 1,
    "created_at": TIME,
    "job": "job_06b2c9a1",
    "weights_sha256": "c0ffee…",
    "parameters": 4288066,
    "task": "single_label",
    "dataset": "flowers@1",
    "classes": ["rose", "tulip"],
    "image_size": 64,
    "metrics": {"accuracy": 0.963, "best_epoch": 18},
    "certificate": CERTIFICATE,
    "lineage": {"job": "job_06b2c9a1", "seed": 7, "spec": SPEC, "code": {"fovea": "0.1.0"}},
    "resize": {"mode": "squash", "filter": "bilinear", "antialias": True},
}
EVALUATION: objects.Evaluation = {
    "split": "test",
    "n": 27,
    "accuracy": {"value": 0.963, "low": 0.817, "high": 0.993},
    "per_class": [{"label": "rose", "precision": 0.93, "recall": 1.0, "f1": 0.966, "support": 14}],
    "confusion_matrix": {"labels": ["rose", "tulip"], "counts": [[14, 0], [1, 12]]},
    "calibration": {
        "ece_before": 0.041,
        "ece_before_interval": {"low": 0.012, "high": 0.071},
        "ece_after": 0.018,
        "ece_after_interval": {"low": 0.0, "high": 0.037},
        "temperature": 1.31,
        "bins": [{"from": 0.933, "to": 1.0, "n": 25, "confidence": 0.98, "accuracy": 1.0}],
    },
    "thresholds": [{"threshold": 0.9, "precision": 1.0, "recall": 0.926, "answered": 0.926}],
    "mistakes": [{"image": "5e88…", "label": "tulip", "predicted": "rose", "probability": 0.71}],
    "prediction_sets": [
        {
            "coverage": 0.95,
            "empirical": {"value": 0.963, "low": 0.817, "high": 0.993},
            "expected": {"low": 0.815, "high": 1.0},
            "kept": True,
            "mean_size": 1.15,
        },
    ],
    "out_of_distribution": [
        {
            "false_alarm": 0.05,
            "empirical": {"value": 0.037, "low": 0.007, "high": 0.183},
            "expected": {"low": 0.0, "high": 0.185},
            "kept": True,
        },
    ],
}
EVALUATE = {"type": "evaluate", "model": "flowers:3", "dataset": "garden@1", "split": "all"}
EVALUATE_JOB: objects.Job = {
    **IMPORT_JOB,
    "type": "evaluate",
    "status": "succeeded",
    "is_terminal": True,
    "stop_reason": "completed",
    "attempt": 1,
    "spec": {"model": "flowers:3", "model_version_id": "mv_06b2c9a1", "image_size": 64, "split": "all"},
    "dataset": "garden@1",
    "model": "flowers",
    "result": {
        "model": "flowers",
        "version": 3,
        "dataset": "garden@1",
        "split": "all",
        "n": 27,
        "engine": "openvino fp32",
        "evaluation": EVALUATION | {"split": "all"},
        "why": None,
        "foreign_classes": [],
        "ood": {
            "auroc": {"value": 0.61, "low": 0.448, "high": 0.749},
            "why": None,
            "n_own": 27,
            "abstained": {"false_alarm": 0.05, "value": 0.148, "low": 0.059, "high": 0.325},
        },
        "seen_in_training": 0,
        "warnings": [],
    },
    "finished_at": TIME,
}
ALIAS: objects.Alias = {
    "object": "alias",
    "model": "flowers",
    "alias": "production",
    "version": 3,
    "etag": '"2"',
    "moved_at": TIME,
}
ALIAS_MOVE: objects.AliasMove = {
    "object": "alias_move",
    "sequence": 2,
    "version": 3,
    "previous": 1,
    "action": "set",
    "by": "key_06b2c9a1",
    "time": TIME,
}
COMPARISON: objects.Comparison = {
    "object": "comparison",
    "a": {"name": "flowers", "version": 1, "weights_sha256": "c0ffee…"},
    "b": {"name": "flowers", "version": 3, "weights_sha256": "decaf…"},
    "n": 27,
    "both_right": 24,
    "both_wrong": 0,
    "right_to_wrong": 1,
    "wrong_to_right": 2,
    "accuracy": {"a": 0.926, "b": 0.963},
    "accuracy_difference": {"value": 0.037, "low": -0.098, "high": 0.167},
    "p_value": 1.0,
    "p_worse": 0.875,
    "changed": [{"image": "5e88…", "label": "tulip", "a": "tulip", "b": "rose", "change": "right_to_wrong"}],
}
CLASSIFIED: objects.Classified = {
    "id": "pred_06b2c9a1",
    "model": {"name": "flowers", "version": 1, "weights_sha256": "c0ffee…"},
    "results": [
        {
            "filename": "a.jpg",
            "label": "rose",
            "labels": ["rose"],
            "probability": 0.97,
            "predictions": [{"label": "rose", "probability": 0.97}, {"label": "tulip", "probability": 0.03}],
            "prediction_set": ["rose"],
            "ood": {"p_value": 0.41},
            "decision": "accept",
            "explanation": None,
            "error": None,
        }
    ],
    "timing_ms": {"decode": 0.4, "queue": 0.1, "model": 3.9, "total": 4.6},
}
PREDICTION: objects.Prediction = {
    "object": "prediction",
    "id": "pred_06b2c9a1",
    "model": CLASSIFIED["model"],
    "ref": "flowers@production",
    "parameters": {"top_k": 5, "coverage": 0.95, "false_alarm": 0.05},
    "results": [{**CLASSIFIED["results"][0], "image": "5e88…", "truth": "rose", "labelled_at": TIME}],
    "by": "key_06b2c9a1",
    "created_at": TIME,
}
REPLAY: objects.Replay = {
    "object": "replay",
    "prediction": "pred_06b2c9a1",
    "model": CLASSIFIED["model"],
    "equal": False,
    "differences": [{"index": 0, "field": "probability", "before": 0.97, "after": 0.970001}],
    "results": [{**CLASSIFIED["results"][0]}],
}
LABELLED = {"label": "rose", "index": 0}
GROWN: objects.Grown = {**PUSHED, "version": 2, "added": 12, "of": 15}
SHADOW: objects.Shadow = {
    "object": "shadow",
    "model": "flowers",
    "alias": "production",
    "version": 4,
    "against": 3,
    "share": 0.1,
    "active": True,
    "n": 1200,
    "agreed": 1164,
    "disagreement": {"value": 0.03, "low": 0.0217, "high": 0.0412},
    "disagreements": [{"label": "rose", "candidate": "tulip", "count": 21}],
    "mean_absolute_difference": 0.041,
    "dropped": 12,
    "failed": 0,
    "by": "key_06b2c9a1",
    "started_at": TIME,
}
SERVER_METADATA: objects.ServerMetadata = {"name": "fovea", "version": "0.1.0", "extensions": ["binary_tensor_data"]}
MODEL_METADATA: objects.ModelMetadata = {
    "name": "flowers",
    "versions": ["1", "2"],
    "platform": "pytorch_export",
    "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
    "outputs": [
        {"name": "labels", "datatype": "BYTES", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "p_values", "datatype": "FP32", "shape": [-1]},
    ],
    "classes": ["rose", "tulip"],
}
INFERENCE_REQUEST = {
    "id": "42",
    "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["iVBORw0KGgo…"]}],
    "outputs": [{"name": "labels"}],
}
INFERENCE: objects.Inference = {
    "model_name": "flowers",
    "model_version": "1",
    "id": "42",
    "parameters": {"weights_sha256": "c0ffee…"},
    "outputs": [{"name": "labels", "datatype": "BYTES", "shape": [1], "data": ["rose"]}],
}
TORCHSERVE = {"rose": 0.97, "tulip": 0.03}
API_KEY: objects.ApiKey = {
    "object": "api_key",
    "id": "key_06b2c9a1",
    "name": "shop",
    "prefix": "fov_a1b2",
    "scopes": ["predict"],
    "created_at": TIME,
    "revoked_at": None,
}
NEW_KEY: objects.ShownKey = {**API_KEY, "key": "fov_…"}
SESSION: objects.Session = {"object": "session", "auth": "on", "scopes": ["admin"], "expires_at": TIME}
SIGN_IN_LINK: objects.SignInLink = {"object": "sign_in_link", "code": "Jq3…", "path": "/#code=Jq3…", "expires_at": TIME}
READY: objects.Ready = {"ready": True, "checks": {"database": "ok", "disk": "ok"}}
NOT_READY: objects.Ready = {
    "ready": False,
    "checks": {"database": "ok", "disk": "12345 bytes free, 1073741824 are kept"},
}
INFO: objects.Info = {
    "version": "0.1.0",
    "database": "sqlite",
    "device": "auto",
    "limits": {"max_upload_bytes": 2147483648},
    "storage": {
        "free": 53687091200,
        "tables": 73400320,
        "archives": 5242880,
        "cache": 2211840,
        "uploads": 0,
        "predictions": 0,
    },
}
NETWORK: objects.Network = {
    "name": "resnet18",
    "pretrained": True,
    "parameters": 11689512,
    "multiply_adds": 1810000000,
    "at": {"image_size": 224, "classes": 1000},
    "smallest_image_size": 32,
}
NETWORK_DETAILS: objects.NetworkDetails = {
    **NETWORK,
    "template": {"type": "train", "model": "NAME", "dataset": "DATASET", "spec": {"network": "resnet18"}},
    "layers": None,
    "schema": {"title": "TrainSpec", "type": "object"},
}
DRY_RUN: objects.DryRun = {
    "spec": SPEC,
    "reasons": {"epochs": "few pictures want many epochs: 60 for 126"},
    "dataset": "flowers@1",
    "parameters": 4288066,
    "multiply_adds": 45236224,
    "estimate": ESTIMATE,
    "layers": [{"kind": "conv", "out": [32, 64, 64], "parameters": 896, "multiply_adds": 3538944}],
}


def answers(
    example: Any, status: int = 200, kind: Any = None, also: str | None = None
) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers with such JSON: of this kind, where its signature does not say so.

    `also` is another media type that it may answer with.
    """
    other: dict[str, Any] = {also: {"schema": {"type": "string"}}} if also else {}
    return {status: {"model": kind, "content": {"application/json": {"example": example}, **other}}}


def chosen(status: int, kind: Any, **examples: Any) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers with JSON of a kind that has several examples."""
    named = {name: {"value": example} for name, example in examples.items()}
    return {status: {"model": kind, "content": {"application/json": {"examples": named}}}}


def listed(example: Any, kind: Any = None, also: str | None = None) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers with a page of them."""
    return answers({"object": "list", "data": [example], "has_more": False, "next": None}, kind=kind, also=also)


OVERLOADED = PROBLEM | {
    "type": "/problems/overloaded",
    "title": "Overloaded",
    "status": 503,
    "detail": "too many pictures are waiting",
    "code": "overloaded",
    "param": None,
    "hint": "try again shortly",
}
_SCHEMA = {"$ref": "#/components/schemas/Problem"}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "description": "What is wrong, with a code, where, and what to do (RFC 9457)",
        "content": {"application/problem+json": {"schema": _SCHEMA, "example": PROBLEM}},
    },
    "5XX": {
        "description": "503 with Retry-After: more is asked than can be done now; 507: the disk is full; 500: a fault",
        "content": {"application/problem+json": {"schema": _SCHEMA, "example": OVERLOADED}},
    },
}
