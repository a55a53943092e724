"""The JSON objects that routes answer with, field by field: the schemas of /openapi.json.

What jobs wrote as JSON is described (`Described`) and answered as it was written, whatever release wrote it.
"""

from service.api.objects.access import ApiKey, Info, Problem, Ready, Session, ShownKey, SignInLink
from service.api.objects.datasets import (
    Dataset,
    DatasetVersion,
    Differences,
    Grown,
    Item,
    Listed,
    Pushed,
    Suspects,
    Upload,
)
from service.api.objects.jobs import Calibration, Checkpoint, DryRun, Event, Job, Metrics
from service.api.objects.models import (
    Alias,
    AliasMove,
    Comparison,
    Evaluation,
    Model,
    ModelBlock,
    ModelVersion,
    Network,
    NetworkDetails,
    Shadow,
)
from service.api.objects.predictions import (
    Classified,
    Difference,
    Inference,
    ModelMetadata,
    ModelReady,
    Prediction,
    Replay,
    ServerMetadata,
)

__all__ = [
    "Alias",
    "AliasMove",
    "ApiKey",
    "Calibration",
    "Checkpoint",
    "Classified",
    "Comparison",
    "Dataset",
    "DatasetVersion",
    "Difference",
    "Differences",
    "DryRun",
    "Evaluation",
    "Event",
    "Grown",
    "Inference",
    "Info",
    "Item",
    "Job",
    "Listed",
    "Metrics",
    "Model",
    "ModelBlock",
    "ModelMetadata",
    "ModelReady",
    "ModelVersion",
    "Network",
    "NetworkDetails",
    "Prediction",
    "Problem",
    "Pushed",
    "Ready",
    "Replay",
    "ServerMetadata",
    "Session",
    "Shadow",
    "ShownKey",
    "SignInLink",
    "Suspects",
    "Upload",
]
