"""An import job: the service's importer, with the job's progress and requests around it."""

import time

from service import jobs
from service.datasets import importer
from service.db.tables import DatasetVersion, Job
from workers.context import Context

PROGRESS_SECONDS = 0.5


def run(context: Context, job: Job) -> None:
    with context.database.read() as session:
        version = session.get(DatasetVersion, job.version_id)
        assert version is not None
    told_at = 0.0

    def on_progress(done: int, total: int) -> None:
        nonlocal told_at
        context.let_go()
        if time.monotonic() - told_at < PROGRESS_SECONDS:
            return
        told_at = time.monotonic()
        progress = {"epoch": 0, "epochs": 0, "step": done, "steps": total, "fraction": done / max(total, 1)}
        with context.database.write() as session:
            jobs.fenced(session, context.hold, progress=progress)

    imported = importer.run(version, context.settings, on_progress)
    with context.database.write() as session:
        importer.publish(session, version.id, imported)
        result = {"dataset_version": version.id, "accepted": len(imported.items)}
        jobs.succeed(session, context.hold, result)
