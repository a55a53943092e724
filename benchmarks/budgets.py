"""Are budgets kept? Jobs through the API that could never finish their epochs in time; seconds from claim to end."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from benchmarks.job_overhead import KEY, free_port, until_ready
from benchmarks.pictures import write_zip
from service.client import Fovea

BUDGETS = (15, 30, 60)
SPECS = ({"network": "classic", "epochs": 10_000}, {"network": "compact", "epochs": 10_000})


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_zip(folder / "pictures.zip", 3000, 32, 6)
        port = free_port()
        environment = {**os.environ, "FOVEA_DATA": str(folder / "data"), "FOVEA_PORT": str(port)}
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "up"],
                env={**environment, "FOVEA_ADMIN_KEY": KEY},
                stdout=log,
                stderr=log,
            )
        try:
            with Fovea(f"http://127.0.0.1:{port}", KEY) as fovea:
                until_ready(fovea)
                fovea.wait(fovea.push_dataset(folder / "pictures.zip", "bench")["job"]["id"])
                for spec in SPECS:
                    for seconds in BUDGETS:
                        _one(fovea, spec, seconds)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


def _one(fovea: Fovea, spec: dict, seconds: int) -> None:
    job = fovea.wait(fovea.train("bench", "bench", spec, budget={"seconds": seconds})["id"])
    began, ended = (datetime.fromisoformat(job[name]) for name in ("started_at", "finished_at"))
    took = (ended - began).total_seconds()
    kept = abs(took - seconds) <= max(5, 0.05 * seconds)
    print(
        f"{json.dumps(spec)}, {seconds} s: {took:.1f} s, {job['stop_reason']}, {'kept' if kept else 'MISSED'}",
        flush=True,
    )


if __name__ == "__main__":
    main()
