"""An evaluate job: how well a model version answers the pictures of a dataset version, and how strange they look to it.

The engine that serves the version here is asked, a batch at a time, and nothing is fitted anew: what is told is what
`classify` would answer. Nothing is kept before all is found; one that was interrupted starts again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service import artifacts, jobs
from service.datasets import versions
from service.db.tables import DatasetVersion, Job, ModelVersion
from service.inference import choice, conformal, score
from service.inference.programs import Outputs, Stored, joined, load
from workers.context import Context
from workers.engine_run import BATCH
from workers.pictures import Pictures, pictures_of
from workers.progress import Progress
from workers.training import evaluate, multilabel, trust
from workers.training.trust import Answers

Json = dict[str, Any]
Rows = NDArray[np.int64]
Said = Callable[[Pictures, Rows], Outputs]

FALSE_ALARM = 0.05  # at which `classify` abstains, unless it is asked otherwise
MOST_MISTAKES = 100  # the surest: a job's result is read whole
MOST_NAMES = 20
IMPORTED = "the model was imported, and its pictures did not come with it"
DELETED = "the pictures that the model learned from were deleted"
UNTESTED = "the dataset that the model learned from has no test pictures"


@dataclass(frozen=True)
class Subject:
    """The model version that is evaluated, as it is served here."""

    number: int
    card: Json
    serving: Stored
    learned_from: str | None  # a dataset version, unless that is gone
    steps: int  # of the job: pictures to read, then pictures to ask about


@dataclass(frozen=True)
class Own:
    """What the model learned from; None where nobody has it any more, and then why."""

    pictures: Pictures | None
    why: str | None  # no test pictures of its own can be asked about

    def seen(self, images: list[str]) -> int | None:
        """How many of the pictures, by their SHA-256, are in its training split."""
        if self.pictures is None:
            return None
        learned = {self.pictures.images[row] for row in self.pictures.rows["train"]}
        return sum(image in learned for image in images)


def run(context: Context, job: Job) -> None:
    subject, progress = _subject(context, job), Progress(context)
    pictures = pictures_of(
        context, str(job.version_id), job.spec["image_size"], lambda done, _: progress.tell(done, subject.steps)
    )
    own = _own(context, subject)
    rows = _rows(pictures, job.spec["split"])
    said = _asking(context, subject, progress, len(pictures.images))
    found = said(pictures, rows)
    result = {
        "model": job.model,
        "version": subject.number,
        "dataset": job.dataset,
        "split": job.spec["split"],
        "n": len(rows),
        "engine": str(subject.serving.backend),
        **_evaluation(subject.card, job.spec["split"], pictures, rows, found),
        "ood": _strangers(subject.card, found, own, said),
        **_warnings(own, [pictures.images[row] for row in rows]),
    }
    _keep(context, result)


# --- what is there ---------------------------------------------------------------------------------------------------


def _subject(context: Context, job: Job) -> Subject:
    with context.database.read() as session:
        version = session.get_one(ModelVersion, job.spec["model_version_id"])
        backend = choice.pick(version.card, context.settings)
        learned_from = session.get_one(Job, version.job_id).version_id
        dataset = session.get_one(DatasetVersion, job.version_id)
        own = session.get_one(DatasetVersion, learned_from).splits.get("test", 0) if learned_from else 0
        steps = dataset.image_count + versions.count(dataset, job.spec["split"]) + own
        serving = artifacts.program(session, version, backend)
        return Subject(version.number, version.card, serving, learned_from, steps)


def _own(context: Context, subject: Subject) -> Own:
    if subject.learned_from is None:
        return Own(None, IMPORTED if "imported" in subject.card["lineage"] else DELETED)
    size = subject.card["image_size"]
    pictures = pictures_of(context, subject.learned_from, size, lambda _done, _total: context.let_go())
    return Own(pictures, None if len(pictures.rows["test"]) else UNTESTED)


def _rows(pictures: Pictures, split: str) -> Rows:
    return np.arange(len(pictures.images)) if split == "all" else pictures.rows[split]


def _asking(context: Context, subject: Subject, progress: Progress, done: int) -> Said:
    """The serving engine as a function of pictures and rows, which tells the progress from `done` steps on."""
    program = load(subject.serving, context.settings.device, context.settings.engine_threads)

    def said(pictures: Pictures, rows: Rows) -> Outputs:
        nonlocal done
        parts = []
        for start in range(0, len(rows), BATCH):
            progress.tell(done, subject.steps)
            batch = rows[start : start + BATCH]
            outputs = program.outputs(pictures.packed[batch])
            parts.append(Outputs(outputs.logits, outputs.strangeness))  # maps would be as large as pictures
            done += len(batch)
        return joined(parts)

    return said


# --- what is said of it ----------------------------------------------------------------------------------------------


def _evaluation(card: Json, split: str, pictures: Pictures, rows: Rows, found: Outputs) -> Json:
    """As a training evaluates; null, with the reason, where the labels are not those that the model can give."""
    foreign = [name for name in _present(pictures, rows) if name not in card["classes"]]
    why = None
    if foreign:
        why = f"the model does not know {len(foreign)} of the classes"
    elif pictures.several != score.several(card):
        kinds = ("several labels", "one label each")
        of, gives = kinds if pictures.several else kinds[::-1]
        why = f"the pictures have {of}, and the model was made for {gives}"
    told = None
    if why is None:
        judge = multilabel.evaluation_of if pictures.several else evaluate.evaluation_of
        images = [pictures.images[row] for row in rows]
        told = judge(split, _answers(card, pictures, rows, found), card, card["classes"], images)
        told["mistakes"] = told["mistakes"][:MOST_MISTAKES]
    return {"evaluation": told, "why": why, "foreign_classes": foreign[:MOST_NAMES]}


def _present(pictures: Pictures, rows: Rows) -> list[str]:
    """The classes that these pictures have."""
    labels, count = pictures.labels[rows], len(pictures.classes)
    there = labels.any(0) if pictures.several else np.bincount(labels, minlength=count) > 0
    return [pictures.classes[k] for k in np.flatnonzero(there)]


def _answers(card: Json, pictures: Pictures, rows: Rows, found: Outputs) -> Answers:
    strangeness = found.strangeness
    if strangeness is None:  # of a program that knows none, whose card promises nothing about it
        strangeness = np.zeros(len(rows), np.float32)
    return Answers(found.logits, strangeness, _labels(pictures, rows, card["classes"]))


def _labels(pictures: Pictures, rows: Rows, classes: list[str]) -> NDArray[Any]:
    """(N,) class numbers or (N, K) marks of the rows, in the model's classes, among which all of theirs are."""
    number = {name: k for k, name in enumerate(classes)}
    if not pictures.several:
        mine = np.array([number.get(name, -1) for name in pictures.classes])
        return np.asarray(mine[pictures.labels[rows]])
    marks = np.zeros((len(rows), len(classes)), np.float32)
    for k, name in enumerate(pictures.classes):
        if name in number:
            marks[:, number[name]] = pictures.labels[rows, k]
    return marks


def _strangers(card: Json, found: Outputs, own: Own, said: Said) -> Json | None:
    """How well strangeness tells these pictures from the model's own test pictures, and how many are abstained from.

    None for a version that keeps no strangeness.
    """
    kept = card.get("strangeness")
    if kept is None or found.strangeness is None:
        return None
    alarms = conformal.p_values(kept, found.strangeness.astype(np.float64)) <= FALSE_ALARM
    ordinary = _ordinary(own, said)
    return {
        "auroc": None if ordinary is None else trust.auroc(ordinary, found.strangeness),
        "why": own.why,
        "n_own": 0 if ordinary is None else len(ordinary),
        "abstained": {"false_alarm": FALSE_ALARM, **trust.share(alarms)},
    }


def _ordinary(own: Own, said: Said) -> NDArray[np.float32] | None:
    """(M,) strangeness of the model's own test pictures."""
    if own.pictures is None or own.why is not None:
        return None
    return said(own.pictures, own.pictures.rows["test"]).strangeness


def _warnings(own: Own, images: list[str]) -> Json:
    seen = own.seen(images)
    if not seen:
        return {"seen_in_training": seen, "warnings": []}
    message = f"{seen} of {len(images)} pictures are in the training split that the model learned from"
    hint = "take pictures that it has not seen: what it has learned says nothing of what is new"
    return {"seen_in_training": seen, "warnings": [{"code": "seen_in_training", "message": message, "hint": hint}]}


def _keep(context: Context, result: Json) -> None:
    with context.database.write() as session:
        jobs.fenced(session, context.hold)
        for warning in result["warnings"]:
            jobs.record_event(session, context.hold.job_id, "warning", {"message": warning["message"]})
        jobs.succeed(session, context.hold, result)
