"""From a finished training to a model version: exported, certified, evaluated, registered with its whole record."""

import resource
from dataclasses import dataclass
from typing import Any

import torch

import service
from service import artifacts, comparison, estimates, jobs
from service.db.tables import DatasetVersion, Job
from service.ids import now, rfc3339
from service.images import RESIZE
from workers.certified import certified
from workers.context import Context
from workers.pictures import Pictures
from workers.recorder import Timing
from workers.training import evaluate, export, multilabel
from workers.training.state import TrainState, network_of, weights_sha256


@dataclass(frozen=True)
class Learned:
    """A training at its end."""

    pictures: Pictures
    state: TrainState
    plan: dict[str, Any]
    stop_reason: str
    timing: Timing | None = None  # of one that ran in one go


def take_best(context: Context, job: Job, state: TrainState) -> None:
    """The weights that the job is about: those of its best epoch."""
    with context.database.read() as session:
        best = artifacts.best_checkpoint(session, job.id)
        if best is not None:
            state.network.load_state_dict(network_of(artifacts.read_blob(session, best.id)))


@dataclass(frozen=True)
class Made:
    """A certified program with all that is known of it."""

    program: bytes
    engines: dict[str, bytes]  # its other forms, by kind
    card: dict[str, Any]
    evaluation: dict[str, Any]
    answers: dict[str, Any]  # to each test picture, for comparisons with other versions


def make_model(context: Context, job: Job, learned: Learned) -> Made:
    """Export, certify, evaluate."""
    pictures, state = learned.pictures, learned.state
    take_best(context, job, state)
    network = state.network.to("cpu").to(memory_format=torch.contiguous_format).eval()
    classifier = export.Classifier(network, averaging=job.spec["test_time_augmentation"])
    whole = export.fitted(classifier, pictures.packed, pictures.rows["train"], pictures.labels)
    split = "test" if len(pictures.rows["test"]) else "train"
    found = certified(context, job, whole, pictures, split)
    judge = multilabel.judge if pictures.several else evaluate.judge
    images = [pictures.images[row] for row in pictures.rows[split]]
    judged = judge(split, found.test, found.held_out, pictures.classes, images)
    fitted = judged.card | {"maps": whole.places is not None}
    card = _card(context, job, network, learned, found.certificate, judged.evaluation) | fitted
    answers = comparison.kept_answers(images, judged.labels, judged.predicted)
    return Made(found.program, found.engines, card, judged.evaluation, answers)


def register(context: Context, job: Job, made: Made, learned: Learned, **more: Any) -> None:
    """Program, card, version and the job's end in one transaction; `more` goes into the job's result."""
    program = artifacts.write_chunks(context.database, made.program)
    engines = {kind: artifacts.write_chunks(context.database, data) for kind, data in made.engines.items()}
    with context.database.write() as session:
        jobs.fenced(session, context.hold, plan=learned.plan)
        version = artifacts.add_model_version(
            session,
            str(job.model),
            job.id,
            program,
            card=made.card,
            evaluation=made.evaluation,
            answers=made.answers,
            engines=engines,
        )
        result = {
            "model": job.model,
            "version": version.number,
            "weights_sha256": made.card["weights_sha256"],
            "metrics": made.card["metrics"],
        }
        row = jobs.succeed(session, context.hold, result | more, learned.stop_reason)
        if learned.timing is not None:
            estimates.close(session, row, _took(row, learned.timing), context.settings)


def _took(row: Job, timing: Timing) -> estimates.Took:
    whole = now() - (row.started_at or now())
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux tells KiB
    return estimates.Took(timing.start, timing.training, timing.steps, whole, peak_bytes)


def _card(
    context: Context,
    job: Job,
    network: torch.nn.Module,
    learned: Learned,
    certificate: dict[str, Any],
    evaluation: dict[str, Any],
) -> dict[str, Any]:
    """What the model is and where it came from; serving needs nothing else."""
    with context.database.read() as session:
        version = session.get_one(DatasetVersion, job.version_id)
    return {
        "classes": learned.pictures.classes,
        "image_size": job.spec["image_size"],
        "resize": RESIZE,
        "task": "multi_label" if learned.pictures.several else "single_label",
        "weights_sha256": weights_sha256(network.state_dict()),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "dataset": job.dataset,
        "metrics": metrics_of(evaluation) | {"best_epoch": learned.state.counters.best_epoch},
        "certificate": certificate,
        "lineage": {
            "job": job.id,
            "dataset": {"name": job.dataset, "id": version.dataset_id, "digest": version.digest},
            "archive_sha256": version.archive_sha256,
            "spec": job.spec,
            "seed": job.seed,
            "plan": {key: learned.plan[key] for key in ("precision", "channels_last")},
            "code": {"fovea": service.__version__, "torch": torch.__version__},
            "trained_at": rfc3339(now()),
        },
    }


def metrics_of(evaluation: dict[str, Any]) -> dict[str, float]:
    """What a card says of the quality, for lists."""
    found = {"accuracy": evaluation["accuracy"]["value"]}
    if "mean_average_precision" in evaluation:
        found["mean_average_precision"] = evaluation["mean_average_precision"]
    return found
