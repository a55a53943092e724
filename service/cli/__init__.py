"""The `fovea` command. What concerns data goes through the REST API, but for backups."""

import sys

import typer

from service.cli import running
from service.cli.datasets import datasets
from service.cli.jobs import jobs, search, train
from service.cli.keys import keys
from service.cli.models import classify, models
from service.cli.predictions import predictions
from service.client import FoveaError
from service.errors import ServiceError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Train and serve image classifiers on your machine.")
for command in (
    running.up,
    running.serve,
    running.work,
    running.link,
    running.demo,
    running.backup,
    running.restore,
    running.doctor,
):
    app.command()(command)
app.command()(train)
app.command()(search)
app.command()(classify)
groups = {"datasets": datasets, "jobs": jobs, "models": models, "predictions": predictions, "keys": keys}
for name, group in groups.items():
    app.add_typer(group, name=name)


def main() -> None:
    try:
        app()
    except (FoveaError, ServiceError) as error:
        hint = f" ({error.hint})" if isinstance(error, ServiceError) and error.hint else ""
        sys.stderr.write(f"fovea: {error}{hint}\n")
        sys.exit(1)
