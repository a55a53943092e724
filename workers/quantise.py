"""From a model version to its next in eight bits, or to the reason why not: calibrated, certified, judged, registered.

Only training pictures calibrate. Each engine answers test and validation split in a process of its own, and so does
what serves the version now; what is fitted and reported comes from the engine in eight bits that will serve. The
version that it is made of stays as it is.
"""

import hashlib
import io
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service import artifacts, comparison, jobs
from service.db.tables import EngineProgram, Job, Model, ModelVersion
from service.errors import InternalError, InvalidValue
from service.ids import now, rfc3339
from service.inference import choice
from service.inference.onnx_program import pack, unpack
from service.inference.programs import TORCH, Backend, Stored
from workers import engines
from workers.context import Context
from workers.engines import Answered, Reference, TrialFailed
from workers.model import metrics_of
from workers.pictures import Pictures, load_pictures
from workers.training import evaluate, int8, multilabel
from workers.training.evaluate import Judged
from workers.training.onnx import to_onnx, without
from workers.training.trust import Answers

log = logging.getLogger("fovea.job")


@dataclass(frozen=True)
class Source:
    """The version that is quantised."""

    name: str  # with its number
    version: ModelVersion
    answers: dict[str, Any] | None  # to its test pictures
    serving: Stored  # as it is served here
    program: bytes  # of torch
    onnx: bytes | None  # packed, where one was made when it was certified


@dataclass(frozen=True)
class Tried:
    """One engine's answers in eight bits, judged, and the certificate's row about it."""

    judged: Judged
    compared: dict[str, Any]  # with the version that it is made of
    row: dict[str, Any]

    @property
    def drop(self) -> float:
        """Of accuracy: negative where it gains."""
        return -float(self.compared["accuracy_difference"]["value"])


def run(context: Context, job: Job) -> None:
    source, pictures = _source(context, job), load_pictures(context, job)
    try:
        model, head = _network(source)
        small = int8.to_int8(model, _patiently(context, int8.batches(pictures.packed, pictures.rows["train"])))
    except int8.NotQuantisable as error:
        hint = f"keep {source.name} as it is"
        raise InvalidValue("not_quantisable", f"{source.name} cannot be in eight bits: {error}", hint=hint) from error
    program = pack(small, **head)
    with tempfile.TemporaryDirectory() as folder:
        now_serving, tried, failed = _try(context, source, program, pictures, Path(folder))
    chosen, certificate = choose(job, source, now_serving, tried, failed, context.settings.engine_threads)
    _register(context, job, source, program, hashlib.sha256(small).hexdigest(), chosen, certificate, pictures)


def _source(context: Context, job: Job) -> Source:
    with context.database.read() as session:
        version = session.get_one(ModelVersion, job.spec["version_id"])
        name = f"{session.get_one(Model, version.model_id).name}:{version.number}"
        serving = artifacts.program(session, version, choice.pick(version.card, context.settings))
        program = artifacts.program(session, version, TORCH).data
        row = session.get(EngineProgram, (version.id, "onnx"))
        onnx = artifacts.read_blob(session, row.blob_id) if row else None
        answers = version.answers
    return Source(name, version, answers, serving, program, onnx)


def _network(source: Source) -> tuple[bytes, dict[str, Any]]:
    """Its ONNX model and what strangeness is computed from. Raises NotQuantisable."""
    if source.onnx is not None:
        return unpack(source.onnx)
    tensors = torch.export.load(io.BytesIO(source.program)).state_dict
    head = {
        name.removeprefix("strangeness."): tensor.numpy()
        for name, tensor in tensors.items()
        if name.startswith("strangeness.")
    }
    if not head:
        raise int8.NotQuantisable("it was made by a version of Fovea that kept no features; train it again")
    try:
        return without(to_onnx(source.program), "strangeness"), head
    except Exception as error:
        log.warning("no ONNX of this network: %s", error)
        reason = (str(error) or repr(error)).splitlines()[0][:200]
        raise int8.NotQuantisable(f"the network could not be written as ONNX: {reason}") from error


def _patiently(context: Context, batches: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    for batch in batches:
        context.let_go()
        yield batch


# --- what the engines say --------------------------------------------------------------------------------------------


def _try(
    context: Context, source: Source, program: bytes, pictures: Pictures, folder: Path
) -> tuple[Answered, list[Tried], list[dict[str, Any]]]:
    """What serves the version now, the engines that answered in eight bits, and the rows of those that did not."""
    serving, small = folder / "serving", folder / "int8"
    serving.write_bytes(source.serving.data)
    small.write_bytes(program)
    try:
        before = _answers_of(context, serving, source.serving.backend, pictures)
    except TrialFailed as error:
        raise InternalError("source_not_served", f"{source.name} does not answer: {error}") from error
    tried, failed = [], []
    for backend in choice.of_int8(context.settings):
        try:
            found = _answers_of(context, small, backend, pictures)
        except TrialFailed as error:
            failed.append(engines.failed_row(backend, str(error)))
        else:
            tried.append(_judged(source, backend, found, before, pictures))
    return before, tried, failed


def _answers_of(context: Context, program: Path, backend: Backend, pictures: Pictures) -> Answered:
    context.let_go()
    packed, rows = pictures.packed, np.concatenate([pictures.rows["test"], pictures.rows["val"]])
    assert isinstance(packed, np.memmap)
    threads = context.settings.engine_threads
    return engines.elsewhere(program, backend, Path(str(packed.filename)), rows.tolist(), threads)


def _judged(source: Source, backend: Backend, found: Answered, before: Answered, pictures: Pictures) -> Tried:
    rows, held_out = pictures.rows["test"], pictures.rows["val"]
    test, outputs, labels = slice(len(rows)), found.outputs, pictures.labels
    assert outputs.strangeness is not None
    images = [pictures.images[row] for row in rows]
    judged = (multilabel.judge if pictures.several else evaluate.judge)(
        "test",
        Answers(outputs.logits[test], outputs.strangeness[test], labels[rows]),
        Answers(outputs.logits[len(rows) :], outputs.strangeness[len(rows) :], labels[held_out]),
        pictures.classes,
        images,
    )
    reference = Reference(before.outputs.logits[test], labels[rows])
    kept = comparison.kept_answers(images, judged.labels, judged.predicted)
    row = engines.row_of(backend, found, reference, test)
    return Tried(judged, comparison.compare(source.answers, kept), row)


# --- which is taken --------------------------------------------------------------------------------------------------


def choose(
    job: Job, source: Source, before: Answered, tried: list[Tried], failed: list[dict[str, Any]], threads: int
) -> tuple[Tried, dict[str, Any]]:
    """The fastest that loses no more than it may, with its certificate. Raises InvalidValue when there is none."""
    asked = job.spec["int8"]
    sound = [one for one in tried if one.row["passed"]]
    if not sound:
        reasons = "; ".join(f"{row['engine']}: {row['why']}" for row in (*(one.row for one in tried), *failed))
        raise InvalidValue("int8_not_certified", f"no engine answers in eight bits as it should: {reasons}")
    for one in tried:
        one.row.update(accuracy=one.compared["accuracy"]["b"], p_value=one.compared["p_value"])
        if one.row["passed"] and one.drop > asked["max_drop"] + 1e-9:
            one.row.update(passed=False, why=f"accuracy drops by {one.drop:.4f}; {asked['max_drop']:g} is allowed")
    if not any(one.row["passed"] for one in tried):
        raise _drops(source, min(sound, key=lambda one: one.drop), asked["max_drop"])
    certificate = engines.certificate([*(one.row for one in tried), *failed], tried[0].compared["n"], threads)
    chosen = next(one for one in tried if one.row["engine"] == certificate["engine"])
    if choice.pace(chosen.row["ms"]) >= choice.pace(before.milliseconds) and not asked["even_if_slower"]:
        raise _not_faster(source, chosen, before)
    return chosen, certificate | _against(source, chosen, before, asked["max_drop"])


def _against(source: Source, chosen: Tried, before: Answered, max_drop: float) -> dict[str, Any]:
    """What the certificate says of the version that it is held against, instead of a share of equal answers."""
    figures = ("accuracy", "accuracy_difference", "right_to_wrong", "wrong_to_right", "p_value", "p_worse")
    return {
        "agreement": None,
        "max_drop": max_drop,
        "source": {
            "model": source.name,
            "engine": str(source.serving.backend),
            "ms": before.milliseconds,
            **{name: chosen.compared[name] for name in figures},
        },
    }


def _drops(source: Source, best: Tried, max_drop: float) -> InvalidValue:
    found = best.compared
    a, b = found["accuracy"]["a"], found["accuracy"]["b"]
    return InvalidValue(
        "int8_drops_accuracy",
        f"accuracy on {found['n']} test pictures is {b:.4f} in eight bits and {a:.4f} of {source.name}: it drops by "
        f"{best.drop:.4f} (p = {found['p_value']:.2g}, McNemar), and {max_drop:g} is allowed",
        hint=f"allow more by int8.max_drop, or keep {source.name}; more pictures tell a drop from chance",
    )


def _not_faster(source: Source, chosen: Tried, before: Answered) -> InvalidValue:
    return InvalidValue(
        "int8_not_faster",
        f"{chosen.row['engine']} takes {engines.shown(chosen.row['ms'])}, and {source.name} by "
        f"{source.serving.backend} {engines.shown(before.milliseconds)}",
        hint=f"keep {source.name}; for a machine where this differs say int8.even_if_slower",
    )


# --- the version -----------------------------------------------------------------------------------------------------


def _register(
    context: Context,
    job: Job,
    source: Source,
    program: bytes,
    weights_sha256: str,
    chosen: Tried,
    certificate: dict[str, Any],
    pictures: Pictures,
) -> None:
    judged, images = chosen.judged, [pictures.images[row] for row in pictures.rows["test"]]
    metrics = source.version.card["metrics"] | metrics_of(judged.evaluation)
    made_of = {
        "model": source.name,
        "version_id": source.version.id,
        "weights_sha256": source.version.weights_sha256,
        "job": job.id,
        "calibration_pictures": min(len(pictures.rows["train"]), int8.MOST_PICTURES),
        "quantised_at": rfc3339(now()),
    }
    card = source.version.card | judged.card | {"weights_sha256": weights_sha256, "metrics": metrics}
    card |= {"certificate": certificate, "lineage": source.version.card["lineage"] | {"quantised_from": made_of}}
    blob = artifacts.write_chunks(context.database, program)
    with context.database.write() as session:
        jobs.fenced(session, context.hold)
        version = artifacts.add_model_version(
            session,
            str(job.model),
            job.id,
            blob,
            card=card,
            evaluation=judged.evaluation,
            answers=comparison.kept_answers(images, judged.labels, judged.predicted),
            engines={"onnx": blob},
        )
        result = {"model": job.model, "version": version.number, "weights_sha256": weights_sha256, "metrics": metrics}
        jobs.succeed(session, context.hold, result | {"quantised_from": source.name, "compared": certificate["source"]})
