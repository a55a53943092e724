"""`fovea classify`, `fovea models`: ask a model, see how good it is, point aliases at its versions."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.console import AsJson, Existing, bar, connect, ended, finished, out, show
from service.client import FoveaError

models = typer.Typer(no_args_is_help=True, help="What was trained, and how good it is.")
ALIAS_COLUMNS = ("alias", "version", "moved_at")
PER_CLASS = ("label", "precision", "recall", "f1", "support")


def classify(
    ref: str,
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False)],
    top_k: int = 3,
    coverage: Annotated[float | None, typer.Option(help="also name the set that is right this often")] = None,
    store: Annotated[bool, typer.Option("--store", help="keep pictures and answer: fovea predictions")] = False,
    as_json: AsJson = False,
) -> None:
    """Name what is in pictures."""
    more = {**({"coverage": coverage} if coverage is not None else {}), **({"store": True} if store else {})}
    with connect() as fovea:
        answer = fovea.classify(ref, *files, top_k=top_k, **more)
    if as_json:
        show(answer, as_json=True)
    else:
        _say(files, answer["results"])
    if any(result["error"] for result in answer["results"]):
        raise typer.Exit(1)


def _say(files: list[Path], results: list[dict[str, Any]]) -> None:
    """A line for each picture."""
    for file, result in zip(files, results, strict=True):
        said = "  ".join(f"{one['label']} {one['probability']:.3f}" for one in result["predictions"])
        if said and "threshold" in result["predictions"][0]:
            said = f"[{', '.join(result['labels']) or 'none'}]  {said}"
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


@models.command("evaluate")
def evaluate(
    ref: str,
    dataset: Annotated[str, typer.Argument(help="'garden' for its newest version, or 'garden@1'")],
    split: Annotated[str, typer.Option(help="all, train, val or test")] = "all",
    as_json: AsJson = False,
) -> None:
    """Ask a model version about pictures it did not learn from: how well it does, how strange they look to it."""
    with connect() as fovea, bar("asking") as (advance, _):
        found = finished(fovea, fovea.evaluate(ref, dataset, split), advance)["result"]
    if as_json:
        show(found, as_json=True)
        return
    for line in _evaluated(found):
        out.print(line)
    show([_rounded(row) for row in (found["evaluation"] or {"per_class": []})["per_class"]], False, PER_CLASS)


def _evaluated(found: dict[str, Any]) -> Iterator[str]:
    """What an evaluate job has found, line by line."""
    told, strange = found["evaluation"], found["ood"]
    head = f"{found['model']}:{found['version']} on {found['n']} pictures of {found['dataset']} ({found['split']})"
    if told is None:
        named = f" ({', '.join(found['foreign_classes'])})" if found["foreign_classes"] else ""
        yield f"{head}: {found['why']}{named}"
    else:
        yield f"{head}: accuracy {_interval(told['accuracy'])}"
    if strange is not None:
        auroc, abstained = strange["auroc"], strange["abstained"]
        known = f"strangeness tells them from {strange['n_own']} of its own test pictures: AUROC "
        yield f"no AUROC: {strange['why']}" if auroc is None else known + _interval(auroc)
        yield f"abstained from, at {abstained['false_alarm']:.0%} false alarms: {_interval(abstained)}"
    for warning in found["warnings"]:
        yield f"warning: {warning['message']}; {warning['hint']}"


def _interval(share: dict[str, float]) -> str:
    return f"{share['value']:.4f} (95 % between {share['low']:.4f} and {share['high']:.4f})"


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in row.items()}


@models.command("bundle")
def bundle(
    ref: str, output: Annotated[Path | None, typer.Option("--output", "-o", help="default: NAME.zip")] = None
) -> None:
    """Take a model version away: one zip with ONNX, card and a check that needs nothing of Fovea."""
    with connect() as fovea:
        data = fovea.bundle(ref)
    target = output or Path(f"{ref.replace(':', '-').replace('@', '-')}.zip")
    target.write_bytes(data)
    out.print(f"{target}: {len(data) / 2**20:.1f} MiB")


@models.command("quantise")
def quantise(
    ref: str,
    max_drop: Annotated[float, typer.Option(help="of accuracy on the test split, as a share")] = 0.01,
    even_if_slower: Annotated[
        bool, typer.Option("--even-if-slower", help="also where this machine answers sooner without it")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a version in eight bits of a model version: the model's next, unless it loses too much."""
    with connect() as fovea:
        job = fovea.wait(fovea.quantise(ref, max_drop, even_if_slower=even_if_slower)["id"])
    if job["status"] != "succeeded":
        raise ended(job)
    result = job["result"]
    accuracy = result["compared"]["accuracy"]
    shown = result | {"accuracy": f"{accuracy['b']:.4f}", "before": f"{accuracy['a']:.4f}"}
    show(result if as_json else [shown], as_json, ("model", "version", "quantised_from", "accuracy", "before"))


@models.command("import")
def import_bundle(
    path: Existing,
    name: Annotated[str | None, typer.Option(help="of the model; left out, the one in the bundle's card")] = None,
    as_json: AsJson = False,
) -> None:
    """Register a bundle that any Fovea made as a model version, once it answers its golden pictures."""
    with connect() as fovea:
        job = fovea.wait(fovea.import_bundle(name or _name_in(path), path)["id"])
    if job["status"] != "succeeded":
        raise ended(job)
    show(job["result"] if as_json else [job["result"]], as_json, ("model", "version", "weights_sha256"))


def _name_in(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as bundle:
            return str(json.loads(bundle.read("card.json"))["model"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise FoveaError(0, {"code": "bundle_invalid", "detail": f"{path} is no bundle: {error}"}) from error


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


@models.command("shadow")
def shadow(
    model: str,
    alias: str,
    version: Annotated[int | None, typer.Argument(help="the candidate; left out, how the present one does")] = None,
    share: Annotated[float, typer.Option(help="of the requests that the candidate sees too")] = 0.1,
    as_json: AsJson = False,
) -> None:
    """Let a candidate see what an alias is asked, without answering, and how often it would answer otherwise."""
    with connect() as fovea:
        found = fovea.shadow(model, alias) if version is None else fovea.set_shadow(model, alias, version, share)
    if as_json:
        show(found, as_json=True)
        return
    gap = found["disagreement"]
    out.print(
        f"{model}:{found['version']} beside {model}:{found['against']}: {found['n'] - found['agreed']} of {found['n']} "
        f"answered otherwise (95 % between {gap['low']:.4f} and {gap['high']:.4f})"
    )
    show(found["disagreements"], False, ("label", "candidate", "count"))
