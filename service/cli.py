"""The `fovea` command. Everything but `up`, `serve`, `work` and `doctor` goes through the REST API."""

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from service.client import Fovea, FoveaError
from service.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Train and serve image classifiers on your machine.")
datasets = typer.Typer(no_args_is_help=True, help="Upload and list labelled pictures.")
jobs = typer.Typer(no_args_is_help=True, help="Watch and steer long work.")
models = typer.Typer(no_args_is_help=True, help="What was trained, and how good it is.")
keys = typer.Typer(no_args_is_help=True, help="API keys.")
for name, group in (("datasets", datasets), ("jobs", jobs), ("models", models), ("keys", keys)):
    app.add_typer(group, name=name)

AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
ALIAS_COLUMNS = ("alias", "version", "moved_at")
out = Console(soft_wrap=True)


def connect() -> Fovea:
    """FOVEA_URL and FOVEA_API_KEY, else the service of this data folder with its admin key."""
    settings = Settings()
    url = os.environ.get("FOVEA_URL") or settings.url()
    key = os.environ.get("FOVEA_API_KEY") or settings.admin_key
    if key is None and os.access(settings.admin_key_file, os.R_OK):
        key = settings.admin_key_file.read_text().strip()
    return Fovea(url, key)


def show(answer: Any, as_json: bool, columns: tuple[str, ...] = ()) -> None:
    """A table of the columns, or JSON."""
    if as_json or not columns:
        sys.stdout.write(json.dumps(answer, indent=2, ensure_ascii=False) + "\n")
        return
    table = Table(*columns, box=None)
    for row in answer:
        table.add_row(*(str(row.get(column, "")) for column in columns))
    out.print(table)


@app.command()
def up() -> None:
    """Run the service and a worker together, until Ctrl-C."""
    from service.up import up as run

    raise typer.Exit(run())


@app.command()
def serve() -> None:
    """Run the HTTP service."""
    from service.__main__ import main as run

    run()


@app.command()
def work() -> None:
    """Run a worker."""
    os.execv(sys.executable, [sys.executable, "-m", "workers"])  # noqa: S606 - replaces this process, without a shell


@app.command()
def link() -> None:
    """Print a link that signs a browser in to the page: once, within 15 minutes."""
    with connect() as fovea:
        sys.stdout.write(f"{fovea.url}{fovea.sign_in_path()}\n")


@app.command()
def demo(exit: Annotated[bool, typer.Option("--exit", help="stop the service at the end")] = False) -> None:
    """Learn handwritten digits and name one."""
    from service.demo import demo as run

    run(leave_running=not exit)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Settings, versions and disk of this installation."""
    import pysqlite3

    settings = Settings()
    free = shutil.disk_usage(next(p for p in (settings.data, *settings.data.parents) if p.exists())).free
    facts = {
        "python": platform.python_version(),
        "sqlite": pysqlite3.sqlite_version,
        "disk_free_bytes": free,
        "settings": settings.model_dump(mode="json", exclude={"admin_key"}),
    }
    if as_json:
        show(facts, as_json=True)
        return
    out.print(f"Python {facts['python']}, SQLite {facts['sqlite']}, {free / 2**30:.1f} GiB free")
    for field, value in settings.model_dump(mode="json", exclude={"admin_key"}).items():
        out.print(f"FOVEA_{field.upper()} = {value}  [dim]{Settings.model_fields[field].description}[/dim]")


@datasets.command("push")
def push(source: Path, name: Annotated[str, typer.Option()], as_json: AsJson = False) -> None:
    """Upload a folder or zip of labelled pictures and wait for its import."""
    with connect() as fovea, bar("uploading", TransferSpeedColumn()) as (advance, label):
        pushed = fovea.push_dataset(source, name, advance)
        label("importing")
        for job in fovea.follow(pushed["job"]["id"]):
            if job["progress"]:
                advance(job["progress"]["step"], job["progress"]["steps"])
        if job["status"] != "succeeded":
            raise FoveaError(0, {**(job["error"] or {}), "detail": (job["error"] or {}).get("message", job["status"])})
        version = fovea.get(f"/v1/datasets/{name}/versions/{pushed['version']}")
    if as_json:
        show(version, as_json=True)
    else:
        report = version["report"]
        out.print(f"{name}@{version['number']}: {report['accepted']} pictures, {len(report['rejected'])} rejected")
        show(version["classes"], False, ("name", "count"))


@datasets.command("ls")
def list_datasets(as_json: AsJson = False) -> None:
    with connect() as fovea:
        show(list(fovea.rows("/v1/datasets")), as_json, ("name", "versions", "created_at"))


@datasets.command("show")
def show_dataset(
    name: str, version: Annotated[int | None, typer.Option(help="the newest when left out")] = None
) -> None:
    """A version with its import report, as JSON."""
    with connect() as fovea:
        number = version or fovea.get(f"/v1/datasets/{name}")["versions"]
        show(fovea.get(f"/v1/datasets/{name}/versions/{number}"), as_json=True)


@datasets.command("rm")
def remove_dataset(name: str) -> None:
    """Remove a dataset and its pictures; models trained from it stay."""
    with connect() as fovea:
        fovea.delete(f"/v1/datasets/{name}")


@app.command()
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


@app.command()
def search(
    model: str,
    space: Annotated[Path, typer.Option(help="a JSON file: pointers into the spec, and what to try there")],
    dataset: Annotated[str | None, typer.Option(help="the model's name when left out")] = None,
    trials: int = 20,
    spec: Annotated[Path | None, typer.Option(help="a JSON file with what all trials share")] = None,
    seed: int = 0,
    metric: Annotated[str, typer.Option(help="val/accuracy or val/loss")] = "val/accuracy",
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
                    out.print(f"[yellow]{event['data']['message']}[/yellow]")
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


@app.command()
def classify(
    ref: str,
    files: list[Path],
    top_k: int = 3,
    coverage: Annotated[float | None, typer.Option(help="also name the set that is right this often")] = None,
    as_json: AsJson = False,
) -> None:
    """Name what is in pictures."""
    with connect() as fovea:
        answer = fovea.classify(ref, *files, top_k=top_k, **({"coverage": coverage} if coverage else {}))
    if as_json:
        show(answer, as_json=True)
        return
    for file, result in zip(files, answer["results"], strict=True):
        said = "  ".join(f"{one['label']} {one['probability']:.3f}" for one in result["predictions"])
        said += f"  one of {', '.join(result['prediction_set'])}" if result.get("prediction_set") else ""
        said += "  (unlike the training pictures)" if result.get("decision") == "abstain" else ""
        out.print(f"{file}: {said or result['error']['message']}")


@models.command("ls")
def list_models(as_json: AsJson = False) -> None:
    with connect() as fovea:
        show(list(fovea.rows("/v1/models")), as_json, ("name", "newest_version", "created_at"))


@models.command("show")
def show_model(ref: str) -> None:
    """The evaluation of a model version."""
    with connect() as fovea:
        show(fovea.evaluation(ref), as_json=True)


@models.command("alias")
def set_alias(
    model: str,
    alias: str,
    version: int,
    not_worse_than: Annotated[str | None, typer.Option(help="refuse if significantly worse than this alias")] = None,
    as_json: AsJson = False,
) -> None:
    """Point an alias at a version, from the next request on."""
    with connect() as fovea:
        moved = fovea.set_alias(model, alias, version, not_worse_than)
    show(moved if as_json else [moved], as_json, ALIAS_COLUMNS)


@models.command("rollback")
def roll_back(model: str, alias: str, as_json: AsJson = False) -> None:
    """Point an alias at the version it named before."""
    with connect() as fovea:
        moved = fovea.rollback(model, alias)
    show(moved if as_json else [moved], as_json, ALIAS_COLUMNS)


@models.command("aliases")
def list_aliases(model: str, as_json: AsJson = False) -> None:
    """Where each alias of a model points."""
    with connect() as fovea:
        show(fovea.aliases(model), as_json, ALIAS_COLUMNS)


@models.command("compare")
def compare(a: str, b: str, as_json: AsJson = False) -> None:
    """Is b better than a, on the same test pictures?"""
    with connect() as fovea:
        found = fovea.compare(a, b)
    if as_json:
        show(found, as_json=True)
        return
    gap = found["accuracy_difference"]
    out.print(
        f"{a} {found['accuracy']['a']:.4f}, {b} {found['accuracy']['b']:.4f} on {found['n']} pictures: "
        f"{gap['value']:+.4f} (95 % between {gap['low']:+.4f} and {gap['high']:+.4f}), p = {found['p_value']:.3g}"
    )
    show(found["changed"], False, ("change", "label", "a", "b", "image"))


@keys.command("create")
def create_key(scope: Annotated[list[str], typer.Option()], name: str = "key", as_json: AsJson = False) -> None:
    """Make a key; it is shown once."""
    with connect() as fovea:
        made = fovea.create_key(name, scope)
    show(made, as_json=True) if as_json else sys.stdout.write(made["key"] + "\n")


@keys.command("ls")
def list_keys(as_json: AsJson = False) -> None:
    with connect() as fovea:
        show(list(fovea.rows("/v1/keys")), as_json, ("id", "name", "prefix", "scopes", "revoked_at"))


@keys.command("revoke")
def revoke_key(key_id: str) -> None:
    with connect() as fovea:
        fovea.delete(f"/v1/keys/{key_id}")


class bar:
    """A progress bar on standard error, gone when standard error is no terminal."""

    def __init__(self, label: str, *columns: Any) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            *columns,
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(label, total=None)

    def __enter__(self) -> tuple[Callable[[int, int], None], Callable[[str], None]]:
        self._progress.start()
        return self._advance, lambda label: self._progress.update(self._task, description=label)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _advance(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)


def main() -> None:
    try:
        app()
    except FoveaError as error:
        sys.stderr.write(f"fovea: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
