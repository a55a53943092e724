"""A search: its trials one after the other in this process, and a model version of the best.

Each trial is a child job, trained by the code that trains any job; its rows (parameters, metrics, result) are all the
memory that a search has. So a search that was killed takes up its open trial at the last checkpoint, and goes on with
what is recorded. Trials are judged on the validation split alone; the test split is seen by the one model made.
"""

import logging
from dataclasses import replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import artifacts, jobs
from service.cost import Room
from service.datasets import versions
from service.db.tables import DatasetVersion, Job, Metric
from service.ending import EXPORT_SECONDS, seconds_at_end
from service.errors import Conflict, InternalError, Overloaded, ServiceError
from service.jobs import Hold
from service.search import resolve_varied, vary
from workers import train_job
from workers.context import Context
from workers.model import Learned, make_model, register
from workers.sampling import Sampling
from workers.training.state import network_of, weights_sha256
from workers.trials import Search, TrialWatch, metric_values, seconds_of, tried

log = logging.getLogger("fovea.job")


def run(context: Context, job: Job) -> None:
    """Runs the trials that are left, and makes a model of the best."""
    asked = job.search or {}
    sampling = Sampling(asked["space"], job.seed, asked["trials"], maximise=asked["metric"] != "val/loss")
    search = Search(context, job, asked["metric"], asked["trials"], sampling)
    trial = _left_open(search)
    while True:
        how = None if trial is None else _try(search, trial)
        reason = "stopped" if how == "stopped" else _reason_to_end(search)
        if reason is not None:
            break
        trial = _next(search)
    _conclude(search, reason)


def _left_open(search: Search) -> Job | None:
    """The trial that an earlier attempt left open, unless it is what every attempt dies of: then it has failed."""
    context = search.context
    with context.database.write() as session:
        trial = jobs.take_up_trial(session, context.hold)
    if trial is None or not 1 < search.job.deaths >= context.settings.max_crashes:
        return trial
    message = f"its process died {search.job.deaths - 1} times without progress"
    _failed(search, trial, InternalError("worker_died", message, hint="it may need more memory than there is"))
    return None


def _reason_to_end(search: Search) -> str | None:
    search.context.let_go()
    if search.context.asked() == "stop":
        return "stopped"
    rows = search.rows()
    if len(rows) >= search.trials:
        return "completed"
    if search.job.budget is not None and rows:
        longest, used = max(map(seconds_of, rows)), sum(map(seconds_of, rows))
        ending = seconds_at_end(search.context.settings, search.job.budget)
        if used + longest + ending > search.job.budget["seconds"]:
            return "budget_exhausted"
    return None


# --- one trial -------------------------------------------------------------------------------------------------------


def _next(search: Search) -> Job | None:
    """The next trial, begun; None when its parameters are impossible together: then it has failed already."""
    context, base = search.context, search.job.spec
    with context.database.read() as session:
        before = tried(session, search, search.rows())
        facts = versions.facts(session.get_one(DatasetVersion, search.job.version_id))
    number = len(before) + 1
    parameters = search.sampling.propose(number, before)
    log.info("trial %d tries %s", number, parameters)
    spec, impossible = vary(base, parameters), None
    try:
        spec = resolve_varied(base, parameters, facts, Room.of(context.settings))
    except ServiceError as error:
        impossible = error
    rows = search.rows()
    with context.database.write() as session:
        trial = jobs.start_trial(session, context.hold, number, spec, parameters, _what_is_left(search, rows))
        if impossible is not None:
            _record_failure(session, search, trial, impossible, search.best(rows))
    return trial if impossible is None else None


def _what_is_left(search: Search, rows: list[Job]) -> dict[str, float] | None:
    """The budget of the next trial: it ends annealed within that of the search, shortened if it must be."""
    if search.job.budget is None:
        return None
    left = search.job.budget["seconds"] - sum(map(seconds_of, rows))
    return {"seconds": max(left, EXPORT_SECONDS)}


def _try(search: Search, trial: Job) -> str:
    """Trains the trial and records how it ended: its stop reason. Raises Interrupted."""
    with search.context.database.read() as session:
        rows = search.rows()
        watch = TrialWatch(
            search, trial, rows, tried(session, search, rows[:-1]), metric_values(session, search, [trial])
        )
    hold = Hold(trial.id, search.context.hold.attempt, search.context.hold)
    try:
        learned = train_job.learn(replace(search.context, hold=hold), trial, watch)
    except Overloaded:
        raise
    except ServiceError as error:
        return _failed(search, trial, error)
    except (MemoryError, RuntimeError) as error:
        if not train_job.is_out_of_memory(error):
            raise
        return _failed(search, trial, Conflict("out_of_memory", str(error)[:300], hint="search smaller networks"))
    return _finished(search, hold, learned)


def _finished(search: Search, hold: Hold, learned: Learned) -> str:
    """The trial's result; its best checkpoint is kept, and that of the best before it forgotten, if it is better."""
    rows = search.rows()
    before = search.best(rows[:-1])
    with search.context.database.read() as session:
        checkpoint = artifacts.best_checkpoint(session, hold.job_id)
        if checkpoint is None:  # stopped before its first epoch had ended: there is nothing to keep
            return learned.stop_reason
        result = _result(session, search, hold.job_id, checkpoint.id, learned)
    with search.context.database.write() as session:
        jobs.fenced(session, hold, plan=learned.plan)
        trial = jobs.succeed(session, hold, result, learned.stop_reason, keep_checkpoints=[checkpoint.id])
        best = search.best([*rows[:-1], trial])
        for loser in (before, trial):
            if loser is not None and loser is not best:
                jobs.delete_checkpoints(session, loser.id)
        _tell(session, search, trial, best)
    artifacts.prune(search.context.database)
    return learned.stop_reason


def _result(session: Session, search: Search, trial_id: str, checkpoint_id: str, learned: Learned) -> dict[str, Any]:
    counters = learned.state.counters
    query = select(Metric).where(Metric.job_id == trial_id, Metric.epoch == counters.best_epoch)
    metrics = {row.name: row.value for row in session.scalars(query)}
    weights = network_of(artifacts.read_blob(session, checkpoint_id))
    return {
        "value": metrics[search.metric],
        "best_epoch": counters.best_epoch,
        "metrics": {name: metrics[name] for name in dict.fromkeys(("val/accuracy", "val/loss", search.metric))},
        "weights_sha256": weights_sha256(weights),
        "seconds": counters.seconds,
    }


def _failed(search: Search, trial: Job, error: ServiceError) -> str:
    best = search.best(search.rows())
    with search.context.database.write() as session:
        _record_failure(session, search, trial, error, best)
    return "failed"


def _record_failure(session: Session, search: Search, trial: Job, error: ServiceError, best: Job | None) -> None:
    log.warning("trial %s failed: %s", trial.trial, error)
    hold = Hold(trial.id, search.context.hold.attempt, search.context.hold)
    _tell(session, search, jobs.fail(session, hold, error.as_dict()), best)


def _tell(session: Session, search: Search, trial: Job, best: Job | None) -> None:
    """The search's progress and event for a trial that has ended."""
    done, best_value = int(trial.trial or 0), best.result["value"] if best and best.result else None
    progress = {"trial": done, "trials": search.trials, "fraction": done / search.trials, "best_value": best_value}
    jobs.progressed(session, search.context.hold, progress=progress, device=trial.device)
    data = {
        "trial": done,
        "trials": search.trials,
        "job": trial.id,
        "parameters": trial.parameters,
        "status": trial.status,
        "stop_reason": trial.stop_reason,
        "value": trial.result["value"] if trial.result else None,
        "best_value": best_value,
        "error": trial.error,
    }
    jobs.record_event(session, search.job.id, "metrics", data)


# --- the result ------------------------------------------------------------------------------------------------------


def _conclude(search: Search, reason: str) -> None:
    """Makes a model of the best trial and ends the search. Raises what the first trial failed of when all have."""
    rows = search.rows()
    best = search.best(rows)
    if best is None or best.result is None:
        raise _nothing_learned(rows)
    learned = replace(train_job.recall(search.context, best), stop_reason=reason)
    made = make_model(search.context, best, learned)
    made.card["lineage"] |= {"job": search.job.id, "trial": best.id, "parameters": best.parameters}
    ended = [row for row in rows if row.finished_at is not None]
    register(
        search.context,
        search.job,
        made,
        learned,
        trial=best.id,
        parameters=best.parameters,
        value=best.result["value"],
        trials=len(ended),
        pruned=sum(row.stop_reason == "pruned" for row in ended),
    )


def _nothing_learned(rows: list[Job]) -> ServiceError:
    error = next((row.error for row in rows if row.error), None)
    if error is None:
        return Conflict("nothing_learned", "the search was stopped before its first trial had finished an epoch")
    return Conflict(error["code"], f"all trials failed; the first: {error['message']}", hint=error["hint"])
