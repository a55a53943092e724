"""The job state machine: every change of a job's status is in this file, and nowhere else.

queued -> running -> succeeded | failed | cancelled
running -> pausing -> paused -> queued              :pause, :resume
running | pausing -> cancelling -> cancelled        :cancel
running -> interrupted -> running                   its worker let go, or died; another attempt goes on

A search has trials: child jobs that no worker claims. The process that holds the search makes them `running` and ends
them; they are paused and interrupted with the search, and its end is the end of one that is open.

A claim counts an attempt, and the attempt's number fences every later write: a worker that lost its lease changes no
row and gets LeaseLost. Functions take an open write session; the caller commits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from service.db.tables import Blob, Checkpoint, DatasetVersion, Event, Job
from service.errors import Conflict, NotFound, TooManyRequests
from service.ids import new_id, now

TERMINAL = ("succeeded", "failed", "cancelled")
HELD = ("running", "pausing", "cancelling")  # a worker holds it
CLAIMABLE = ("queued", "interrupted")


class LeaseLost(Exception):
    """This worker no longer holds the job; whatever it still wants to write must not be written."""


@dataclass(frozen=True)
class Hold:
    """A worker's claim on a job: what fences its writes. That on a trial holds as long as that on its search does."""

    job_id: str
    attempt: int
    search: "Hold | None" = None

    @property
    def claimed(self) -> "Hold":
        """The hold on the row that the worker claimed: the job, or the search that the trial belongs to."""
        return self.search or self


def submit(
    session: Session,
    job_type: str,
    *,
    spec: dict[str, Any],
    seed: int = 0,
    version_id: str | None = None,
    dataset: str | None = None,
    model: str | None = None,
    goal: dict[str, Any] | None = None,
    budget: dict[str, Any] | None = None,
    reasons: dict[str, str] | None = None,
    estimate: dict[str, Any] | None = None,
    search: dict[str, Any] | None = None,
) -> Job:
    job = Job(
        id=new_id("job"),
        type=job_type,
        status="queued",
        seed=seed,
        spec=spec,
        version_id=version_id,
        dataset=dataset,
        model=model,
        goal=goal,
        budget=budget,
        reasons=reasons,
        estimate=estimate,
        search=search,
        created_at=now(),
        stop_requested=False,
        attempt=0,
        deaths=0,
    )
    session.add(job)
    session.flush()
    _status_event(session, job.id, "queued")
    return job


def check_queue(session: Session, most: int) -> None:
    """Raises TooManyRequests when so many jobs wait already."""
    waiting = session.scalar(select(func.count()).select_from(Job).where(Job.status.in_(CLAIMABLE))) or 0
    if waiting >= most:
        hint = "wait for some, or cancel them; FOVEA_MAX_QUEUED_JOBS allows more"
        raise TooManyRequests("too_many_jobs", f"{waiting} jobs wait already", hint=hint, retry_after_seconds=60)


def get(session: Session, job_id: str) -> Job:
    """The job, freshly read. Raises NotFound."""
    job = session.get(Job, job_id, populate_existing=True)
    if job is None:
        raise NotFound("job_not_found", f"there is no job {job_id}", hint="GET /v1/jobs lists them")
    return job


# --- what a client may ask -------------------------------------------------------------------------------------------


def cancel(session: Session, job_id: str) -> Job:
    """Ends the job and throws away what it made. Repeating is harmless; after another end it is a conflict."""
    job = _steered(session, job_id)
    if job.status in ("cancelled", "cancelling"):
        return job
    _refuse(job, "cancel", TERMINAL)
    if job.status in HELD:
        return _move(session, job, "cancelling")
    return _end(session, job, "cancelled", stop_reason="cancelled")


def stop(session: Session, job_id: str) -> Job:
    """Ends a training job or a search now and keeps the best model so far."""
    job = _steered(session, job_id)
    if job.type not in ("train", "search"):
        raise Conflict("wrong_type", f"an {job.type} job cannot stop half-way", hint="cancel it instead")
    if not job.stop_requested or job.status == "cancelled":
        _refuse(job, "stop", (*TERMINAL, "cancelling"))
        if job.attempt == 0:
            raise Conflict("not_started", "the job has learned nothing yet", hint="cancel it instead")
        job.stop_requested = True
    return _move(session, job, "queued") if job.status == "paused" else job


def pause(session: Session, job_id: str) -> Job:
    job = _steered(session, job_id)
    if job.status in ("paused", "pausing"):
        return job
    _refuse(job, "pause", (*TERMINAL, "cancelling"))
    return _move(session, job, "pausing" if job.status == "running" else "paused")


def resume(session: Session, job_id: str) -> Job:
    job = _steered(session, job_id)
    if job.status in ("queued", "running", "interrupted"):
        return job
    _refuse(job, "resume", (*TERMINAL, "cancelling", "pausing"))
    job.deaths = 0
    return _move(session, job, "queued")


def reproduce(session: Session, job_id: str) -> Job:
    """A new job that trains again from the record of a finished one, and says whether the weights are equal."""
    original = get(session, job_id)
    if original.type != "train" or original.status != "succeeded" or original.reproduces is not None:
        raise Conflict("wrong_state", "only a training job that succeeded can be reproduced")
    if original.version_id is None:
        raise Conflict("dataset_deleted", "the pictures that the job learned from were deleted")
    job = submit(
        session,
        "train",
        spec=original.spec,
        seed=original.seed,
        version_id=original.version_id,
        dataset=original.dataset,
        model=original.model,
        goal=original.goal,
        budget=original.budget,
        reasons=original.reasons,
    )
    plan = dict(original.plan or {})
    replay = {"replay": plan.pop("revisions", []), "until": plan.pop("last_step", None)}
    job.reproduces, job.plan, job.device = original.id, plan | replay, original.device
    return job


# --- what a worker does ----------------------------------------------------------------------------------------------


def claim(session: Session, worker: dict[str, Any], lease_seconds: float) -> Job | None:
    """Takes the oldest claimable job in one statement, or None. The claim is counted as an attempt and a death."""
    oldest = (
        select(Job.id)
        .where(Job.status.in_(CLAIMABLE), Job.parent.is_(None))
        .order_by(Job.created_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    job = session.scalars(
        update(Job)
        .where(Job.id == oldest.scalar_subquery())
        .values(
            status="running",
            attempt=Job.attempt + 1,
            deaths=Job.deaths + 1,
            worker=worker,
            lease_expires_at=now() + lease_seconds,
        )
        .returning(Job)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if job is not None:
        job.started_at = job.started_at or now()
        _status_event(session, job.id, "running", attempt=job.attempt)
    return job


def heartbeat(session: Session, hold: Hold, lease_seconds: float) -> str:
    """Extends the lease and returns the status, which may ask to pause or cancel. Raises LeaseLost."""
    fenced(session, hold, lease_expires_at=now() + lease_seconds)
    return get(session, hold.job_id).status


def fenced(session: Session, hold: Hold, **values: Any) -> None:
    """Changes columns of a held job, but never its status. Raises LeaseLost when the hold is no longer valid."""
    if hold.search is not None:
        fenced(session, hold.search)
    changed = session.execute(
        update(Job)
        .where(Job.id == hold.job_id, Job.attempt == hold.attempt, Job.status.in_(HELD))
        .values(attempt=hold.attempt, **values)
        .execution_options(synchronize_session=False)
    )
    if changed.rowcount != 1:  # type: ignore[attr-defined]
        raise LeaseLost(f"attempt {hold.attempt} no longer holds {hold.job_id}")


def progressed(session: Session, hold: Hold, **values: Any) -> None:
    """Like `fenced`, and forgets earlier deaths: this attempt has brought the job forward."""
    fenced(session, hold, deaths=1, **values)
    if hold.search is not None:
        fenced(session, hold.search, deaths=1)


def release(session: Session, hold: Hold, reason: str) -> Job:
    """Lets go of a healthy job: to paused or cancelled if that was asked, else interrupted. No death is counted."""
    fenced(session, hold, deaths=Job.deaths - 1)
    return _let_go(session, get(session, hold.job_id), reason)


def died(session: Session, hold: Hold, reason: str, max_deaths: int) -> Job:
    """The job's process died. It is tried again, unless it died `max_deaths` times without progress."""
    fenced(session, hold)
    return _bury(session, get(session, hold.job_id), reason, max_deaths)


def succeed(
    session: Session,
    hold: Hold,
    result: dict[str, Any],
    stop_reason: str = "completed",
    keep_checkpoints: Sequence[str] = (),
) -> Job:
    fenced(session, hold, result=result)
    if get(session, hold.claimed.job_id).status == "cancelling":  # cancel beats a finish in the same moment
        raise LeaseLost(f"{hold.claimed.job_id} was cancelled")
    return _end(session, get(session, hold.job_id), "succeeded", stop_reason=stop_reason, keep=keep_checkpoints)


def fail(session: Session, hold: Hold, error: dict[str, Any]) -> Job:
    fenced(session, hold)
    job = get(session, hold.job_id)
    if job.status == "cancelling":
        return _let_go(session, job, "cancelled")
    return _end(session, job, "failed", error=error, stop_reason="failed")


def held(session: Session) -> Sequence[Job]:
    """The jobs that workers hold; a trial is held with its search."""
    return session.scalars(select(Job).where(Job.status.in_(HELD), Job.parent.is_(None))).all()


def rescue(session: Session, job: Job, reason: str, max_deaths: int) -> Job:
    """Takes a job from a worker that is gone."""
    return _bury(session, job, reason, max_deaths)


# --- trials ----------------------------------------------------------------------------------------------------------


def trials(session: Session, search_id: str) -> Sequence[Job]:
    """The trials of a search, in their order."""
    query = select(Job).where(Job.parent == search_id).order_by(Job.trial)
    return session.scalars(query.execution_options(populate_existing=True)).all()


def start_trial(
    session: Session,
    hold: Hold,
    number: int,
    spec: dict[str, Any],
    parameters: dict[str, Any],
    budget: dict[str, Any] | None = None,
) -> Job:
    """A new trial of the held search, running from the start: nobody else could claim it."""
    fenced(session, hold)
    search = get(session, hold.job_id)
    trial = Job(
        id=new_id("job"),
        type="train",
        status="running",
        parent=search.id,
        trial=number,
        parameters=parameters,
        spec=spec,
        budget=budget,
        seed=search.seed,
        version_id=search.version_id,
        dataset=search.dataset,
        model=search.model,
        created_at=now(),
        started_at=now(),
        stop_requested=False,
        attempt=hold.attempt,
        deaths=1,
    )
    session.add(trial)
    session.flush()
    _status_event(session, trial.id, "running", attempt=hold.attempt)
    return trial


def take_up_trial(session: Session, hold: Hold) -> Job | None:
    """The trial that an earlier attempt of the search left open, running again; None when there is none."""
    fenced(session, hold)
    for trial in _open_trials(session, hold.job_id):
        trial.attempt = hold.attempt
        return _move(session, trial, "running")
    return None


# --- events ----------------------------------------------------------------------------------------------------------


def record_event(session: Session, job_id: str, kind: str, data: dict[str, Any]) -> None:
    session.add(Event(job_id=job_id, type=kind, time=now(), data=data))


def delete_checkpoints(session: Session, job_id: str, keep: Sequence[str] = ()) -> None:
    """Forgets a job's checkpoints but those named. Their bytes go later (`artifacts.prune`): that takes time."""
    mine = select(Checkpoint.id).where(Checkpoint.job_id == job_id, Checkpoint.id.not_in(keep))
    ids = session.scalars(mine).all()
    session.execute(delete(Checkpoint).where(Checkpoint.id.in_(ids)))
    session.execute(update(Blob).where(Blob.id.in_(ids)).values(doomed=True))


# --- inside ----------------------------------------------------------------------------------------------------------


def _let_go(session: Session, job: Job, reason: str) -> Job:
    if job.status == "cancelling":
        return _end(session, job, "cancelled", stop_reason="cancelled")
    return _move(session, job, "paused" if job.status == "pausing" else "interrupted", reason)


def _bury(session: Session, job: Job, reason: str, max_deaths: int) -> Job:
    if job.status != "cancelling" and job.deaths >= max_deaths:
        error = {
            "code": "worker_died",
            "message": f"the job's process died {job.deaths} times without progress; last: {reason}",
            "hint": "read the job's log; a smaller network, image_size or batch_size needs less memory",
        }
        return _end(session, job, "failed", error=error, stop_reason="failed")
    record_event(session, job.id, "warning", {"message": reason, "attempt": job.attempt})
    return _let_go(session, job, reason)


def _end(
    session: Session,
    job: Job,
    status: str,
    *,
    stop_reason: str,
    error: dict[str, Any] | None = None,
    keep: Sequence[str] = (),
) -> Job:
    job.error, job.stop_reason, job.finished_at, job.eta_seconds = error, stop_reason, now(), None
    delete_checkpoints(session, job.id, keep)
    if job.type == "search":
        _end_trials(session, job)
    if job.type == "import" and status != "succeeded":
        mine = DatasetVersion.id == job.version_id
        session.execute(update(DatasetVersion).where(mine).values(status="failed"))
    if job.type == "import_model" and status != "succeeded":  # of what was refused nothing stays
        session.execute(update(Blob).where(Blob.id == job.spec["blob_id"]).values(doomed=True))
    return _move(session, job, status, error["message"] if error else stop_reason)


def _move(session: Session, job: Job, status: str, reason: str | None = None) -> Job:
    job.status = status
    if status not in HELD:
        job.worker, job.lease_expires_at = None, None
    if job.type == "search" and status in ("paused", "interrupted"):
        for trial in _open_trials(session, job.id):
            _move(session, trial, status, reason)
    _status_event(session, job.id, status, reason=reason)
    return job


def _open_trials(session: Session, search_id: str) -> Sequence[Job]:
    return [trial for trial in trials(session, search_id) if trial.status not in TERMINAL]


def _end_trials(session: Session, search: Job) -> None:
    """Nothing of the trials is needed any more but their records."""
    for trial in trials(session, search.id):
        delete_checkpoints(session, trial.id)
    for trial in _open_trials(session, search.id):
        _end(session, trial, "cancelled", stop_reason="cancelled")


def _steered(session: Session, job_id: str) -> Job:
    """The job that a client wants to steer. Raises Conflict for a trial: its search decides."""
    job = get(session, job_id)
    if job.parent is not None:
        raise Conflict("is_a_trial", f"{job_id} is a trial of a search", hint=f"steer the search: {job.parent}")
    return job


def _status_event(session: Session, job_id: str, status: str, **more: Any) -> None:
    data = {key: value for key, value in more.items() if value is not None}
    record_event(session, job_id, "status", {"status": status, **data})


def _refuse(job: Job, verb: str, statuses: Sequence[str]) -> None:
    if job.status in statuses:
        raise Conflict(
            "wrong_state", f"cannot {verb} a job that is {job.status}", hint="GET the job to see where it stands"
        )
