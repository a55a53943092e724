"""A model version leaves as one zip, which proves itself without anything of Fovea."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest

from tests.conftest import Fovea, colours_zip
from tests.test_multilabel import LAYERS, lights_zip

SPEC = {"network": {"layers": LAYERS}, "image_size": 16, "epochs": 4, "batch_size": 8, "optimizer": {"lr": 0.01}}


@pytest.fixture(scope="module")
def trained(shared: Fovea) -> Fovea:
    """Two models, `colours` of one label a picture and `lights` of several, each with its bundle."""
    for name, body in (("colours", colours_zip()), ("lights", lights_zip())):
        shared.dataset(body, name)
        assert shared.wait(shared.train(name, name, SPEC)["id"])["status"] == "succeeded"
    return shared


def export(fovea: Fovea, ref: str) -> httpx.Response:
    return fovea.http.post("/v1/jobs", json={"type": "export", "model": ref})


def bundle_of(fovea: Fovea, ref: str) -> bytes:
    posted = export(fovea, ref)
    if posted.status_code == 202:
        job = fovea.wait(posted.json()["id"])
        assert job["status"] == "succeeded", job
    answer = fovea.http.get(f"/v1/models/{ref}/bundle")
    assert answer.status_code == 200, answer.text
    return answer.content


def unpack(data: bytes, folder: Path) -> Path:
    zipfile.ZipFile(io.BytesIO(data)).extractall(folder)
    return folder


def verify(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """Where nothing of ours can be imported."""
    words = [sys.executable, "verify.py", *names]
    return subprocess.run(words, cwd=folder, env={}, capture_output=True, text=True, timeout=120, check=False)


def test_a_bundle_is_asked_for_and_then_had(trained: Fovea) -> None:
    missing = trained.http.get("/v1/models/colours/bundle")
    assert (missing.status_code, missing.json()["code"]) == (404, "bundle_not_found")
    assert '"model": "colours:1"' in missing.json()["hint"]
    first, second = export(trained, "colours"), export(trained, "colours:1")
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["id"] == second.json()["id"], "one bundle is made once"
    job = trained.wait(first.json()["id"])
    assert job["status"] == "succeeded", job
    answer = trained.http.get("/v1/models/colours:1/bundle")
    assert answer.headers["etag"] == f'"{job["result"]["sha256"]}"'
    assert len(answer.content) == job["result"]["bytes"]
    again = trained.http.get("/v1/models/colours:1/bundle", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    refused = export(trained, "colours")
    assert (refused.status_code, refused.json()["code"]) == (409, "bundle_exists")
    assert export(trained, "nobody").status_code == 404


@pytest.mark.parametrize("model", ["colours", "lights"])
def test_it_answers_as_the_service_does_with_nothing_of_ours(trained: Fovea, model: str, tmp_path: Path) -> None:
    folder = unpack(bundle_of(trained, model), tmp_path)
    done = verify(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"{model}:1 is as it was made\n"
    golden = json.loads((folder / "golden.json").read_text())
    assert len(golden) >= 6
    names = [row["file"] for row in golden]
    told = [json.loads(line) for line in verify(folder, *names).stdout.splitlines()]
    for name, said in zip(names, told, strict=True):
        answer = trained.http.post(f"/v1/models/{model}:1/classify?top_k=3", content=(folder / name).read_bytes())
        result = answer.json()["results"][0]
        assert set(said["labels"]) == set(result["labels"])
        for row in result["predictions"]:
            assert said["probabilities"][row["label"]] == pytest.approx(row["probability"], abs=1e-4)
        assert said["p_value"] == pytest.approx(result["ood"]["p_value"], abs=0.1)  # a step, where it lies on one
    card = (folder / "CARD.md").read_text()
    assert card.startswith(f"# {model}, version 1\n")
    version = trained.http.get(f"/v1/models/{model}/versions/1").json()
    assert version["weights_sha256"] in card
    assert json.loads((folder / "card.json").read_text())["certificate"] == version["certificate"]


def test_what_was_changed_is_noticed(trained: Fovea, tmp_path: Path) -> None:
    folder = unpack(bundle_of(trained, "colours"), tmp_path)
    labels = folder / "labels.txt"
    whole = labels.read_bytes()
    labels.write_bytes(whole[::-1])
    assert verify(folder).stdout.startswith("labels.txt was changed\n")
    assert verify(folder).returncode == 1
    labels.write_bytes(whole)
    golden = json.loads((folder / "golden.json").read_text())
    first = next(iter(golden[0]["probabilities"]))
    golden[0]["probabilities"][first] += 0.01
    (folder / "golden.json").write_text(json.dumps(golden))
    assert "golden.json was changed" in verify(folder).stdout
    (folder / "manifest.json").write_text("{}")  # whoever changes the hashes too is told by the answers
    done = verify(folder)
    assert done.returncode == 1
    assert "a probability differs by 0.01" in done.stdout
    golden[0]["probabilities"][first] -= 0.01
    golden[0]["strangeness"] *= 1.01
    (folder / "golden.json").write_text(json.dumps(golden))
    assert "its strangeness is" in verify(folder).stdout


def test_it_says_how_it_is_used_and_what_is_no_picture(trained: Fovea, tmp_path: Path) -> None:
    folder = unpack(bundle_of(trained, "colours"), tmp_path)
    helped = verify(folder, "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert "python verify.py a.jpg b.png" in helped.stdout
    done = verify(folder, "nowhere.png", "card.json", "golden/noise-0.png")
    assert done.returncode == 1
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["nowhere.png", "card.json"]
    assert json.loads(done.stdout)["file"] == "golden/noise-0.png"


def test_no_trace_of_the_machine_leaves_with_it(trained: Fovea) -> None:
    with zipfile.ZipFile(io.BytesIO(bundle_of(trained, "colours"))) as found:
        assert all(entry.date_time == (1980, 1, 1, 0, 0, 0) for entry in found.infolist())
        whole = b"".join(found.read(name) for name in found.namelist())
    assert str(Path(__file__).parents[1]).encode() not in whole
    assert b"site-packages" not in whole


def test_the_command_line_makes_what_is_missing(trained: Fovea, tmp_path: Path) -> None:
    trained.wait(trained.train("colours", "colours", {**SPEC, "epochs": 1})["id"])
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "models", "bundle", "colours:2", "-o", str(tmp_path / "c.zip")],
        env={**trained.environment, "FOVEA_URL": trained.url, "FOVEA_API_KEY": trained.environment["FOVEA_ADMIN_KEY"]},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "card.json" in zipfile.ZipFile(tmp_path / "c.zip").namelist()
