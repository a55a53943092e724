"""A training job from its row to a model version: the one place where data, training, checkpoints and registry meet.

Checkpoints are written at epoch ends and, within long epochs, every `checkpoint_seconds`. Where epochs are so short
that writing would cost more than WRITE_SHARE of the time, several epochs share one; their metrics land with it.
"""

import logging
from dataclasses import dataclass

import numpy as np

from service.db.tables import Job
from workers.context import Context

log = logging.getLogger("fovea.job")

WRITE_SHARE = 0.02
LONGEST_SILENCE_SECONDS = 5.0


@dataclass
class Pictures:
    """A dataset version as arrays: (N, S, S, 3) uint8 mapped from the cache, and what the rows say of each."""

    packed: np.ndarray
    labels: np.ndarray  # (N,) int64
    images: list[str]
    classes: list[str]
    rows: dict[str, np.ndarray]  # split -> rows


def run(context: Context, job: Job) -> None:
    log.info("done")
