"""A training job from its row to a model version: the one place where data, training, checkpoints and registry meet."""

import logging
import time
from typing import Any

import torch
from sqlalchemy import delete

from service import artifacts, estimates, jobs, measurements
from service.checks import LEAST_PART
from service.db.tables import Job, Metric
from service.ending import Ending, ending
from service.errors import InternalError
from service.ids import now
from service.inference.choice import candidates
from service.inference.torch_program import pick_device, weights_of
from service.settings import Settings
from workers import reproduction
from workers.context import Context
from workers.model import Learned, make_model, register, take_best
from workers.pictures import Pictures, load_pictures
from workers.recorder import Observer, Recorder, Timing
from workers.training import compiling, export, precision
from workers.training.course import changed, planned
from workers.training.loop import Diverged, Run
from workers.training.onnx import to_onnx
from workers.training.state import TrainState, prepare, start, weights_sha256
from workers.training.weights import Initial, pretrained

log = logging.getLogger("fovea.job")

MILDER_RATE = 0.1  # of the learning rate, after the loss was no number


def warm_up(settings: Settings) -> None:
    """Exports the least of networks: the first export of a process imports for seconds."""
    program = export.export_program(export.Classifier(torch.nn.Flatten()), 1)
    if candidates(settings):
        to_onnx(program)


def run(context: Context, job: Job) -> None:
    """Trains to the end and registers the model, or raises Interrupted with a checkpoint written."""
    learned = learn(context, job)
    if job.reproduces is not None:
        _compare(context, job, learned.state)
    else:
        register(context, job, make_model(context, job, learned), learned)


def learn(context: Context, job: Job, observer: Observer | None = None) -> Learned:
    """Trains to the end, or raises Interrupted with a checkpoint written."""
    began = time.monotonic() - (now() - job.started_at if job.attempt == 1 and job.started_at else 0.0)
    device, threads = _machine(context)
    if device == "cpu" and context.settings.on_gpu:
        context.warn("there is a driver of graphics cards, but no card that torch can use: the processor trains")
    pictures = load_pictures(context, job)
    plan = job.plan or _plan(context, job, pictures, device, threads)
    while True:
        try:
            state, stop_reason, timing = _attempt(context, job, pictures, plan, device, began, observer or Observer())
            break
        except (Diverged, MemoryError, RuntimeError) as error:
            change, reason = remedy(error, plan, job.spec, len(pictures.rows["train"]))
        began = time.monotonic()  # what was spent before is in the checkpoint
        plan = _change_plan(context, job, plan, change, reason)
    in_one_go = job.attempt == 1 and "changes" not in plan
    plan = plan | {"revisions": state.counters.revisions, "last_step": state.counters.step}
    return Learned(pictures, state, plan, stop_reason, timing if in_one_go else None)


def recall(context: Context, job: Job) -> Learned:
    """A training that has ended, as it was at its best checkpoint."""
    device, _ = _machine(context)
    pictures, plan = load_pictures(context, job), job.plan or {}
    state = start(job.spec, len(pictures.classes), job.seed, device, plan)
    with context.database.read() as session:
        best = artifacts.best_checkpoint(session, job.id)
        if best is None:
            raise InternalError("checkpoint_missing", f"{job.id} has no checkpoint to make a model of")
        state.load_bytes(artifacts.read_blob(session, best.id))
    return Learned(pictures, state, plan, job.stop_reason or "completed")


def _machine(context: Context) -> tuple[str, int]:
    """The device and the number of threads, both prepared."""
    device = pick_device(context.settings.device)
    threads = context.settings.training_threads
    prepare(device, threads)
    return device, threads


def _attempt(
    context: Context,
    job: Job,
    pictures: Pictures,
    plan: dict[str, Any],
    device: str,
    began: float,
    observer: Observer,
) -> tuple[TrainState, str, Timing]:
    """Trains from the last checkpoint to the end: the state, the reason for the end, and what it took."""
    splits = pictures.split("train", device), pictures.split("val", device)
    initial = _initial(context, job, pictures)
    state = start(job.spec, len(pictures.classes), job.seed, device, plan, initial, splits[0])
    _resume(context, job, state)
    run = Run(*splits, job.spec, plan, job.seed, job.goal)
    seconds = job.budget["seconds"] if job.budget is not None and job.reproduces is None else None
    following = _ending(context, job, pictures, sum(parameter.numel() for parameter in state.network.parameters()))
    if seconds is not None and time.monotonic() - began + following.seconds > seconds:
        context.warn(
            f"a budget of {seconds:g} s is too short for this network: what follows its training alone takes about "
            f"{following.seconds:.0f} s; it learns for a few steps"
        )
    recorder = Recorder(context, state, run, began, following, seconds, observer)
    return state, recorder.follow(), recorder.timing


def _ending(context: Context, job: Job, pictures: Pictures, parameters: int) -> Ending:
    """What is to follow the last step, by what it took for such networks here."""
    splits = {name: len(rows) for name, rows in pictures.rows.items()}
    with context.database.read() as session:
        ratio = estimates.end_ratio(session, job.spec, context.settings, job.budget)
    return ending(job.spec, parameters, splits, context.settings, job.budget).times(ratio)


def _initial(context: Context, job: Job, pictures: Pictures) -> Initial | None:
    """The weights that the spec says to begin with: torchvision's, or those of a model version of one's own."""
    wanted = job.spec["initial_weights"]
    if wanted is None:
        return None
    if wanted == "pretrained":
        return Initial(pretrained(job.spec["network"], context.settings.weights_dir))
    with context.database.read() as session:
        _, version = artifacts.find_version(session, wanted)
        data = artifacts.read_blob(session, version.program_id)
    return Initial(weights_of(data), with_head=_same_answers(version.card, pictures))


def _same_answers(card: dict[str, Any], pictures: Pictures) -> bool:
    """Does that model's class layer say of each class what this one is to say?"""
    return bool(card["classes"] == pictures.classes and (card.get("task") == "multi_label") == pictures.several)


def remedy(error: Exception, plan: dict[str, Any], spec: dict[str, Any], pictures: int) -> tuple[dict[str, Any], str]:
    """What to change in the plan so that training can go on from the last checkpoint. Raises `error` when nothing can.

    Out of memory: the batch is taken in twice as many parts. A loss that is no number: once, a tenth of the rate.
    `pictures` are those to train on: a batch has no more.
    """
    if isinstance(error, Diverged):
        if planned(plan, "rate_scale", None) is not None:
            raise error
        return {"rate_scale": MILDER_RATE}, f"{error}; back to the last checkpoint, at {MILDER_RATE} of the rate"
    parts = 2 * max(planned(plan, "parts", 1), spec["optimizer"]["accumulate"])
    if not is_out_of_memory(error) or min(spec["batch_size"], pictures) < LEAST_PART * parts:
        raise error
    return {"parts": parts}, f"out of memory: batches of {spec['batch_size']} are taken in {parts} parts from here on"


def is_out_of_memory(error: Exception) -> bool:
    """torch says it in three ways: an exception of its own on GPUs, a RuntimeError or MemoryError on CPUs."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in text


def _change_plan(
    context: Context, job: Job, plan: dict[str, Any], change: dict[str, Any], reason: str
) -> dict[str, Any]:
    """The plan with the change, from the step of the last checkpoint on; kept with the job."""
    log.warning("%s", reason)
    with context.database.write() as session:
        checkpoint = artifacts.last_checkpoint(session, job.id)
        plan = changed(plan, checkpoint.step if checkpoint else 0, change)
        jobs.fenced(session, context.hold, plan=plan)
        jobs.record_event(session, context.hold.job_id, "warning", {"message": reason})
        if "parts" in change and (measured := measurements.known(session, plan["key"])):
            measurements.keep(session, plan["key"], measured | change)  # for the next job
    return plan


def _plan(context: Context, job: Job, pictures: Pictures, device: str, threads: int) -> dict[str, Any]:
    """Precision and layout: what this machine measured before for such a job, else measured now. Kept with the job."""
    spec, count = job.spec, len(pictures.rows["train"])
    batch = min(spec["batch_size"], count)
    machine = f"{device}:{torch.cuda.get_device_name(device) if device != 'cpu' else _processor()}:{threads}"
    measured = f"{machine}:{torch.__version__}:{precision.TIMED}"
    key = f"{measured}:{spec['network']}:{spec['image_size']}:{batch}:{spec['precision']}"
    with context.database.read() as session:
        known = measurements.known(session, key)
    found = known or {"key": key, **_measured(job, len(pictures.classes), batch, device)}
    found |= _compiled(job, len(pictures.classes), found, count // batch * spec["epochs"], device)
    with context.database.write() as session:
        if found != known:
            measurements.keep(session, key, found)
        plan = found | _decided(job, found, count // batch * spec["epochs"])
        jobs.fenced(session, context.hold, plan=plan, device=device)
    return plan


def _measured(job: Job, classes: int, batch: int, device: str) -> dict[str, Any]:
    """Precision and layout by a few timed steps; with batches taken in parts where whole ones do not fit."""
    spec, parts = job.spec, 1
    network = _untrained(job, classes, device)
    while True:
        try:
            found = precision.choose(network, spec["image_size"], batch // parts, spec["precision"], device)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or batch < LEAST_PART * 2 * parts:
                raise
            parts *= 2
        else:
            return found | {"batch": batch // parts} | ({"parts": parts} if parts > 1 else {})


def _untrained(job: Job, classes: int, device: str) -> torch.nn.Module:
    return start(job.spec, classes, job.seed, device, {"channels_last": False, "precision": "fp32"}).network


def _compiled(job: Job, classes: int, found: dict[str, Any], steps: int, device: str) -> dict[str, Any]:
    """What compiled steps take, where that was never measured and the job is long enough that they may pay."""
    grows = job.spec["progressive"] is not None  # every size would be compiled
    if device == "cpu" or grows or "compile" in found or not compiling.may_pay(precision.fastest(found), steps):
        return {}
    network = _untrained(job, classes, device)
    return {
        "compile": precision.measure_compiled(network, job.spec["image_size"], found["batch"], found, device),
    }


def _decided(job: Job, found: dict[str, Any], steps: int) -> dict[str, Any]:
    """Of this job: are its steps compiled, and can it be repeated to the bit?"""
    if job.spec["progressive"] is not None or not compiling.pays(
        found.get("compile", {}), precision.fastest(found), steps
    ):
        return {}
    reason = "compiled steps: the compiler may choose other kernels another time"
    return {"compiled": True, "determinism": "best_effort", "determinism_reason": reason}


def _processor() -> str:
    return str(torch.backends.cpu.get_cpu_capability())


def _resume(context: Context, job: Job, state: TrainState) -> None:
    """To the last checkpoint, or the beginning. Metrics of later steps go: they are yet to come, and may be others.

    Where a checkpoint is damaged, what was learned since an earlier one is learned again: every draw is a function of
    its step, and so are the changes of the plan, so the run is the one that it would have been.
    """
    with context.database.read() as session:
        found = artifacts.resumption(session, job.id)
    if found.checkpoint is not None:
        state.load_bytes(found.data)
        log.info("resuming after step %d", state.counters.step)
    step = state.counters.step
    if found.is_damaged:
        context.warn(f"a checkpoint is damaged; going on from {f'step {step}' if step else 'the beginning'} instead")
    with context.database.write() as session:
        jobs.fenced(session, context.hold)
        if found.is_damaged:
            artifacts.go_back(session, job.id, found, step)
        session.execute(delete(Metric).where(Metric.job_id == job.id, Metric.step > step))


def _compare(context: Context, job: Job, state: TrainState) -> None:
    """The end of a reproduction: are the weights those of the original, and if not, where did they part?"""
    take_best(context, job, state)
    found = weights_sha256(state.network.state_dict())
    with context.database.write() as session:
        original = jobs.get(session, str(job.reproduces))
        equal = found == original.result["weights_sha256"] if original.result else False
        difference = None if equal else reproduction.first_difference(session, original.id, job.id)
        result = {"reproduces": original.id, "equal": equal, "weights_sha256": found, "first_difference": difference}
        jobs.succeed(session, context.hold, result)
