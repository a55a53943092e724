"""What a job costs over calling the training function directly, what its checkpoints cost, and how a start feels.

A service and a worker are started as a user would; the direct call runs in a process of its own, with torch imported
and the memory allocator set as in a job. While a second job trains, another writer changes a row every 20 ms and notes
how long it waited.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.pictures import write_zip
from service.client import Fovea, FoveaError
from service.db import Database
from service.db.tables import Measurement
from service.ids import now
from workers.supervisor import MALLOC

COUNT, SIDE, CLASSES = 3000, 32, 6
SPEC = {"network": "classic", "image_size": SIDE, "epochs": 20, "batch_size": 64, "precision": "fp32"}
KEY = "fov_benchmark_key_0123"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_zip(folder / "pictures.zip", COUNT, SIDE, CLASSES)
        port = free_port()
        environment = {
            **os.environ,
            "FOVEA_DATA": str(folder / "data"),
            "FOVEA_PORT": str(port),
            "FOVEA_ADMIN_KEY": KEY,
        }
        started = time.perf_counter()
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "up"], env=environment, stdout=log, stderr=log
            )
        try:
            with Fovea(f"http://127.0.0.1:{port}", KEY) as fovea:
                until_ready(fovea)
                print(f"service start to ready: {time.perf_counter() - started:.2f} s")
                _measure(fovea, folder)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until_ready(fovea: Fovea) -> None:
    while True:
        try:
            fovea.get("/readyz")
        except FoveaError:
            time.sleep(0.01)
        else:
            return


def _measure(fovea: Fovea, folder: Path) -> None:
    fovea.wait(fovea.push_dataset(folder / "pictures.zip", "bench")["job"]["id"])
    time.sleep(20)  # the next standby child has torch imported
    posted = time.perf_counter()
    job = fovea.wait(fovea.train("bench", "bench", SPEC)["id"])
    wall = time.perf_counter() - posted
    assert job["status"] == "succeeded"
    found = re.search(r"trained for ([\d.]+) s, of which checkpoints took ([\d.]+)", fovea.log(job["id"]))
    assert found is not None
    trained, written = map(float, found.groups())
    direct = _directly(fovea, folder, job["plan"])
    print(
        f"job {wall:.2f} s, direct call {direct:.2f} s: {100 * (wall / direct - 1):.1f} %, {wall - direct:.2f} s more"
    )
    print(f"checkpoints: {written:.2f} s of {trained:.2f} s, {100 * written / trained:.1f} %")
    waits = sorted(_waits(fovea, Database(f"sqlite:///{folder / 'data' / 'fovea.db'}")))
    print(
        f"another writer waited at most {1000 * waits[-1]:.0f} ms in {len(waits)} writes, "
        f"median {1000 * waits[len(waits) // 2]:.0f} ms, p99 {1000 * waits[len(waits) * 99 // 100]:.0f} ms"
    )


def _directly(fovea: Fovea, folder: Path, plan: dict[str, Any]) -> float:
    cache = next((folder / "data/cache").glob("*.npy"))
    items = list(fovea.rows("/v1/datasets/bench/versions/1/items", limit=1000))
    (folder / "items.json").write_text(json.dumps([[row["label"], row["split"]] for row in items]))
    words = [sys.executable, "-m", "benchmarks.direct", str(cache), str(folder / "items.json")]
    words += [json.dumps(SPEC), json.dumps(plan)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={**MALLOC, **os.environ})
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
