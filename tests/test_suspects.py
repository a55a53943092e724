"""Wrong labels are found, ranked and named with the reason; accepting them makes the dataset's next version."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.api import examples
from tests.conftest import Fovea, make_zip, png
from tests.test_cli import run
from tests.test_multilabel import LAYERS, lights_zip

SHAPES = ("stripes", "bars", "blobs")
FLIPPED = 12


def shape(kind: str, seed: int) -> np.ndarray:
    """Noise with stripes across, along, or spots: what patches tell apart."""
    random = np.random.default_rng(seed)
    lines = 60 + 120 * (np.arange(24) // 3 % 2)[:, None] + np.zeros((24, 24))
    spots = np.kron(random.integers(0, 2, (4, 4)), np.ones((6, 6))) * 120 + 60
    ground = {"stripes": lines, "bars": lines.T, "blobs": spots}[kind]
    return (ground[..., None] + random.integers(0, 50, (24, 24, 3))).astype(np.uint8)


def flipped_zip(per_class: int = 60) -> tuple[bytes, dict[str, str]]:
    """Some pictures lie in the wrong folder: the zip, and for these paths the true label."""
    random = np.random.default_rng(0)
    every = [(kind, number) for kind in SHAPES for number in range(per_class)]
    wrong = set(random.choice(len(every), FLIPPED, replace=False).tolist())
    files, truth = {}, {}
    for place, (kind, number) in enumerate(every):
        label = SHAPES[(SHAPES.index(kind) + 1 + place % 2) % 3] if place in wrong else kind
        path = f"{label}/{kind}{number:03}.png"
        files[path] = png(shape(kind, place))
        if place in wrong:
            truth[path] = kind
    return make_zip(files), truth


@pytest.fixture(scope="module")
def truth(shared: Fovea) -> dict[str, str]:
    body, truth = flipped_zip()
    shared.dataset(body, "shapes")
    return truth


def analyse(fovea: Fovea, dataset: str, **more: Any) -> dict:
    answer = fovea.http.post("/v1/jobs", json={"type": "analyse", "dataset": dataset, **more})
    assert answer.status_code == 202, answer.text
    job = fovea.wait(answer.json()["id"])
    assert job["status"] == "succeeded", job
    return job


def suspects(fovea: Fovea, name: str, number: int = 1, **filters: Any) -> dict:
    answer = fovea.http.get(f"/v1/datasets/{name}/versions/{number}/suspects", params=filters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_flipped_labels_are_found_first_and_named_and_an_edit_puts_them_right(
    shared: Fovea, truth: dict[str, str]
) -> None:
    missing = shared.http.get("/v1/datasets/shapes/versions/1/suspects")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_analysed")
    assert '{"type": "analyse", "dataset": "shapes@1"}' in missing.json()["hint"]
    job = analyse(shared, "shapes")
    assert set(examples.ANALYSE_JOB) == set(job)
    assert set(examples.ANALYSE_JOB["spec"]) == set(job["spec"])
    found = suspects(shared, "shapes", limit=FLIPPED)
    assert found.keys() == examples.SUSPECTS.keys()
    assert found["analysis"].keys() == examples.SUSPECTS["analysis"].keys()
    assert found["data"][0].keys() == examples.SUSPECT.keys()
    assert found["analysis"]["job"] == job["id"]
    assert [row["rank"] for row in found["data"]] == list(range(1, FLIPPED + 1))
    right = [row for row in found["data"] if truth.get(row["path"]) == row["suggested"]]
    assert len(right) >= FLIPPED - 1, found["data"]
    for row in right:
        assert row["reason"] == "improbable_label"
        assert row["self_confidence"] < row["suggested_probability"]
        assert row["suggested"] in row["message"]
    changes = [{"image": row["image"], "action": "relabel", "label": row["suggested"]} for row in right]
    edited = shared.http.post("/v1/datasets/shapes/versions/1:edit", json={"changes": changes}).json()
    assert shared.http.get("/v1/datasets/shapes/versions/2/suspects").json()["code"] == "not_analysed"
    analyse(shared, "shapes@2")
    again = suspects(shared, "shapes", 2)["analysis"]
    assert again["agreement"] > found["analysis"]["agreement"]
    assert again["suspects"]["improbable_label"] <= 3
    assert edited["report"]["edited"]["relabelled"] == len(right)


def test_the_list_has_pages_and_reasons(shared: Fovea, truth: dict[str, str]) -> None:
    analyse(shared, "shapes@1")
    whole = suspects(shared, "shapes", limit=1000)
    first = suspects(shared, "shapes", limit=5)
    second = suspects(shared, "shapes", limit=1000, after=first["next"])
    assert first["has_more"]
    assert first["data"] + second["data"] == whole["data"]
    assert sum(whole["analysis"]["suspects"].values()) == len(whole["data"])
    for reason, count in whole["analysis"]["suspects"].items():
        rows = suspects(shared, "shapes", limit=1000, reason=reason)["data"]
        assert {row["reason"] for row in rows} <= {reason}
        assert len(rows) == count
    path = "/v1/datasets/shapes/versions/1/suspects"
    for wrong in ({"limit": 0}, {"after": "x"}, {"reason": "ugly"}):
        assert shared.http.get(path, params=wrong).status_code == 422
    assert shared.http.get(path, params={"model": "nobody"}).status_code == 404
    assert shared.http.get("/v1/datasets/shapes/versions/77/suspects").status_code == 404


def test_the_same_seed_finds_the_same(shared: Fovea, truth: dict[str, str]) -> None:
    found = []
    for seed in (3, 3, 4):
        analyse(shared, "shapes@1", seed=seed, folds=2)
        found.append(suspects(shared, "shapes", limit=1000)["data"])
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_alike_pictures_with_different_labels_come_first_and_strangers_are_named(shared: Fovea) -> None:
    files = {f"{kind}/{k:02}.png": png(shape(kind, 3 * k + n)) for n, kind in enumerate(SHAPES) for k in range(40)}
    files["bars/copy.png"] = files["stripes/00.png"]
    nearly = shape("stripes", 3).astype(int)
    nearly[0, 0, 0] += 1
    files["blobs/nearly.png"] = png(nearly.clip(0, 255).astype(np.uint8))
    strange = np.random.default_rng(1).integers(0, 2, (24, 24, 1)) * 255 + np.zeros((1, 1, 3), int)
    files["blobs/strange.png"] = png(strange.astype(np.uint8))
    shared.dataset(make_zip(files), "twins")
    analyse(shared, "twins")
    rows = suspects(shared, "twins")["data"]
    assert {row["reason"] for row in rows[:2]} == {"duplicates_disagree"}
    assert {row["path"] for row in rows[:2]} == {"bars/copy.png", "blobs/nearly.png"}
    assert {row["suggested"] for row in rows[:2]} == {"stripes"}
    assert all(len(row["alike"]) == 1 for row in rows[:2])
    assert any(row["path"] == "blobs/strange.png" for row in rows)


def test_labels_of_several_are_doubted_one_by_one(shared: Fovea) -> None:
    shared.dataset(lights_zip(), "lights")
    items = shared.http.get("/v1/datasets/lights/versions/1/items?limit=1000").json()["data"]
    names = [row["name"] for row in shared.http.get("/v1/datasets/lights/versions/1").json()["classes"]]
    item = next(one for one in items if len(one["labels"]) == 1)
    wrong = {*item["labels"]} ^ {next(name for name in names if name not in item["labels"])}
    change = {"image": item["image"], "action": "relabel", "labels": sorted(wrong)}
    assert shared.http.post("/v1/datasets/lights/versions/1:edit", json={"changes": [change]}).status_code == 201
    analyse(shared, "lights@2")
    rows = suspects(shared, "lights", 2)["data"]
    found = next(row for row in rows if row["image"] == item["image"])
    assert found["rank"] <= 5
    assert found["suggested_labels"] == item["labels"]


def test_a_model_speaks_of_the_pictures_that_it_did_not_learn_from(shared: Fovea, truth: dict[str, str]) -> None:
    spec = {"network": {"layers": LAYERS}, "image_size": 32, "epochs": 6, "batch_size": 16}
    assert shared.wait(shared.train("eye", "shapes@1", spec)["id"])["status"] == "succeeded"
    path = "/v1/datasets/shapes/versions/1/suspects?model=eye"
    assert '"model": "eye"' in shared.http.get(path).json()["hint"]
    analyse(shared, "shapes@1")
    alone = {row["image"]: row for row in suspects(shared, "shapes", limit=1000)["data"]}
    job = analyse(shared, "shapes@1", model="eye")
    assert (job["model"], job["spec"]["model"]) == ("eye", "eye:1")
    found = suspects(shared, "shapes", limit=1000, model="eye:1")
    assert found["analysis"]["model"] == "eye:1"
    both = {row["image"]: row for row in found["data"]}
    for image in alone.keys() & both.keys():
        same = alone[image]["self_confidence"] == both[image]["self_confidence"]
        assert same == (both[image]["split"] == "train"), "it has learned the labels of train, wrong or not"
    refused = {"type": "analyse", "dataset": "twins", "model": "nobody"}
    answer = shared.http.post("/v1/jobs", json={**refused, "dataset": "shapes"})
    assert (answer.status_code, answer.json()["param"]) == (422, "/model")
    shared.dataset(make_zip({f"{k % 2}/{k}.png": png(shape("bars", k)) for k in range(8)}), "binary")
    answer = shared.http.post("/v1/jobs", json={**refused, "dataset": "binary", "model": "eye"})
    assert (answer.status_code, answer.json()["code"]) == (422, "classes_differ")


def test_the_command_line_finds_them_and_makes_a_version_of_what_a_person_accepts(
    shared: Fovea, truth: dict[str, str], tmp_path: Path
) -> None:
    newest = shared.http.get("/v1/datasets/shapes").json()["versions"]
    changes = tmp_path / "changes.csv"
    words = ["datasets", "suspects", "shapes", "--version", "1", "--limit", "4"]
    found = run(shared, *words, "--changes", str(changes), "--json")
    assert found.returncode == 0, found.stderr
    assert len(json.loads(found.stdout)) == 4
    lines = changes.read_text().splitlines()
    assert len(lines) == 5
    gone = next(path for path in truth if path not in changes.read_text())
    changes.write_text("\n".join([*lines[:3], f"{gone},remove", ",,,left out"]))
    edited = run(shared, "datasets", "edit", "shapes", "--version", "1", "--changes", str(changes))
    assert edited.returncode == 0, edited.stderr
    assert edited.stdout.startswith(f"shapes@{newest + 1}: 179 pictures")
    report = shared.http.get(f"/v1/datasets/shapes/versions/{newest + 1}").json()["report"]
    assert report["edited"] == {"from": 1, "relabelled": 2, "moved": 0, "removed": 1}
    changes.write_text("image,action,value\nnothing,remove,\n")
    refused = run(shared, "datasets", "edit", "shapes", "--changes", str(changes))
    assert refused.returncode == 1
    assert "/changes/0/image" in refused.stderr


def test_what_cannot_be_analysed_is_refused(shared: Fovea, truth: dict[str, str]) -> None:
    body = {"type": "analyse", "dataset": "shapes"}
    for more, param in (({"folds": 1}, "/folds"), ({"folds": "5"}, "/folds"), ({"spec": {}}, "/spec")):
        answer = shared.http.post("/v1/jobs", json={**body, **more})
        assert (answer.status_code, answer.json()["param"]) == (422, param)
    assert shared.http.post("/v1/jobs", json={**body, "dataset": "nobody"}).status_code == 404
    assert shared.http.post("/v1/jobs", json=body, params={"dry_run": True}).status_code == 422


def test_a_tiny_set_has_an_analysis_too(shared: Fovea) -> None:
    files = {f"{kind}/{k}.png": png(shape(kind, 10 * n + k)) for n, kind in enumerate(SHAPES) for k in range(2)}
    shared.dataset(make_zip(files), "tiny")
    analyse(shared, "tiny", folds=20)
    assert suspects(shared, "tiny")["analysis"]["pictures"] == 6


def test_an_analysis_survives_kills_and_a_cancelled_one_leaves_nothing(fovea: Fovea) -> None:
    fovea.start()
    fovea.dataset(flipped_zip(per_class=120)[0], "shapes")
    body = {"type": "analyse", "dataset": "shapes", "folds": 20}
    first, second = (fovea.http.post("/v1/jobs", json=body).json()["id"] for _ in range(2))
    assert first == second, "the same work is done once"
    assert fovea.http.delete("/v1/datasets/shapes").json()["code"] == "dataset_in_use"
    fovea.wait_for(first, lambda job: bool(job["progress"]))
    hint = fovea.http.get("/v1/datasets/shapes/versions/1/suspects").json()["hint"]
    assert first in hint
    child = fovea.job_process()
    os.kill(child.pid, signal.SIGKILL)
    fovea.wait_for(first, lambda job: job["attempt"] == 2 and job["status"] == "running")
    fovea.end("workers", number=signal.SIGKILL)
    fovea.start("workers")
    job = fovea.wait(first)
    assert (job["status"], job["attempt"]) == ("succeeded", 3), job
    kept = suspects(fovea, "shapes", limit=1000)
    other = fovea.http.post("/v1/jobs", json={**body, "seed": 1}).json()["id"]
    fovea.wait_for(other, lambda job: bool(job["progress"]))
    fovea.http.post(f"/v1/jobs/{other}:cancel")
    assert fovea.wait(other)["status"] == "cancelled"
    assert suspects(fovea, "shapes", limit=1000) == kept
    assert fovea.http.delete("/v1/datasets/shapes").status_code == 204
