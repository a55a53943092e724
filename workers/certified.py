"""From a trained network to a certified program, the engine that is to serve it, and that engine's answers.

Everything that is fitted on answers (temperature, prediction sets, strangeness) and the evaluation are made of those of
the engine that serves, so that what is reported is what is answered.
"""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from service.db.tables import Job
from service.errors import InternalError
from service.inference import onnx_program, torch_program
from service.inference.choice import candidates
from service.inference.programs import TORCH, Outputs
from workers import engines
from workers.context import Context
from workers.engines import Answered, Reference
from workers.pictures import Pictures
from workers.training import evaluate, export
from workers.training.onnx import to_onnx, without
from workers.training.trust import Answers

log = logging.getLogger("fovea.job")

Rows = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Certified:
    program: bytes
    engines: dict[str, bytes]  # other forms of the program, by kind
    certificate: dict[str, Any]
    test: Answers
    held_out: Answers


def certified(context: Context, job: Job, whole: export.Served, pictures: Pictures, split: str) -> Certified:
    """Exports and certifies. Raises InternalError (code `not_certified`) when not even the program answers alike."""
    packed, test, held_out = pictures.packed, pictures.rows[split], pictures.rows["val"]
    reference = Reference(_of_network(whole.classifier, packed, test), pictures.labels[test])
    program = export.export_program(whole, packed.shape[1])
    device = torch_program.pick_device(context.settings.device)
    found = {TORCH: _of_program(program, device, pictures, np.concatenate([test, held_out]))}
    rows = [engines.row_of(TORCH, found[TORCH], reference, slice(len(test)))]
    if not rows[0]["passed"]:
        raise InternalError("not_certified", "the exported program does not answer as the trained network does")
    forms, note = _other_forms(context, job, whole, program)
    for backend, answered in _others(context, forms, pictures, np.concatenate([test, held_out])).items():
        if isinstance(answered, Answered):
            found[backend] = answered
            rows.append(engines.row_of(backend, answered, reference, slice(len(test))))
        else:
            rows.append(engines.failed_row(backend, answered))
    certificate = engines.certificate(rows, len(test), context.settings.engine_threads, note)
    log.info("served by %s: %s", certificate["engine"], certificate["reason"])
    outputs = next(one.outputs for backend, one in found.items() if str(backend) == certificate["engine"])
    keep = forms if any(row["passed"] for row in rows[1:]) else {}
    both = (
        _answers(outputs[: len(test)], pictures.labels[test]),
        _answers(outputs[len(test) :], pictures.labels[held_out]),
    )
    return Certified(program, keep, certificate, *both)


def _of_network(classifier: export.Classifier, packed: np.ndarray[Any, np.dtype[np.uint8]], rows: Rows) -> Any:
    def trained(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        with torch.inference_mode():
            logits: np.ndarray[Any, np.dtype[np.float32]] = classifier(
                torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
            ).numpy()
        return logits

    return evaluate.logits_of(trained, packed, rows)


def _of_program(data: bytes, device: str, pictures: Pictures, rows: Rows) -> Answered:
    """On the device that is to serve it."""
    served = torch_program.load(data, device, torch.get_num_threads())
    outputs = evaluate.outputs_of(served, pictures.packed, rows, len(pictures.classes))
    return engines.here(served, outputs, pictures.packed, rows)


def _other_forms(
    context: Context, job: Job, whole: export.Served, program: bytes
) -> tuple[dict[str, bytes], str | None]:
    """The program as other engines take it, if any is to be tried, or why not."""
    if not candidates(context.settings):
        return {}, "the settings say so, or there is a graphics card, or no other engine is installed"
    if not candidates(context.settings, job.budget):
        return {}, "the budget is too short to measure other engines"
    try:
        model = without(to_onnx(program), "strangeness")
    except Exception as error:  # noqa: BLE001 - a network whose operators ONNX lacks is served by torch
        log.warning("no ONNX of this network: %s", error)
        return {}, f"the network could not be written as ONNX: {(str(error) or repr(error)).splitlines()[0][:200]}"
    head = {name: tensor.numpy() for name, tensor in whole.strangeness.named_buffers()}
    return {"onnx": onnx_program.pack(model, **head)}, None


def _others(context: Context, forms: dict[str, bytes], pictures: Pictures, rows: Rows) -> dict[Any, Answered | str]:
    """What each engine answered, or why it did not."""
    found: dict[Any, Answered | str] = {}
    packed = pictures.packed
    assert isinstance(packed, np.memmap)
    with tempfile.TemporaryDirectory() as folder:
        for backend in candidates(context.settings) if forms else ():
            context.let_go()
            path = Path(folder) / backend.kind
            path.write_bytes(forms[backend.kind])
            try:
                found[backend] = engines.elsewhere(
                    path, backend, Path(str(packed.filename)), rows.tolist(), context.settings.engine_threads
                )
            except engines.TrialFailed as error:
                found[backend] = str(error)
    return found


def _answers(outputs: Outputs, labels: np.ndarray[Any, Any]) -> Answers:
    assert outputs.strangeness is not None
    return Answers(outputs.logits, outputs.strangeness, labels)
