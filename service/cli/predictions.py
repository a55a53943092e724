"""`fovea predictions`: what was asked with `classify --store`: look, run again, say what is true, learn from it."""

from typing import Annotated, Any

import typer

from service.cli.console import AsJson, connect, out, show

predictions = typer.Typer(no_args_is_help=True, help="Kept predictions.")
COLUMNS = ("id", "index", "model", "label", "probability", "decision", "truth")
Index = Annotated[int | None, typer.Option(help="which picture, from 0, where there are several")]


@predictions.command("ls")
def list_predictions(
    model: str | None = None,
    labelled: Annotated[bool | None, typer.Option(help="only with, or without, a truth")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    as_json: AsJson = False,
) -> None:
    """The newest kept predictions."""
    wanted = {"model": model, "labelled": labelled, "limit": limit}
    with connect() as fovea:
        found = fovea.get("/v1/predictions", **{name: value for name, value in wanted.items() if value is not None})
    show(found["data"], True) if as_json else show([row for one in found["data"] for row in _rows(one)], False, COLUMNS)


@predictions.command("show")
def show_prediction(prediction: str) -> None:
    with connect() as fovea:
        show(fovea.get(f"/v1/predictions/{prediction}"), as_json=True)


@predictions.command("label")
def label(prediction: str, label: str, index: Index = None, as_json: AsJson = False) -> None:
    """Say what a picture shows: a class of the model, or a new one."""
    with connect() as fovea:
        labelled = fovea.label(prediction, label, index)
    show(labelled, True) if as_json else show(_rows(labelled), False, COLUMNS)


@predictions.command("replay")
def replay(prediction: str, as_json: AsJson = False) -> None:
    """Run it again on the same model version, and say what differs."""
    with connect() as fovea:
        found = fovea.replay(prediction)
    if as_json:
        show(found, True)
        return
    out.print("equal" if found["equal"] else "different")
    if found["differences"]:
        show(found["differences"], False, ("index", "field", "before", "after"))


def _rows(prediction: dict[str, Any]) -> list[dict[str, Any]]:
    model = f"{prediction['model']['name']}:{prediction['model']['version']}"
    return [
        {"id": prediction["id"], "index": index, "model": model, **result}
        for index, result in enumerate(prediction["results"])
    ]
