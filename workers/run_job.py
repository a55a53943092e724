"""The process that runs one job: waits for it on stdin, runs it, and exits.

A light one waits without torch, a heavy one with it (where the job was there first, only what that needs is imported).
A forking one has it too, and leaves each job to a child.

Exit code 0 means that the job's row tells how it ended, be it by an exception that nobody foresaw, COULD_NOT_WRITE that
the database took nothing. Anything else is a death, which the supervisor writes down.
"""

import importlib
import json
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial

from sqlalchemy.exc import DBAPIError

from service import jobs
from service.db import CANNOT_WRITE, Database
from service.db.tables import Job
from service.errors import InsufficientStorage, Overloaded, ServiceError
from service.jobs import Hold, LeaseLost
from service.settings import Settings
from workers import forking
from workers.context import Context, Interrupted
from workers.forking import COULD_NOT_WRITE, die_with_parent

log = logging.getLogger("fovea.job")

LONGEST_REASON = 300  # characters of an exception
NICENESS = 10  # requests go first on a machine that also serves


def main(kind: str) -> None:
    die_with_parent()
    os.nice(NICENESS)
    shutting_down = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: shutting_down.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the supervisor, which asks by SIGTERM
    settings = Settings()
    if settings.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # torch would begin with cards that it found, and no fork could go on
    if kind == "forking":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        from workers import train_job  # and with it torch

        warm_up = _only_import if settings.on_gpu else partial(_by_one_thread, train_job.warm_up, settings)
        forking.serve(warm_up, lambda line: _work(line, settings, shutting_down))
        return
    if kind == "heavy" and not _is_waiting():
        _preload(settings)
    if line := sys.stdin.readline():
        # taking torch and the engines apart takes two seconds, for which the next job would wait
        os._exit(_work(line, settings, shutting_down))


def _work(line: str, settings: Settings, shutting_down: threading.Event) -> int:
    """The exit code."""
    order = json.loads(line)
    hold = Hold(order["job_id"], order["attempt"])
    _log_to(settings, hold)
    database = Database(settings.database)
    try:
        _run(Context(settings, database, hold, shutting_down))
        code = 0
    except (Overloaded, InsufficientStorage) as error:
        log.warning("let go: %s", error)
        code = COULD_NOT_WRITE
    database.dispose()
    logging.shutdown()
    sys.stdout.flush()
    return code


def _is_waiting() -> bool:
    """Has the job arrived, or the end of all jobs?"""
    return bool(select.select([sys.stdin], [], [], 0)[0])


def _preload(settings: Settings) -> None:
    """Imports torch now, while there is no job to wait for it."""
    from workers import train_job

    if not _is_waiting():
        train_job.warm_up(settings)


def _only_import() -> None:
    """Most of what a first export imports; exporting would ask CUDA for cards, and after that no fork could use one."""
    importlib.import_module("torch._dynamo")


def _by_one_thread(warm_up: Callable[[Settings], None], settings: Settings) -> None:
    """So that no threads are missing in a fork: there were none."""
    import torch
    from tqdm import tqdm  # type: ignore[import-untyped]

    tqdm.monitor_interval = 0  # its thread may hold a lock in the moment of a fork
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    warm_up(settings)
    torch.set_num_threads(threads)


def _run(context: Context) -> None:
    with context.database.read() as session:
        job = jobs.get(session, context.hold.job_id)
    log.info("%s: attempt %d", job.id, job.attempt)
    try:
        importlib.import_module(f"workers.{job.type}_job").run(context, job)
    except Interrupted as reason:
        with context.database.write() as session:
            jobs.release(session, context.hold, f"{reason} requested")
    except LeaseLost as error:
        log.warning("%s", error)
    except ServiceError as error:
        if error.code in CANNOT_WRITE:
            raise
        log.warning("failed: %s", error)
        _fail(context, job, error)
    except Exception as error:  # a death that can say what it was: the job may be tried again
        log.exception("%s", job.id)
        _died(context, error)


def _fail(context: Context, job: Job, error: ServiceError) -> None:
    with context.database.write() as session:
        jobs.fail(session, context.hold, error.as_dict())


def _died(context: Context, error: Exception) -> None:
    reason = f"{type(error).__name__}: {_told(error)}"[:LONGEST_REASON]
    with context.database.write() as session:
        jobs.died(session, context.hold, reason, context.settings.max_crashes)


def _told(error: Exception) -> str:
    """Without the statements and paths that belong in the log only."""
    if isinstance(error, DBAPIError):
        return str(error.orig)
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _log_to(settings: Settings, hold: Hold) -> None:
    """From here on, all this process prints goes to the job's log."""
    settings.logs.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(settings.logs / f"{hold.job_id}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True)
    for name in ("onnxscript", "onnx_ir", "torch.onnx"):  # each tells a hundred lines of how it simplifies a graph
        logging.getLogger(name).setLevel(logging.WARNING)


if __name__ == "__main__":
    main(sys.argv[1])
