"""How many of the labels that were flipped by chance does an `analyse` job find, and in which time?

`python -m benchmarks.label_errors ARCHIVE…` takes zips of one folder per class and moves 5 % of the pictures into
another class, drawn evenly, three times with different seeds. Precision among the top k, k being the number flipped;
what else is doubtful in the set counts as a miss. Without archives, 10 pictures of 50,000 are edited, and all analysed.
"""

import statistics
import sys
import time
import zipfile
from datetime import datetime
from pathlib import Path

import numpy as np

from benchmarks.pictures import write_zip
from benchmarks.service import WARM_SECONDS, running
from service.client import Fovea

SHARE, SEEDS = 0.05, 3
MANY = 50_000


def main() -> None:
    with running() as (fovea, data):
        for name in sys.argv[1:]:
            _judge(fovea, data, Path(name))
        if not sys.argv[1:]:
            _many(fovea, data)


def flip(source: Path, target: Path, seed: int) -> set[str]:
    """The archive with some pictures in another folder; their new paths."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as flipped:
        names = sorted(name for name in archive.namelist() if not name.endswith("/"))
        classes = sorted({name.split("/")[-2] for name in names})
        random = np.random.default_rng(seed)
        wrong = set(random.choice(len(names), round(SHARE * len(names)), replace=False).tolist())
        moved = set()
        for place, name in enumerate(names):
            label = name.split("/")[-2]
            if place in wrong:
                label = classes[(classes.index(label) + int(random.integers(1, len(classes)))) % len(classes)]
            path = f"{label}/{place:06}{Path(name).suffix}"
            flipped.writestr(path, archive.read(name))
            moved |= {path} if place in wrong else set()
    return moved


def _judge(fovea: Fovea, data: Path, archive: Path) -> None:
    rows = []
    for seed in range(SEEDS):
        name = f"{archive.stem}-{seed}"
        moved = flip(archive, data / "flipped.zip", seed)
        fovea.wait(fovea.push_dataset(data / "flipped.zip", name)["job"]["id"])
        time.sleep(WARM_SECONDS)
        job = fovea.wait(fovea.analyse(f"{name}@1")["id"])
        began, ended = (datetime.fromisoformat(job[key]) for key in ("started_at", "finished_at"))
        found = list(fovea.suspects(name, 1, limit=1000))
        top = [row["path"] in moved for row in found[: len(moved)]]
        every = sum(row["path"] in moved for row in found)
        rows.append((sum(top) / len(moved), every / len(moved), len(found), (ended - began).total_seconds()))
        print(
            f"{name}: {len(moved)} flipped, precision {rows[-1][0]:.3f} among as many, {rows[-1][1]:.3f} of them "
            f"among all {rows[-1][2]} suspects, agreement {job['result']['agreement']:.3f}, {rows[-1][3]:.1f} s",
            flush=True,
        )
    means = [statistics.mean(column) for column in zip(*rows, strict=True)]
    print(f"{archive.stem}: mean precision {means[0]:.3f}, found {means[1]:.3f}, {means[3]:.1f} s", flush=True)


def _many(fovea: Fovea, data: Path) -> None:
    write_zip(data / "many.zip", MANY, 32, 10)
    fovea.wait(fovea.push_dataset(data / "many.zip", "many")["job"]["id"])
    items = fovea.get("/v1/datasets/many/versions/1/items", limit=10)["data"]
    changes = [{"image": row["image"], "action": "relabel", "label": "class1"} for row in items]
    for _ in range(3):
        began = time.perf_counter()
        version = fovea.edit_dataset("many", 1, [*changes[1:], {"image": items[0]["image"], "action": "remove"}])
        print(f"10 of {MANY} pictures edited in {time.perf_counter() - began:.2f} s: version {version['number']}")
    spent = sum(path.stat().st_blocks * 512 for path in (data / "archives").rglob("*.zip"))
    print(f"archives: {spent / 1e6:.0f} MB, one upload of {(data / 'many.zip').stat().st_size / 1e6:.0f} MB")
    job = fovea.wait(fovea.analyse("many@1")["id"])
    began, ended = (datetime.fromisoformat(job[key]) for key in ("started_at", "finished_at"))
    print(f"{MANY} pictures of 32 px analysed in {(ended - began).total_seconds():.1f} s", flush=True)


if __name__ == "__main__":
    main()
