"""Every route against its documentation: schemathesis makes requests of /openapi.json and looks at the answers."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

from tests.conftest import KEY, Fovea, colours_zip, fovea_in, png
from tests.documented import path_of

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
NOT_MADE = ("/v1/models/{model}/versions:import", "/v1/uploads/{upload}")  # schemathesis knows no such bodies


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fovea, Path]]:
    """A service without a worker, and names of things that are there, as schemathesis reads them."""
    folder = tmp_path_factory.mktemp("contract")
    with fovea_in(folder) as fovea:
        fovea.start()
        fovea.dataset(colours_zip(8), "colours")
        spec = {"network": "classic", "image_size": 16, "epochs": 2}
        job, second = (fovea.train("colours", "colours", spec, seed=seed) for seed in (0, 1))
        analysed = fovea.http.post("/v1/jobs", json={"type": "analyse", "dataset": "colours"}).json()
        assert {fovea.wait(one["id"])["status"] for one in (job, second, analysed)} == {"succeeded"}
        exported = fovea.http.post("/v1/jobs", json={"type": "export", "model": "colours:1"}).json()
        assert fovea.wait(exported["id"])["status"] == "succeeded"
        fovea.end("workers")  # what is posted from now on waits
        alias = "/v1/models/colours/aliases/production"
        assert fovea.http.put(alias, json={"version": 1}).status_code == 201
        assert fovea.http.put(f"{alias}/shadow", json={"version": 2, "share": 0.5}).status_code == 201
        asked = fovea.http.post("/v1/models/colours/classify?store=true", content=png(np.zeros((8, 8, 3), np.uint8)))
        names = {
            "dataset": "colours",
            "model": "colours",
            "ref": "colours:1",
            "alias": "production",
            "number": 1,
            "version": 1,
            "job_id": job["id"],
            "prediction": asked.json()["id"],
            "image": fovea.http.get("/v1/datasets/colours/versions/1/items").json()["data"][0]["image"],
        }
        settings = folder / "schemathesis.toml"
        settings.write_text(
            "\n".join(["[parameters]", *(f'"path.{name}" = {value!r}' for name, value in names.items())])
        )
        yield fovea, settings


def test_every_answer_is_one_that_the_documentation_describes(known: tuple[Fovea, Path]) -> None:
    fovea, settings = known
    words = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(settings), "--no-color", "run"]
    words += [f"{fovea.url}/openapi.json", "--header", f"Authorization: Bearer {KEY}", "--checks", ",".join(CHECKS)]
    words += ["--phases", "coverage,fuzzing", "--max-examples", "5", "--generation-deterministic"]
    words += ["--continue-on-failure", "--request-timeout", "60", "--exclude-method", "DELETE"]
    har = settings.parent / "asked.har"
    words += ["--report-har-path", str(har)]
    for path in NOT_MADE:
        words += ["--exclude-path", path]
    found = subprocess.run(words, cwd=settings.parent, capture_output=True, text=True, timeout=400)
    assert found.returncode == 0, found.stdout[-20_000:]
    paths = fovea.http.get("/openapi.json").json()["paths"]
    asked = sum(len(methods.keys() - {"delete"}) for path, methods in paths.items() if path not in NOT_MADE)
    assert f"Tested: {asked}" in found.stdout
    reads = {path for path, methods in paths.items() if "get" in methods}
    assert reads - answered(har) == {"/v1/models/compare"}  # whose two references are in the query


def answered(har: Path) -> set[str]:
    """The documented paths of which a GET succeeded."""
    found = set()
    for one in json.loads(har.read_text())["log"]["entries"]:
        asked, status = one["request"], one["response"]["status"]
        if asked["method"] == "GET" and status < 300:
            found.add(path_of(unquote(urlsplit(asked["url"]).path), "get"))
    return found
