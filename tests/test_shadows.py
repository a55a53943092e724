"""A candidate sees a share of an alias's pictures: counted exactly, never answered, dropped when the engine is busy.

A real service and real programs of untrained networks: what they say is compared, not whether it is right.
"""

import base64
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from service import aliases, artifacts, jobs, shadows
from service.api import examples
from service.db import Database
from service.db.migrate import upgrade
from service.decoding import Decoding
from service.inference.engine import Engine
from service.inference.programs import TORCH, Stored
from service.mirror import Mirror, Offer
from service.settings import Settings
from tests.conftest import Fovea, png
from tests.test_cli import run
from tests.test_errors import check
from workers.training import export
from workers.training.networks import build

RANDOM = np.random.default_rng(3)
PIXELS = RANDOM.integers(0, 256, (24, 24, 24, 3), dtype=np.uint8)
PIXELS[:, :12] //= np.arange(1, 25, dtype=np.uint8)[:, None, None, None]
CLASSES = ["rose", "tulip", "iris"]
URL = "/v1/models/flowers/aliases/production/shadow"


@cache
def program(seed: int, size: int) -> bytes:
    torch.manual_seed(seed)
    layers = [{"conv": {"filters": 4, "activation": "relu"}}, {"flatten": {}}]
    return export.export_program(export.Classifier(build({"layers": layers}, size, 3).eval()), size)


def add_versions(database: Database) -> None:
    """Versions 1, 2 and 3 of `flowers`, of which 2 looks at larger pictures."""
    for seed, size in ((0, 16), (1, 20), (2, 16)):
        blob = artifacts.write_chunks(database, program(seed, size))
        card = {
            "weights_sha256": str(seed),
            "parameters": 1,
            "classes": CLASSES,
            "image_size": size,
            "temperature": 0.1,
        }
        with database.write() as session:
            job = jobs.submit(session, "train", spec={}, model="flowers")
            job.status = "succeeded"
            artifacts.add_model_version(session, "flowers", job.id, blob, card=card, evaluation={})


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fovea]:
    folder = tmp_path_factory.mktemp("shadows")
    (folder / "data").mkdir()
    instance = Fovea(folder / "data")
    instance.start("service")
    with instance.database() as database:
        add_versions(database)
    assert instance.http.put("/v1/models/flowers/aliases/production", json={"version": 1}).status_code == 201
    yield instance
    instance.http.close()
    instance.end()


def classify(service: Fovea, ref: str, pixels: np.ndarray = PIXELS) -> list[dict]:
    body = {"images": [base64.b64encode(png(one)).decode() for one in pixels]}
    answer = service.http.post(f"/v1/models/{ref}/classify", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def settled(service: Fovea, pictures: int) -> dict:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        shown = service.http.get(URL).json()
        if shown["n"] + shown["dropped"] + shown["failed"] >= pictures:
            return shown
        time.sleep(0.1)
    raise AssertionError(shown)


def test_a_shadow_counts_what_the_candidate_would_have_said(service: Fovea) -> None:
    made = service.http.put(URL, json={"version": 2, "share": 1})
    assert made.status_code == 201, made.text
    assert made.json().keys() == examples.SHADOW.keys()
    assert (made.json()["disagreement"], made.json()["n"]) == ({"value": None, "low": 0.0, "high": 1.0}, 0)
    first, second = classify(service, "flowers:1"), classify(service, "flowers:2")
    assert classify(service, "flowers") == first
    pairs = [(one["label"], other["label"]) for one, other in zip(first, second, strict=True)]
    differing = Counter((one, other) for one, other in pairs if one != other)
    gaps = [abs(one["probability"] - other["probability"]) for one, other in zip(first, second, strict=True)]

    shown = settled(service, len(PIXELS))
    assert (shown["n"], shown["dropped"], shown["failed"]) == (24, 0, 0)  # the versions asked by number were not seen
    assert (shown["version"], shown["against"], shown["active"]) == (2, 1, True)
    assert {(one["label"], one["candidate"]): one["count"] for one in shown["disagreements"]} == dict(differing)
    assert shown["agreed"] == 24 - differing.total()
    assert shown["mean_absolute_difference"] == pytest.approx(np.mean(gaps), abs=1e-5)
    expected = binomtest(differing.total(), 24).proportion_ci(method="wilson")
    assert shown["disagreement"] == {
        "value": pytest.approx(differing.total() / 24),
        "low": pytest.approx(expected.low),
        "high": pytest.approx(expected.high),
    }

    tensor = {"name": "image", "datatype": "UINT8", "shape": list(PIXELS.shape), "data": PIXELS.ravel().tolist()}
    answer = service.http.post("/v2/models/flowers@production/infer", json={"inputs": [tensor]})
    assert (answer.status_code, answer.json()["model_version"]) == (200, "1")
    again = settled(service, 48)
    assert (again["n"], again["agreed"]) == (48, 2 * shown["agreed"])

    said = run(service, "models", "shadow", "flowers", "production").stdout
    assert f"flowers:2 beside flowers:1: {48 - again['agreed']} of 48 answered otherwise" in said
    changed = service.http.put(URL, json={"version": 2, "share": 0.25})
    assert (changed.status_code, changed.json()["n"], changed.json()["share"]) == (200, 48, 0.25)
    anew = service.http.put(URL, json={"version": 3, "share": 1})
    assert (anew.status_code, anew.json()["n"], anew.json()["disagreements"]) == (201, 0, [])


def test_a_shadow_rests_when_the_alias_moves_and_ends_when_asked(service: Fovea) -> None:
    service.http.put(URL, json={"version": 3, "share": 1})
    moved = service.http.put("/v1/models/flowers/aliases/production", json={"version": 2}, headers={"If-Match": "*"})
    assert moved.status_code == 200
    assert service.http.get(URL).json()["active"] is False
    classify(service, "flowers")
    service.http.put("/v1/models/flowers/aliases/production", json={"version": 1}, headers={"If-Match": "*"})
    classify(service, "flowers", PIXELS[:2])
    shown = settled(service, 2)
    assert (shown["n"], shown["active"]) == (2, True)
    service.http.put(URL, json={"version": 3, "share": 1e-9})
    classify(service, "flowers")
    service.http.put(URL, json={"version": 3, "share": 1})
    classify(service, "flowers", PIXELS[:3])
    assert settled(service, 5)["n"] == 5
    assert service.http.delete(URL).status_code == 204
    check(service.http.get(URL), 404, "shadow_not_found")
    check(service.http.delete(URL), 404, "shadow_not_found")


def test_an_impossible_shadow_is_refused(service: Fovea) -> None:
    check(service.http.put(URL, json={"version": 1, "share": 0.1}), 409, "shadow_of_itself")
    check(service.http.put(URL, json={"version": 9, "share": 0.1}), 422, "version_not_found")
    for share in (0, 1.5, "NaN"):
        assert (
            check(service.http.put(URL, json={"version": 2, "share": share}), 422, "invalid_value")["param"] == "/share"
        )
    check(service.http.put(URL.replace("production", "none"), json={"version": 2, "share": 1}), 404, "alias_not_found")
    key = service.http.post("/v1/keys", json={"name": "app", "scopes": ["predict"]}).json()["key"]
    head = {"Authorization": f"Bearer {key}"}
    check(service.http.put(URL, json={"version": 2, "share": 1}, headers=head), 403, "scope_missing")


def test_what_is_offered_while_a_request_waits_is_dropped_and_counted(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, device="cpu", inference_threads=1)
    database = Database(settings.database)
    upgrade(database)
    add_versions(database)
    with database.write() as session:
        model = artifacts.find_model(session, "flowers")
        aliases.put(session, model, "production", 1, "")
        shadow, _ = shadows.put(session, model, "production", 3, 1.0, "")
        versions = [artifacts.find_version(session, f"flowers:{number}")[1] for number in (1, 3)]
        programs = [artifacts.program(session, version, TORCH) for version in versions]
    engine = Engine(settings)
    mirror = Mirror(settings, database, engine, Decoding(settings.max_decoding_bytes))
    small = np.ascontiguousarray(PIXELS[:, :16, :16])
    logits = engine.submit(versions[0].id, lambda: programs[0], small).result(60).outputs.logits
    go_on = threading.Event()

    def offer(count: int) -> None:
        mirror.offer(Offer(shadow.id, versions[1], versions[0], list(small[:count]), small[:count], logits[:count]))

    def dropped() -> int:
        with database.read() as session:
            return shadows.find(session, model, "production").dropped

    def slow() -> Stored:
        go_on.wait(60)
        return programs[0]

    try:
        engine.submit(versions[1].id, lambda: programs[1], small[:1]).result(60)  # the candidate is loaded
        engine.submit("other", slow, small[:1])  # waits for its program
        waiting = engine.submit(versions[0].id, lambda: programs[0], small)
        offer(5)
        while dropped() < 5:
            time.sleep(0.05)
        offer(24)
        offer(24)
        go_on.set()
        assert len(waiting.result(60).outputs.logits) == 24
    finally:
        go_on.set()
        mirror.close()
        engine.close()
    with database.read() as session:
        row = shadows.find(session, model, "production")
        assert row.n + row.dropped == 53
        assert row.failed == 0
    database.dispose()


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 17), (40, 40)])
def test_the_interval_is_wilsons(hits: int, n: int) -> None:
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert shadows.wilson(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
