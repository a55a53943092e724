"""Are budgets kept? Jobs through the API that could never finish their epochs in time; seconds from claim to end."""

import json
from datetime import datetime

from benchmarks.pictures import write_zip
from benchmarks.service import running
from service.client import Fovea

BUDGETS = (10, 15, 20, 25, 30)
LARGE = {"network": "resnet18", "epochs": 10_000, "image_size": 64}  # 179 MB of checkpoint, 5 to 10 s after training
SPECS = (
    {"network": "classic", "epochs": 10_000},
    {"network": "compact", "epochs": 10_000},
    {"network": "compact", "epochs": 10_000, "image_size": 24, "batch_size": 32},
    {},
)


def main() -> None:
    kept = []
    with running() as (fovea, data):
        write_zip(data / "pictures.zip", 3000, 32, 6)
        fovea.wait(fovea.push_dataset(data / "pictures.zip", "bench")["job"]["id"])
        for spec in SPECS:
            kept += [_one(fovea, spec, seconds) for seconds in BUDGETS]
        kept += [_one(fovea, LARGE, seconds) for seconds in (15, 25, 45)]
    print(f"kept {sum(kept)} of {len(kept)}")


def _one(fovea: Fovea, spec: dict, seconds: int) -> bool:
    job = fovea.wait(fovea.train("bench", "bench", spec, budget={"seconds": seconds})["id"])
    began, ended = (datetime.fromisoformat(job[name]) for name in ("started_at", "finished_at"))
    took = (ended - began).total_seconds()
    shortened = job["stop_reason"] == "budget_exhausted"
    kept = took <= seconds + max(5, 0.05 * seconds) and (took >= seconds - max(5, 0.05 * seconds) or not shortened)
    verdict = "kept" if kept else "MISSED"
    print(f"{json.dumps(spec)}, {seconds} s: {took:.1f} s, {job['stop_reason']}, {verdict}", flush=True)
    return kept


if __name__ == "__main__":
    main()
