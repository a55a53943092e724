"""What a job costs over calling the training function directly, what its checkpoints cost, and how a start feels.

A service and a worker are started as a user would; the direct call runs in a process of its own, with torch imported
and the memory allocator set as in a job. While a second job trains, another writer changes a row every 20 ms and notes
how long it waited.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.pictures import write_zip
from benchmarks.service import WARM_SECONDS, running
from service.client import Fovea
from service.db import Database
from service.db.tables import Measurement
from service.ids import now
from workers.standby import ENVIRONMENT

COUNT, SIDE, CLASSES = 3000, 32, 6
SPEC = {"network": "classic", "image_size": SIDE, "epochs": 20, "batch_size": 64, "precision": "fp32"}


def main() -> None:
    started = time.perf_counter()
    with running() as (fovea, data):
        print(f"service start to ready: {time.perf_counter() - started:.2f} s")
        _measure(fovea, data)


def _measure(fovea: Fovea, data: Path) -> None:
    write_zip(data / "pictures.zip", COUNT, SIDE, CLASSES)
    fovea.wait(fovea.push_dataset(data / "pictures.zip", "bench")["job"]["id"])
    time.sleep(WARM_SECONDS)
    posted = time.perf_counter()
    job = fovea.wait(fovea.train("bench", "bench", SPEC)["id"])
    wall = time.perf_counter() - posted
    assert job["status"] == "succeeded"
    found = re.search(r"trained for ([\d.]+) s, of which checkpoints took ([\d.]+)", fovea.log(job["id"]))
    assert found is not None
    trained, written = map(float, found.groups())
    direct = _directly(fovea, data, job["plan"])
    print(
        f"job {wall:.2f} s, direct call {direct:.2f} s: {100 * (wall / direct - 1):.1f} %, {wall - direct:.2f} s more"
    )
    print(f"checkpoints: {written:.2f} s of {trained:.2f} s, {100 * written / trained:.1f} %")
    waits = sorted(_waits(fovea, Database(f"sqlite:///{data / 'fovea.db'}")))
    print(
        f"another writer waited at most {1000 * waits[-1]:.0f} ms in {len(waits)} writes, "
        f"median {1000 * waits[len(waits) // 2]:.0f} ms, p99 {1000 * waits[len(waits) * 99 // 100]:.0f} ms"
    )


def _directly(fovea: Fovea, data: Path, plan: dict[str, Any]) -> float:
    cache = next((data / "cache").glob("*.npy"))
    items = list(fovea.rows("/v1/datasets/bench/versions/1/items", limit=1000))
    (data / "items.json").write_text(json.dumps([[row["label"], row["split"]] for row in items]))
    words = [sys.executable, "-m", "benchmarks.direct", str(cache), str(data / "items.json")]
    words += [json.dumps(SPEC), json.dumps(plan)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={**ENVIRONMENT, **os.environ})
    return float(done.stdout)


def _waits(fovea: Fovea, database: Database) -> Iterator[float]:
    job = fovea.train("bench", "bench", SPEC)
    while not fovea.job(job["id"])["is_terminal"]:
        for _ in range(50):
            began = time.perf_counter()
            with database.write() as session:
                session.merge(Measurement(key="bench", value={}, created_at=now()))
            yield time.perf_counter() - began
            time.sleep(0.02)


if __name__ == "__main__":
    main()
