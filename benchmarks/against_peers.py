"""Fovea against fastai's and Keras' default ways: the same pictures, the same seconds, one after the other.

    python -m benchmarks.against_peers PEERS_PYTHON SIDE SECONDS ARCHIVE [ARCHIVE ...] [--only-auto]

PEERS_PYTHON is an interpreter with fastai, keras and tensorflow. Of each zip (one folder per class) a fixed fifth is
held out. Peers tell their accuracy on it after each epoch. Ours goes through the API, twice: once with the fifth as
the test split and fastai's seconds as its budget, judged by the evaluation; then, unless --only-auto, with the fifth
as the validation split and the better peer's accuracy as its goal, for each of RECIPES. Seconds of ours count from
the upload on.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.service import WARM_SECONDS, running
from service.client import Fovea

PEERS = Path(__file__).parent / "peers"
SUFFIXES = (".png", ".jpg", ".jpeg")
RECIPES: dict[str, dict[str, Any]] = {"classic": {"network": "classic"}, "auto": {}, "speedrun": {"recipe": "speedrun"}}


def write(archive: Path, folder: Path) -> None:
    """folder/{train,valid}/class/picture for the peers, and {test,val}.zip in which the fifth is of that split."""
    with zipfile.ZipFile(archive) as source:
        names = sorted(name for name in source.namelist() if name.lower().endswith(SUFFIXES))
        random.Random(0).shuffle(names)
        with zipfile.ZipFile(folder / "test.zip", "w") as test, zipfile.ZipFile(folder / "val.zip", "w") as val:
            for number, name in enumerate(names):
                held_out = number < len(names) // 5
                label, suffix = name.split("/")[-2], Path(name).suffix
                data = source.read(name)
                path = folder / ("valid" if held_out else "train") / label / f"{number}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                for target, split in ((test, "test"), (val, "val")):
                    target.writestr(f"{split if held_out else 'train'}/{label}/{number}{suffix}", data)


def peer(python: str, script: str, folder: Path, side: str, seconds: str) -> list[dict[str, float]]:
    words = [python, str(PEERS / script), str(folder), side, seconds]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def imported(fovea: Fovea, archive: Path, name: str) -> float:
    """Seconds of the upload and its import."""
    began = time.perf_counter()
    job = fovea.wait(fovea.push_dataset(archive, name)["job"]["id"])
    assert job["status"] == "succeeded", job
    return time.perf_counter() - began


def in_the_same_seconds(fovea: Fovea, name: str, seconds: float, spec: dict[str, Any]) -> str:
    job = fovea.wait(fovea.train(name, name, spec, budget={"seconds": max(seconds, 15)})["id"])
    assert job["status"] == "succeeded", job
    found = fovea.evaluation(name)
    chosen = job["spec"]["network"] if isinstance(job["spec"]["network"], str) else "layers"
    return f"{found['accuracy']['value']:.3f} in {_took(job):.0f} s ({chosen}, {job['spec']['image_size']} px)"


def until(fovea: Fovea, name: str, goal: float, recipe: dict[str, Any], side: int) -> tuple[str, float | None]:
    """The validation accuracy, and the seconds from the post until the goal was reached, if it was."""
    time.sleep(WARM_SECONDS)
    body = {"image_size": side, **recipe}
    job = fovea.wait(fovea.train("timed", name, body, goal={"metric": "accuracy", "at_least": goal})["id"])
    assert job["status"] == "succeeded", job
    points = fovea.get(f"/v1/jobs/{job['id']}/metrics", names="val/accuracy")["series"][0]["points"]
    created = datetime.fromisoformat(job["created_at"])
    reached = [(datetime.fromisoformat(at) - created).total_seconds() for _, _, value, at in points if value >= goal]
    return f"{max(value for _, _, value, _ in points):.3f}", reached[0] if reached else None


def _took(job: dict[str, Any]) -> float:
    began, ended = (datetime.fromisoformat(job[name]) for name in ("started_at", "finished_at"))
    return (ended - began).total_seconds()


def compare(python: str, archive: Path, side: str, seconds: str, *, only_auto: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(archive, folder)
        scripts = ["fastai_default.py"] if only_auto else ["fastai_default.py", "keras_default.py"]
        best: dict[str, dict[str, float]] = {}
        for script in scripts:
            rows = peer(python, script, folder, side, seconds)
            best[script] = max(rows, key=lambda row: row["accuracy"])
            end = rows[-1]
            print(
                f"{archive.stem}: {script}: {end['accuracy']:.3f} after {end['seconds']:.0f} s and {len(rows)} epochs; "
                f"best {best[script]['accuracy']:.3f} at {best[script]['seconds']:.0f} s",
                flush=True,
            )
            if script == "fastai_default.py":
                budget = end["seconds"]
        with running() as (fovea, _):
            importing = imported(fovea, folder / "test.zip", "same")
            print(f"{archive.stem}: auto: {in_the_same_seconds(fovea, 'same', budget, {})}", flush=True)
            if only_auto:
                return
            importing = imported(fovea, folder / "val.zip", "timed")
            _time_recipes(fovea, archive.stem, best, importing, int(side))


def _time_recipes(fovea: Fovea, name: str, best: dict[str, dict[str, float]], importing: float, side: int) -> None:
    goal = max(row["accuracy"] for row in best.values())
    for recipe, spec in RECIPES.items():
        accuracy, seconds = until(fovea, "timed", goal, spec, side)
        if seconds is None:
            print(f"{name}: {recipe}: {accuracy}, the goal of {goal:.3f} not reached", flush=True)
            continue
        total = seconds + importing
        ratios = ", ".join(
            f"{row['seconds'] / total:.1f} times as fast as {script.partition('_')[0]} to its {row['accuracy']:.3f}"
            for script, row in best.items()
        )
        print(f"{name}: {recipe}: {goal:.3f} at {total:.1f} s, {importing:.1f} s of it import; {ratios}", flush=True)


def main() -> None:
    words = [word for word in sys.argv[1:] if word != "--only-auto"]
    if len(words) < 4:
        sys.exit("usage: python -m benchmarks.against_peers PEERS_PYTHON SIDE SECONDS ARCHIVE [ARCHIVE ...]")
    python, side, seconds, *archives = words
    for archive in archives:
        compare(python, Path(archive), side, seconds, only_auto="--only-auto" in sys.argv)


if __name__ == "__main__":
    main()
