"""What a trained model says of the pictures that it did not learn from, beside the answers of the folds."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sqlalchemy import select

from service import artifacts
from service.datasets import importer
from service.db.tables import DatasetVersion, Item, Job, ModelVersion
from service.errors import Conflict
from service.inference import score, torch_program
from workers.analysis.crossfit import Answers
from workers.context import Context
from workers.pictures import Pictures

BATCH = 256


class Opinion:
    def __init__(self, context: Context, job: Job, pictures: Pictures, groups: NDArray[np.int64]) -> None:
        """`groups` (N,): rows that look the same have the same number. Raises Conflict without what it learned from."""
        self._context, self._pictures = context, pictures
        with context.database.read() as session:
            version = session.get_one(ModelVersion, job.spec["model_version_id"])
            trained = session.get_one(Job, version.job_id)
            if trained.version_id is None:
                raise Conflict("dataset_deleted", "the pictures that the model learned from were deleted meanwhile")
            learned = select(Item.image).where(Item.version_id == trained.version_id, Item.split == "train")
            known = set(session.scalars(learned))
            program = artifacts.read_blob(session, version.program_id)
            dataset = session.get_one(DatasetVersion, job.version_id)
            self._card = version.card
            size = self._card["image_size"]
            cache = importer.ensure_cache(session, dataset, size, context.settings, warn=context.warn)
        seen = np.array([image in known for image in pictures.images])
        self._rows = np.flatnonzero(~np.isin(groups, groups[seen]))
        self._packed = np.load(cache, mmap_mode="r", allow_pickle=False)
        device = torch_program.pick_device(context.settings.device)
        self._program = torch_program.load(program, device, torch.get_num_threads())

    def added(self, answers: Answers) -> Answers:
        """The mean of both, where the model may speak: it did not learn from a picture or one that looks the same."""
        found = answers.probabilities.copy()
        order = [self._card["classes"].index(name) for name in self._pictures.classes]
        for start in range(0, len(self._rows), BATCH):
            self._context.let_go()
            rows = self._rows[start : start + BATCH]
            said = self._said(rows)[:, order]
            found[rows] = np.where(np.isnan(found[rows]), said, (found[rows] + said) / 2)
        return Answers(found, answers.strangeness)

    def _said(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        return score.chances(self._program(np.ascontiguousarray(self._packed[rows])), self._card)
