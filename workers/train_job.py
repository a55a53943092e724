"""A training job from its row to a model version: the one place where data, training, checkpoints and registry meet.

Checkpoints are written at epoch ends and, within long epochs, every `checkpoint_seconds`. Where epochs are so short
that writing would cost more than WRITE_SHARE of the time, several epochs share one, at the latest after
`checkpoint_seconds`. Their metrics are shown meanwhile: an epoch that a later attempt trains again has the same ones.
"""

import logging
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import torch
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

import service
from service import artifacts, comparison, jobs
from service.datasets import importer
from service.db.tables import DatasetVersion, Item, Job, Measurement, Metric
from service.errors import InternalError
from service.ids import now, rfc3339
from service.images import RESIZE
from service.inference.programs import Program, load, pick_device
from workers.context import Context, Interrupted
from workers.training import evaluate, export, precision, trust
from workers.training.data import Split
from workers.training.loop import EpochResult, Run, StepProgress, train
from workers.training.state import TrainState, network_of, prepare, start, weights_sha256

log = logging.getLogger("fovea.job")

WRITE_SHARE = 0.02
PROGRESS_SECONDS = 1.0


@dataclass(frozen=True)
class Pictures:
    """A dataset version as arrays. `packed` is (N, S, S, 3) uint8, mapped from the cache."""

    packed: np.ndarray[Any, np.dtype[np.uint8]]
    labels: np.ndarray[Any, np.dtype[np.int64]]  # (N,) into classes
    images: list[str]  # SHA-256 of each picture file
    classes: list[str]
    rows: dict[str, np.ndarray[Any, np.dtype[np.int64]]]  # of each split

    def split(self, name: str, device: str) -> Split:
        rows = self.rows[name]
        return Split.of(self.packed, rows, self.labels[rows], device)


def warm_up() -> None:
    """Exports the least of networks: the first export of a process imports for seconds."""
    export.export_program(export.Classifier(torch.nn.Flatten()), 1)


def run(context: Context, job: Job) -> None:
    """Trains to the end and registers the model, or raises Interrupted with a checkpoint written."""
    device = pick_device(context.settings.device)
    threads = context.settings.threads or psutil.cpu_count(logical=False) or 1
    prepare(device, threads)
    pictures = _pictures(context, job)
    plan = job.plan or _plan(context, job, pictures, device, threads)
    state = start(job.spec, len(pictures.classes), job.seed, device, plan)
    _resume(context, job, state)
    settings_of_run = Run(pictures.split("train", device), pictures.split("val", device), job.spec, plan, job.seed)
    stop_reason = _Recorder(context, state).follow(settings_of_run)
    _register(context, job, pictures, state, plan, stop_reason)


def _pictures(context: Context, job: Job) -> Pictures:
    with context.database.read() as session:
        version = session.get_one(DatasetVersion, job.version_id)
        cache = importer.ensure_cache(session, version, job.spec["image_size"], context.settings)
        query = select(Item.label, Item.split, Item.image).where(Item.version_id == version.id).order_by(Item.ordinal)
        labels, splits, images = (list(column) for column in zip(*session.execute(query), strict=True))
    classes = [row["name"] for row in version.classes]
    number = {name: k for k, name in enumerate(classes)}
    return Pictures(
        packed=np.load(cache, mmap_mode="r", allow_pickle=False),
        labels=np.array([number[label] for label in labels], dtype=np.int64),
        images=images,
        classes=classes,
        rows={name: np.flatnonzero(np.array(splits) == name) for name in importer.SPLITS},
    )


def _plan(context: Context, job: Job, pictures: Pictures, device: str, threads: int) -> dict[str, Any]:
    """Precision and layout: what this machine measured before for such a job, else measured now. Kept with the job."""
    spec, classes = job.spec, len(pictures.classes)
    batch = min(spec["batch_size"], len(pictures.rows["train"]))
    machine = f"{device}:{torch.cuda.get_device_name(device) if device != 'cpu' else _processor()}:{threads}"
    key = f"{machine}:{torch.__version__}:{spec['network']}:{spec['image_size']}:{batch}:{spec['precision']}"
    with context.database.read() as session:
        known = session.get(Measurement, key)
    plain: dict[str, Any] = {"channels_last": False, "precision": "fp32"}
    network = start(spec, classes, job.seed, device, plain).network
    plan = known.value if known else precision.choose(network, spec["image_size"], batch, spec["precision"], device)
    with context.database.write() as session:
        if known is None:
            session.merge(Measurement(key=key, value=plan, created_at=now()))
        jobs.fenced(session, context.hold, plan=plan, device=device)
    return plan


def _processor() -> str:
    return str(torch.backends.cpu.get_cpu_capability())


def _resume(context: Context, job: Job, state: TrainState) -> None:
    with context.database.read() as session:
        checkpoint = artifacts.last_checkpoint(session, job.id)
        if checkpoint is None:
            return
        state.load_bytes(artifacts.read_blob(session, checkpoint.id))
    log.info("resuming after step %d", state.counters.step)


@dataclass
class _Recorder:
    """Writes down what the training yields: progress often, checkpoints when they are due."""

    context: Context
    state: TrainState
    pending: list[EpochResult] = field(default_factory=list)  # epochs whose metrics are not written yet
    best_pending: bytes | None = None  # the best of them, when it is no longer the state
    started: float = field(default_factory=time.monotonic)
    written_at: float = field(default_factory=time.monotonic)
    told_at: float = field(default_factory=time.monotonic)
    writing_seconds: float = 0.0
    last_seconds: float = 0.0  # that the last checkpoint took

    def follow(self, run: Run) -> str:
        """Trains until the end or until asked to stop; the reason. Raises Interrupted."""
        progress: StepProgress | None = None
        for progress in train(self.state, run):
            asked = self.context.asked()
            if isinstance(progress, EpochResult):
                self._epoch(progress, must=asked is not None or progress.step == run.steps or progress.ended_early)
            elif asked or time.monotonic() - self.written_at >= self.context.settings.checkpoint_seconds:
                self._checkpoint(progress)
            if time.monotonic() - self.told_at >= PROGRESS_SECONDS:
                self._tell(progress)
            if asked in ("pause", "shutdown"):
                raise Interrupted(asked)
            if asked == "stop":
                return "stopped"
        trained = time.monotonic() - self.started
        log.info("trained for %.2f s, of which checkpoints took %.2f s", trained, self.writing_seconds)
        return "early_stopped" if self.state.counters.ended_early else "completed"

    def _epoch(self, result: EpochResult, *, must: bool) -> None:
        self.pending.append(result)
        if result.is_best:
            self.best_pending = None
        if must or self._due():
            self._checkpoint(result)
        elif result.is_best:
            self.best_pending = self.state.to_bytes()

    def _due(self) -> bool:
        """Is it time for a checkpoint at an epoch end, if it costs what the last one did?"""
        now = time.monotonic()
        affordable = self.writing_seconds + self.last_seconds <= WRITE_SHARE * (now - self.started)
        return affordable or now - self.written_at >= self.context.settings.checkpoint_seconds

    def _checkpoint(self, progress: StepProgress) -> None:
        """One transaction: manifest, the epochs' metrics, the progress. All of it or nothing."""
        began = time.monotonic()
        database, hold = self.context.database, self.context.hold
        last_is_best = isinstance(progress, EpochResult) and progress.is_best
        best = artifacts.write_chunks(database, self.best_pending) if self.best_pending else None
        last = artifacts.write_chunks(database, self.state.to_bytes())
        with database.write() as session:
            jobs.progressed(session, hold, progress=_shape(progress), eta_seconds=self._eta(progress))
            if best is not None:
                epoch = self.state.counters.best_epoch
                artifacts.add_checkpoint(session, hold, best, epoch=epoch, step=progress.step, best=True)
            epoch = progress.epoch
            artifacts.add_checkpoint(session, hold, last, epoch=epoch, step=progress.step, best=last_is_best)
            self._record_metrics(session)
            data = {"epoch": epoch, "step": progress.step, "bytes": last.bytes, "best": last_is_best}
            jobs.record_event(session, hold.job_id, "checkpoint", data)
        self.pending, self.best_pending = [], None
        artifacts.prune(database)
        self.written_at = self.told_at = time.monotonic()
        self.last_seconds = self.written_at - began
        self.writing_seconds += self.last_seconds

    def _tell(self, progress: StepProgress) -> None:
        with self.context.database.write() as session:
            jobs.fenced(session, self.context.hold, progress=_shape(progress), eta_seconds=self._eta(progress))
            self._record_metrics(session)
        self.pending = []
        self.told_at = time.monotonic()

    def _record_metrics(self, session: Session) -> None:
        """The metrics of epochs not yet written. One that an earlier attempt wrote stays: it is the same."""
        job_id = self.context.hold.job_id
        epochs = [result.epoch for result in self.pending]
        known = set(session.scalars(select(Metric.epoch).where(Metric.job_id == job_id, Metric.epoch.in_(epochs))))
        for result in self.pending:
            if result.epoch in known:
                continue
            for name, value in result.metrics.items():
                row = {"job_id": job_id, "name": name, "step": result.step, "epoch": result.epoch, "value": value}
                session.execute(insert(Metric), {**row, "time": now()})
            jobs.record_event(session, job_id, "metrics", {**_shape(result), **result.metrics})

    def _eta(self, progress: StepProgress) -> dict[str, float]:
        """Seconds left, from the speed of this attempt; wide while little has been seen."""
        left = progress.steps - progress.step
        trained = max(time.monotonic() - self.started, 1e-9)
        seconds = left * trained / max(progress.step - self._first_step, 1)
        doubt = 0.1 + 0.4 / (1 + trained / 5)
        return {"p10": seconds * (1 - doubt / 2), "p50": seconds, "p90": seconds * (1 + doubt)}

    def __post_init__(self) -> None:
        self._first_step = self.state.counters.step


def _shape(progress: StepProgress) -> dict[str, Any]:
    return {
        "epoch": progress.epoch,
        "epochs": progress.epochs,
        "step": progress.step,
        "steps": progress.steps,
        "fraction": progress.step / progress.steps,
        "images_per_second": progress.images_per_second,
    }


# --- the result ------------------------------------------------------------------------------------------------------


def _register(
    context: Context, job: Job, pictures: Pictures, state: TrainState, plan: dict[str, Any], stop_reason: str
) -> None:
    """Export, certify, evaluate; then program, card, version and the job's end in one transaction."""
    with context.database.read() as session:
        best = artifacts.best_checkpoint(session, job.id)
        if best is not None:
            state.network.load_state_dict(network_of(artifacts.read_blob(session, best.id)))
    network = state.network.to("cpu").to(memory_format=torch.contiguous_format).eval()
    classifier = export.Classifier(network)
    size = job.spec["image_size"]
    whole = export.fitted(classifier, pictures.packed, pictures.rows["train"], pictures.labels)
    program_bytes = export.export_program(whole, size)
    served = load(program_bytes, "cpu", torch.get_num_threads())

    def trained(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        with torch.inference_mode():
            logits: np.ndarray[Any, np.dtype[np.float32]] = classifier(
                torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
            ).numpy()
        return logits

    split = "test" if len(pictures.rows["test"]) else "train"
    rows, val_rows = pictures.rows[split], pictures.rows["val"]
    test = _answers(served, pictures, rows)
    certificate = export.certify(evaluate.logits_of(trained, pictures.packed, rows), test.logits)
    if not certificate["passed"]:
        raise InternalError("not_certified", "the exported program does not answer as the trained network does")
    held_out = _answers(served, pictures, val_rows)
    temperature = evaluate.temperature(held_out.logits, held_out.labels)
    images = [pictures.images[row] for row in rows]
    evaluation = evaluate.report(split, test.logits, test.labels, pictures.classes, temperature, images)
    fitted = trust.fitted(held_out, temperature)
    evaluation |= trust.report(fitted, test, temperature)
    fitted["maps"] = whole.places is not None
    card = _card(context, job, pictures, network, plan, certificate, evaluation, state) | fitted
    predicted = test.logits.argmax(1).tolist()
    kept = comparison.kept_answers(images, pictures.classes, test.labels.tolist(), predicted)
    program = artifacts.write_chunks(context.database, program_bytes)
    with context.database.write() as session:
        jobs.fenced(session, context.hold)
        version = artifacts.add_model_version(
            session, str(job.model), job.id, program, card=card, evaluation=evaluation, answers=kept
        )
        result = {
            "model": job.model,
            "version": version.number,
            "weights_sha256": card["weights_sha256"],
            "metrics": card["metrics"],
        }
        jobs.succeed(session, context.hold, result, stop_reason)


def _answers(program: Program, pictures: Pictures, rows: np.ndarray[Any, np.dtype[np.int64]]) -> trust.Answers:
    found = evaluate.outputs_of(program, pictures.packed, rows, len(pictures.classes))
    assert found.strangeness is not None
    return trust.Answers(found.logits, found.strangeness, pictures.labels[rows])


def _card(
    context: Context,
    job: Job,
    pictures: Pictures,
    network: torch.nn.Module,
    plan: dict[str, Any],
    certificate: dict[str, Any],
    evaluation: dict[str, Any],
    state: TrainState,
) -> dict[str, Any]:
    """What the model is and where it came from; serving needs nothing else."""
    with context.database.read() as session:
        version = session.get_one(DatasetVersion, job.version_id)
    return {
        "classes": pictures.classes,
        "image_size": job.spec["image_size"],
        "resize": RESIZE,
        "temperature": evaluation["calibration"]["temperature"],
        "weights_sha256": weights_sha256(network.state_dict()),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "dataset": job.dataset,
        "metrics": {"accuracy": evaluation["accuracy"]["value"], "best_epoch": state.counters.best_epoch},
        "certificate": certificate,
        "lineage": {
            "job": job.id,
            "dataset": {"name": job.dataset, "id": version.dataset_id, "digest": version.digest},
            "archive_sha256": version.archive_sha256,
            "spec": job.spec,
            "seed": job.seed,
            "plan": {key: plan[key] for key in ("precision", "channels_last")},
            "code": {"fovea": service.__version__, "torch": torch.__version__},
            "trained_at": rfc3339(now()),
        },
    }
