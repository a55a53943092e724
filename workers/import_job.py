"""An import job: the service's importer, with the job's progress and requests around it."""

from service import jobs
from service.datasets import importer
from service.db.tables import DatasetVersion, Job
from workers.context import Context
from workers.progress import Progress


def run(context: Context, job: Job) -> None:
    with context.database.read() as session:
        version = session.get(DatasetVersion, job.version_id)
        assert version is not None
    imported = importer.run(version, context.settings, Progress(context).tell)
    with context.database.write() as session:
        importer.publish(session, version.id, imported)
        result = {"dataset_version": version.id, "accepted": len(imported.items)}
        jobs.succeed(session, context.hold, result)
