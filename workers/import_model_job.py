"""An import_model job: registers a bundle from elsewhere as a model version, once it answers its own golden pictures.

Its pictures are decoded, its network is looked at and run, each by processes that limit themselves; of its code nothing
is run. Everything lies in a temporary folder until the version is registered, in one transaction.
"""

import hashlib
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from service import artifacts, jobs
from service.bundles import Golden, Opened, opened
from service.datasets import packing
from service.db.tables import Blob, Bundle, Job
from service.errors import InvalidValue
from service.ids import now, rfc3339
from service.inference import score
from service.inference.choice import pace, runs_here
from service.inference.onnx_program import pack
from service.inference.programs import Backend, Outputs
from service.settings import MiB
from workers import engines
from workers.bundle.verify import STRANGENESS, TOLERANCE, may_be
from workers.context import Context
from workers.engine_run import Foreign

ENGINES = (Backend("onnxruntime"), Backend("openvino"))
LIMITS = {"memory_bytes": 4096 * MiB, "seconds": 600}  # of a process that reads or runs the network
HINT = "export the model version again, and send the file as it was"


def run(context: Context, job: Job) -> None:
    with context.database.read() as session:
        data = artifacts.read_blob(session, job.spec["blob_id"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle.zip"
        path.write_bytes(data)
        bundle = opened(path, context.settings)
        context.let_go()
        _check_network(bundle, Path(folder))
        pixels = _decoded(context, bundle, path)
        program = Path(folder) / "program"
        program.write_bytes(pack(bundle.model))
        rows = []
        for backend in ENGINES:
            context.let_go()
            rows.append(_tried(context, bundle, backend, program, pixels))
    if not any(row["passed"] for row in rows):
        why = f"the golden pictures are not answered as the bundle says: {rows[0]['why']}"
        raise InvalidValue("bundle_differs", why, hint=HINT)
    _register(context, job, bundle, rows)


def _check_network(bundle: Opened, folder: Path) -> None:
    """Raises InvalidValue (code `bundle_model`)."""
    model = folder / "model.onnx"
    model.write_bytes(bundle.model)
    order = {
        "model": str(model),
        "classes": len(bundle.card.classes),
        "image_size": bundle.card.image_size,
        "limits": LIMITS,
    }
    done = subprocess.run(
        [sys.executable, "-m", "workers.bundle.onnx_check"],
        input=json.dumps(order) + "\n",
        env={"PATH": ""},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=engines.TRIAL_SECONDS,
        check=False,
    )
    fault = f"reading it ended its process ({done.returncode})"
    if done.returncode == 0:
        fault = json.loads(done.stdout)["fault"]
    if fault is not None:
        raise InvalidValue("bundle_model", f"the network cannot be taken: {fault}", hint=HINT)


def _decoded(context: Context, bundle: Opened, path: Path) -> Path:
    """The golden pictures as rows of an .npy. Raises InvalidValue (code `bundle_golden`)."""
    target = path.with_name("golden.npy")
    size = bundle.card.image_size
    for result in packing.pack(path, bundle.pictures, target, size, context.settings):
        if result.error is not None:
            raise InvalidValue("bundle_golden", f"{result.name!r}: {result.error['message']}", hint=HINT)
    return target


def _tried(context: Context, bundle: Opened, backend: Backend, program: Path, pixels: Path) -> dict[str, Any]:
    """The certificate's row of one engine, held against the golden answers."""
    if not runs_here(backend):
        return engines.failed_row(backend, "it is not installed")
    rows, threads = range(len(bundle.goldens)), context.settings.engine_threads
    foreign = Foreign(len(bundle.card.classes), context.settings.max_batch, **LIMITS)
    try:
        found = engines.elsewhere(program, backend, pixels, rows, threads, foreign=foreign)
    except engines.TrialFailed as error:
        return engines.failed_row(backend, str(error))
    card = bundle.card.model_dump()
    chances = score.chances(found.outputs.logits, card)
    gaps = [_gap(row, golden, bundle.card.classes) for row, golden in zip(chances, bundle.goldens, strict=True)]
    apart = np.abs(score.chances(found.alone, card) - score.chances(found.together, card)).max()
    return {
        "engine": str(backend),
        "ms": found.milliseconds,
        "top1_equal": sum(_same_labels(row, one, card) for row, one in zip(chances, bundle.goldens, strict=True)),
        "max_probability_difference": max(gaps),
        "batch_difference": float(apart),
        "p_worse": None,
        **_verdict(bundle, found.outputs, chances, max(gaps), float(apart)),
    }


def _verdict(bundle: Opened, outputs: Outputs, chances: Any, gap: float, apart: float) -> dict[str, Any]:
    why = None
    if not gap <= TOLERANCE:  # nor is one that is no number
        why = f"a probability differs by {gap:.6f}"
    elif not apart <= TOLERANCE:
        why = f"an answer depends on its batch, by {apart:.1e}"
    elif (file := _otherwise_named(bundle, chances)) is not None:
        why = f"the labels of {file!r} are not those that it gives"
    elif bundle.card.strangeness is not None and not _as_strange(outputs, bundle.goldens):
        why = "a picture's strangeness is not what it was"
    elif bundle.card.maps and outputs.maps is None:
        why = "it gives no class activation maps, and its card says so"
    return {"passed": why is None, "why": why}


def _gap(row: Any, golden: Golden, classes: list[str]) -> float:
    gaps = [abs(float(chance) - golden.probabilities[name]) for chance, name in zip(row, classes, strict=True)]
    return float("nan") if any(map(math.isnan, gaps)) else max(gaps)


def _same_labels(row: Any, golden: Golden, card: dict[str, Any]) -> bool:
    return set(score.labels(row, card)) == set(golden.labels)


def _otherwise_named(bundle: Opened, chances: Any) -> str | None:
    """The first golden picture whose labels cannot come of (N, K) probabilities like these."""
    card = bundle.card.model_dump(include={"classes", "thresholds"})
    for row, golden in zip(chances.tolist(), bundle.goldens, strict=True):
        if not may_be(golden.labels, dict(zip(card["classes"], row, strict=True)), card):
            return golden.file
    return None


def _as_strange(outputs: Outputs, goldens: list[Golden]) -> bool:
    if outputs.strangeness is None:
        return False
    pairs = zip(outputs.strangeness.tolist(), goldens, strict=True)
    return all(
        one.strangeness is not None and math.isclose(v, one.strangeness, rel_tol=STRANGENESS) for v, one in pairs
    )


def _register(context: Context, job: Job, bundle: Opened, rows: list[dict[str, Any]]) -> None:
    chosen = min((row for row in rows if row["passed"]), key=lambda row: pace(row["ms"]))
    certificate = engines.certificate(rows, len(bundle.goldens), context.settings.engine_threads)
    assert certificate["engine"] == chosen["engine"]
    blob = artifacts.write_chunks(context.database, pack(bundle.model))
    with context.database.write() as session:
        jobs.fenced(session, context.hold)
        sent = session.get_one(Blob, job.spec["blob_id"])
        version = artifacts.add_model_version(
            session,
            str(job.model),
            job.id,
            blob,
            card=_card(bundle, certificate, sent.sha256),
            evaluation={},
            engines={"onnx": blob},
        )
        session.add(Bundle(version_id=version.id, blob_id=sent.id))
        result = {"model": job.model, "version": version.number, "weights_sha256": version.weights_sha256}
        jobs.succeed(session, context.hold, result | {"metrics": bundle.card.metrics, "sha256": sent.sha256})


def _card(bundle: Opened, certificate: dict[str, Any], sha256: str) -> dict[str, Any]:
    """What the bundle says of the model, with certificate and hash of what serves here; its own go into the lineage.

    Nothing shows that the network is of the weights that the bundle names: what can be hashed is the ONNX model.
    """
    told = bundle.card.model_dump(exclude={"model", "version"}, exclude_none=True)
    imported = {
        "bundle_sha256": sha256,
        "model": bundle.card.model,
        "version": bundle.card.version,
        "weights_sha256": bundle.card.weights_sha256,
        "certificate": bundle.card.certificate,
        "verified": {"golden_pictures": len(bundle.goldens), "engine": certificate["engine"], "at": rfc3339(now())},
    }
    return told | {
        "weights_sha256": hashlib.sha256(bundle.model).hexdigest(),
        "certificate": certificate,
        "lineage": {"imported": imported, "origin": bundle.card.lineage},
    }
