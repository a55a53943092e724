"""`fovea train`, `fovea search`, `fovea jobs`: start long work, watch it and steer it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.console import AsJson, connect, out, show
from service.client import Fovea, FoveaError

jobs = typer.Typer(no_args_is_help=True, help="Watch and steer long work.")


def train(
    model: str,
    dataset: Annotated[str | None, typer.Option(help="the model's name when left out")] = None,
    network: Annotated[str | None, typer.Option()] = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    spec: Annotated[Path | None, typer.Option(help="a JSON file with the whole spec")] = None,
    seed: int = 0,
    goal: Annotated[float | None, typer.Option(help="end at this validation accuracy")] = None,
    budget: Annotated[float | None, typer.Option(help="end within so many seconds")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="watch it learn")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model on a dataset."""
    terms: dict[str, Any] = {} if goal is None else {"goal": {"at_least": goal}}
    terms |= {} if budget is None else {"budget": {"seconds": budget}}
    wanted = json.loads(spec.read_text()) if spec else {}
    wanted |= {key: value for key, value in (("network", network), ("epochs", epochs)) if value is not None}
    with connect() as fovea:
        job = fovea.train(model, dataset or model, wanted, seed, **terms)
        if follow and not as_json:
            job = watch(fovea, job["id"])
    columns = ("id", "type", "status", "stop_reason")
    show(job if as_json else [job], as_json, columns)


def search(
    model: str,
    space: Annotated[Path, typer.Option(help="a JSON file: pointers into the spec, and what to try there")],
    dataset: Annotated[str | None, typer.Option(help="the model's name when left out")] = None,
    trials: int = 20,
    spec: Annotated[Path | None, typer.Option(help="a JSON file with what all trials share")] = None,
    seed: int = 0,
    metric: Annotated[str, typer.Option(help="val/accuracy, val/loss or val/mean_average_precision")] = "val/accuracy",
    budget: Annotated[float | None, typer.Option(help="begin no trial that would end later, in seconds")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="a line per trial")] = False,
    as_json: AsJson = False,
) -> None:
    """Train variants of a spec; the best becomes the model's next version."""
    terms: dict[str, Any] = {} if budget is None else {"budget": {"seconds": budget}}
    terms |= {"trials": trials, "seed": seed, "metric": metric}
    base = json.loads(spec.read_text()) if spec else {}
    with connect() as fovea:
        job = fovea.search(model, dataset or model, json.loads(space.read_text()), base, **terms)
        if follow and not as_json:
            job = watch(fovea, job["id"])
    show(job if as_json else [job], as_json, ("id", "type", "status", "stop_reason"))


def watch(fovea: Fovea, job_id: str) -> dict[str, Any]:
    """Prints a line per epoch until the job has ended; Ctrl-C leaves the job running."""
    after: str | None = None
    job: dict[str, Any] = {}
    try:
        for job in fovea.follow(job_id):
            for event in fovea.events(job_id, after):
                after = event["id"]
                if event["type"] == "metrics":
                    line = trial_line if "trial" in event["data"] else epoch_line
                    out.print(line(event["data"], job["eta_seconds"]))
                elif event["type"] == "warning":
                    out.print(event["data"]["message"], style="yellow")
    except KeyboardInterrupt:
        out.print(f"still running; `fovea jobs show {job_id}` shows it, `fovea jobs cancel {job_id}` ends it")
    if job.get("error"):
        raise FoveaError(0, {**job["error"], "detail": job["error"]["message"]})
    return job


def epoch_line(data: dict[str, Any], eta: dict[str, float] | None) -> str:
    words = [f"epoch {data['epoch']:>3}/{data['epochs']}"]
    for label, key in (("loss", "train/loss"), ("accuracy", "train/accuracy"), ("val accuracy", "val/accuracy")):
        if key in data:
            words.append(f"{label} {data[key]:.4f}")
    words.append(f"{data['images_per_second']:,.0f} images/s")
    return "  ".join([*words, f"about {eta['p50']:.0f} s left"] if eta else words)


def trial_line(data: dict[str, Any], eta: dict[str, float] | None) -> str:
    value = "failed" if data["value"] is None else f"{data['value']:.4f}"
    tried = ", ".join(f"{pointer[1:]} {json.dumps(tried)}" for pointer, tried in data["parameters"].items())
    words = [
        f"trial {data['trial']:>3}/{data['trials']}",
        value,
        *(["pruned"] if data["stop_reason"] == "pruned" else []),
    ]
    if data["best_value"] is not None:
        words.append(f"best {data['best_value']:.4f}")
    words.append(tried)
    return "  ".join([*words, f"about {eta['p50']:.0f} s left"] if eta else words)


@jobs.command("ls")
def list_jobs(as_json: AsJson = False) -> None:
    with connect() as fovea:
        show(list(fovea.rows("/v1/jobs")), as_json, ("id", "type", "status", "model", "stop_reason", "created_at"))


@jobs.command("show")
def show_job(job_id: str) -> None:
    with connect() as fovea:
        show(fovea.job(job_id), as_json=True)


@jobs.command("logs")
def job_log(job_id: str) -> None:
    with connect() as fovea:
        sys.stdout.write(fovea.log(job_id))


def _action(action: str) -> Callable[[str], None]:
    def act(job_id: str) -> None:
        with connect() as fovea:
            out.print(f"{job_id}: {fovea.act(job_id, action)['status']}")

    act.__doc__ = f"{action.capitalize()} a job."
    return act


for verb in ("cancel", "stop", "pause", "resume", "reproduce"):
    jobs.command(verb)(_action(verb))
