"""An export job: makes a model version's bundle, and proves it by the bundle's own check before anybody can have it.

One that asks for int8 makes the model's next version instead: see workers.quantise.
"""

import io
import logging
import subprocess
import sys
import tempfile
import zipfile
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import artifacts, images, jobs
from service.datasets import versions
from service.db.tables import Bundle, DatasetVersion, Item, Job, Model, ModelVersion
from service.errors import InternalError
from service.inference import score
from service.inference.programs import Program, Stored, load
from workers import quantise
from workers.bundle import build
from workers.context import Context
from workers.training.onnx import to_onnx

log = logging.getLogger("fovea.job")

MOST_GOLDEN = 8
MAX_PIXELS = 10**9  # these pictures were imported under the service's own limit
CHECK_SECONDS = 600


def run(context: Context, job: Job) -> None:
    if "int8" in job.spec:
        quantise.run(context, job)
    else:
        _bundle(context, job)


def _bundle(context: Context, job: Job) -> None:
    with context.database.read() as session:
        version = session.get_one(ModelVersion, job.spec["version_id"])
        name = session.get_one(Model, version.model_id).name
        program = artifacts.read_blob(session, version.program_id)
        pictures = _pictures(context, session, version)
    card = {"model": name, "version": version.number, "task": "single_label", **version.card}
    served = load(Stored(program), "cpu", context.settings.training_threads)
    goldens = [_golden(*one, served, card) for one in (*pictures, *build.noise(card["image_size"]))]
    context.let_go()
    bundle = build.archive(to_onnx(program), card, goldens)
    context.let_go()
    _prove(bundle)
    _keep(context, version.id, bundle)


def _pictures(context: Context, session: Session, version: ModelVersion) -> list[tuple[str, bytes]]:
    """A few of the test split, by their SHA-256; none when the dataset was deleted."""
    trained = session.get_one(Job, version.job_id)
    dataset = session.get(DatasetVersion, trained.version_id) if trained.version_id else None
    if dataset is None:
        return []
    mine = select(Item).where(Item.version_id == dataset.id, Item.split == "test").order_by(Item.ordinal)
    items = list(session.scalars(mine))
    chosen = items[:: max(-(-len(items) // MOST_GOLDEN), 1)]
    return [(item.image, versions.picture_bytes(context.settings, dataset, item)) for item in chosen]


def _golden(name: str, data: bytes, served: Program, card: dict[str, Any]) -> build.Golden:
    """What `classify` says of the picture."""
    pixels = images.decode(data, card["image_size"], max_pixels=MAX_PIXELS).pixels
    outputs = served.outputs(pixels[None])
    row = score.chances(outputs.logits, card)[0]
    ranks = score.ranked(row, card["classes"], len(row))
    return build.Golden(
        name=name,
        data=data,
        labels=score.labels(row, card),
        probabilities={one["label"]: one["probability"] for one in ranks},
        strangeness=float(outputs.strangeness[0])
        if outputs.strangeness is not None and "strangeness" in card
        else None,
    )


def _prove(bundle: bytes) -> None:
    """Unpacks it where nothing of ours is, and runs its check. Raises InternalError (code `bundle_differs`)."""
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(io.BytesIO(bundle)).extractall(folder)
        done = subprocess.run(
            [sys.executable, "verify.py"],
            cwd=folder,
            env={"PATH": "", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=CHECK_SECONDS,
            check=False,
        )
    log.info("%s", done.stdout.strip())
    if done.returncode != 0:
        log.error("%s", done.stderr.strip())
        raise InternalError("bundle_differs", f"the bundle does not answer as the service does: {done.stdout[:300]}")


def _keep(context: Context, version_id: str, bundle: bytes) -> None:
    blob = artifacts.write_chunks(context.database, bundle)
    with context.database.write() as session:
        jobs.fenced(session, context.hold)
        version = session.get_one(ModelVersion, version_id)
        if session.get(Bundle, version.id) is None:  # else another job was faster; these bytes are swept as nobody's
            session.add(blob)
            session.flush()
            session.add(Bundle(version_id=version.id, blob_id=blob.id))
        result = {"model_version": version.id, "bytes": blob.bytes, "sha256": blob.sha256}
        jobs.succeed(session, context.hold, result)
