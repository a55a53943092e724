"""What a job costs over calling the training function directly, what its checkpoints cost, and how a start feels.

A service and a worker are started as a user would; the direct call runs in a process of its own with torch imported.
While the job trains, another writer changes a row every 20 ms and notes how long it waited.
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
from pathlib import Path

from benchmarks.pictures import write_zip
from service.client import Fovea, FoveaError
from service.db import Database
from service.db.tables import Measurement
from service.ids import now

COUNT, SIDE, CLASSES = 3000, 32, 6
SPEC = {"network": "classic", "image_size": SIDE, "epochs": 20, "batch_size": 64, "precision": "fp32"}
KEY = "fov_benchmark_key_0123"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_zip(folder / "pictures.zip", COUNT, SIDE, CLASSES)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
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
                _until_ready(fovea)
                print(f"service start to ready: {time.perf_counter() - started:.2f} s")
                _measure(fovea, folder)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


def _until_ready(fovea: Fovea) -> None:
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
    database = Database(f"sqlite:///{folder / 'data' / 'fovea.db'}")
    posted = time.perf_counter()
    job = fovea.train("bench", "bench", SPEC)
    waits = []
    while not fovea.job(job["id"])["is_terminal"]:
        began = time.perf_counter()
        with database.write() as session:
            session.merge(Measurement(key="bench", value={}, created_at=now()))
        waits.append(time.perf_counter() - began)
        time.sleep(0.02)
    wall = time.perf_counter() - posted
    found = re.search(r"trained for ([\d.]+) s, of which checkpoints took ([\d.]+)", fovea.log(job["id"]))
    assert found is not None
    trained, written = map(float, found.groups())
    cache = next((folder / "data/cache").glob("*.npy"))
    items = list(fovea.rows("/v1/datasets/bench/versions/1/items", limit=1000))
    (folder / "items.json").write_text(json.dumps([[row["label"], row["split"]] for row in items]))
    words = [sys.executable, "-m", "benchmarks.direct", str(cache), str(folder / "items.json"), json.dumps(SPEC)]
    direct = float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    print(
        f"job {wall:.2f} s, direct call {direct:.2f} s: {100 * (wall / direct - 1):.1f} %, {wall - direct:.2f} s more"
    )
    print(f"checkpoints: {written:.2f} s of {trained:.2f} s, {100 * written / trained:.1f} %")
    print(f"another writer waited at most {1000 * max(waits):.0f} ms in {len(waits)} writes")


if __name__ == "__main__":
    main()
