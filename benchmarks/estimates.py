"""Are estimates honest? Thirty jobs of mixed networks, sizes and lengths; how many took as long as was foretold.

The first eight teach the service this machine's speed and its own error: they are counted apart.
"""

import itertools
import json

from benchmarks.pictures import write_zip
from benchmarks.service import running

LEARNING, JUDGED = 8, 30
NETWORKS = ("classic", "compact", {"layers": [{"conv": {"filters": 32}}, {"max_pool": 4}, {"dense": {"units": 64}}]})
SIDES, EPOCHS = (32, 48, 24), (2, 4, 7, 11)


def main() -> None:
    rows = []
    with running() as (fovea, data):
        write_zip(data / "pictures.zip", 2000, 48, 6)
        fovea.wait(fovea.push_dataset(data / "pictures.zip", "bench")["job"]["id"])
        kinds = itertools.cycle(itertools.product(EPOCHS, SIDES, NETWORKS))
        for _ in range(LEARNING + JUDGED):
            epochs, side, network = next(kinds)
            spec = {"network": network, "image_size": side, "epochs": epochs}
            job = fovea.wait(fovea.train("bench", "bench", spec)["id"])
            rows.append(job["estimate"])
            name = network if isinstance(network, str) else "layers"
            print(f"{name} {side} px, {epochs} epochs: {json.dumps(job['estimate'])}", flush=True)
    for title, part in (("learning", rows[:LEARNING]), ("judged", rows[LEARNING:])):
        print(f"{title}: {sum(row['inside'] for row in part)} of {len(part)} inside p10 to p90")


if __name__ == "__main__":
    main()
