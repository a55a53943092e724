"""What eight bits gain over HTTP: `python -m benchmarks.eight_bits NETWORK SIDE ARCHIVE [--epochs N]`.

Trains, quantises (`max_drop` 0.02, even if slower) and asks both versions in turns: one client and 16 with single
pictures, four with 64 pictures a request. The client runs on the same cores.
"""

import argparse
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from benchmarks.service import KEY, running
from service.client import Fovea

TURNS, SECONDS, MANY = 4, 2, 64
SUFFIXES = (".png", ".jpg", ".jpeg")
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n%s\r\n'


def bodies(archive: Path, folder: Path) -> tuple[Path, Path]:
    """Files of one picture, and of MANY as multipart/form-data."""
    with zipfile.ZipFile(archive) as source:
        names = sorted(name for name in source.namelist() if name.lower().endswith(SUFFIXES))[:MANY]
        pictures = [source.read(name) for name in names]
    one, many = folder / "one", folder / "many"
    one.write_bytes(pictures[0])
    many.write_bytes(b"".join(PART % picture for picture in pictures) + b"--b--\r\n")
    return one, many


def asked(url: str, body: Path, kind: str, clients: int) -> dict[str, Any]:
    words = [sys.executable, "-m", "benchmarks.load", url, KEY, str(body), "--type", kind]
    words += ["--clients", str(clients), "--seconds", str(SECONDS)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def trained(fovea: Fovea, archive: Path, spec: dict[str, Any]) -> None:
    """Versions 1 and 2 of the model `m`."""
    fovea.wait(fovea.push_dataset(archive, "m")["job"]["id"])
    fovea.wait(fovea.train("m", "m", spec)["id"])
    job = fovea.wait(fovea.quantise("m:1", 0.02, even_if_slower=True)["id"])
    assert job["status"] == "succeeded", job
    for version in (1, 2):
        found = fovea.evaluation(f"m:{version}")
        engine = fovea.get(f"/v1/models/m/versions/{version}")["certificate"]["engine"]
        print(f"{engine}: accuracy {found['accuracy']['value']:.3f} (n = {found['n']})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network")
    parser.add_argument("side", type=int)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--epochs", type=int)
    given = parser.parse_args()
    spec = {"network": given.network, "image_size": given.side, **({"epochs": given.epochs} if given.epochs else {})}
    with running() as (fovea, folder):
        trained(fovea, given.archive, spec)
        one, many = bodies(given.archive, folder)
        for _ in range(TURNS):
            for version in (1, 2):
                url = f"{fovea.url}/v1/models/m:{version}/classify"
                single, several = asked(url, one, "image/png", 1), asked(url, one, "image/png", 16)
                batches = asked(url, many, "multipart/form-data; boundary=b", 4)["per_second"] * MANY
                print(
                    f"version {version}: one client {single['per_second']} a second, p50 {single['p50_p99_ms'][0]} ms; "
                    f"16 clients {several['per_second']}; {batches:.0f} pictures a second in requests of {MANY}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
