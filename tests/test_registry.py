"""Aliases move by agreement and remember; two versions are compared on the same pictures. A real service, no training:
the versions are rows with made-up answers."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import httpx
import numpy as np
import pytest

from service import aliases, artifacts, comparison, jobs
from service.api import examples, shapes
from service.client import Fovea as Client
from service.client import FoveaError
from service.db import Base, Database
from tests.conftest import KEY, Fovea
from tests.test_cli import run
from tests.test_errors import check

LABELS = [0, 1] * 50
GOOD = LABELS[:97] + [1 - label for label in LABELS[97:]]  # 97 right
BAD = [1 - label for label in LABELS[:12]] + LABELS[12:]  # 88 right, 3 of them where GOOD is wrong


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fovea]:
    """A service with versions 1 (good), 2 (bad), 3 (good) of `flowers`, and one evaluated on other pictures."""
    folder = tmp_path_factory.mktemp("registry")
    (folder / "data").mkdir()
    instance = Fovea(folder / "data")
    instance.start("service")
    for model, predicted, kept in (
        ("flowers", GOOD, True),
        ("flowers", BAD, True),
        ("flowers", GOOD, True),
        ("flowers", GOOD, False),
        ("others", GOOD[:50], True),
    ):
        with instance.database() as database:
            add_version(database, model, predicted, kept)
    yield instance
    instance.http.close()
    instance.end()


def add_version(database: Database, model: str, predicted: list[int], kept: bool) -> None:
    images = [f"{number:064x}" for number in range(len(predicted))]
    names = ([("rose", "tulip")[k] for k in numbers] for numbers in (LABELS[: len(predicted)], predicted))
    answers = comparison.kept_answers(images, *names)
    card = {"weights_sha256": model, "parameters": 1, "classes": ["rose", "tulip"]}
    program = artifacts.write_chunks(database, b"no program")
    with database.write() as session:
        job = jobs.submit(session, "train", spec={}, model=model)
        job.status = "succeeded"
        artifacts.add_model_version(
            session, model, job.id, program, card=card, evaluation={}, answers=answers if kept else None
        )


def put(service: Fovea, alias: str, version: int, etag: str | None = None, **body: object) -> httpx.Response:
    headers = {"If-Match": etag} if etag else {}
    return service.http.put(f"/v1/models/flowers/aliases/{alias}", json={"version": version, **body}, headers=headers)


def test_an_alias_is_made_freely_and_moved_only_by_who_knows_where_it_is(service: Fovea) -> None:
    made = put(service, "staging", 1)
    assert made.status_code == 201
    assert made.headers["etag"] == made.json()["etag"]
    assert set(made.json()) == set(examples.ALIAS)
    assert "ETag" in check(put(service, "staging", 2), 428, "if_match_missing")["hint"]
    check(put(service, "staging", 2, '"99"'), 412, "alias_moved")
    moved = put(service, "staging", 2, made.headers["etag"])
    assert moved.status_code == 200
    assert moved.json()["version"] == 2
    check(put(service, "staging", 3, made.headers["etag"]), 412, "alias_moved")
    assert service.http.get("/v1/models/flowers/aliases/staging").headers["etag"] == moved.headers["etag"]
    assert put(service, "staging", 2, moved.headers["etag"]).headers["etag"] == moved.headers["etag"]

    path = "/v1/models/flowers/aliases/staging"
    only_new = service.http.put(path, json={"version": 1}, headers={"If-None-Match": "*"})
    check(only_new, 412, "alias_exists")
    check(put(service, "unset", 1, '"1"'), 412, "alias_moved")


def test_bad_requests_name_what_is_wrong(service: Fovea) -> None:
    assert check(put(service, "x", 99), 422, "version_not_found")["param"] == "/version"
    check(put(service, "x", 0), 422, "invalid_value")
    check(put(service, "a@b", 1), 422, "invalid_value")
    check(service.http.get("/v1/models/flowers/aliases/none"), 404, "alias_not_found")
    check(service.http.get("/v1/models/none/aliases"), 404, "model_not_found")
    check(service.http.get("/v1/models/flowers@none/evaluation"), 404, "alias_not_found")
    check(service.http.get("/v1/models/flowers:99/evaluation"), 404, "model_not_found")
    check(service.http.post("/v1/models/flowers/aliases/none:rollback"), 404, "alias_not_found")
    check(service.http.get("/v1/models/flowers/aliases/staging/history?at=then"), 422, "invalid_value")


def test_only_a_key_that_may_train_moves_an_alias(service: Fovea) -> None:
    made = service.http.post("/v1/keys", json={"name": "app", "scopes": ["predict"]}).json()
    head = {"Authorization": f"Bearer {made['key']}"}
    with httpx.Client(base_url=service.url, headers=head) as narrow:
        assert narrow.get("/v1/models/flowers/aliases").status_code == 200
        check(narrow.put("/v1/models/flowers/aliases/mine", json={"version": 1}), 403, "scope_missing")
        check(narrow.post("/v1/models/flowers/aliases/staging:rollback"), 403, "scope_missing")


def versions_named(service: Fovea, *refs: str) -> list[int]:
    answers = [service.http.get("/v1/models/compare", params={"a": ref, "b": ref}) for ref in refs]
    return [answer.json()["a"]["version"] for answer in answers]


def test_history_keeps_every_move_and_rollback_goes_back_step_by_step(service: Fovea) -> None:
    put(service, "live", 1)
    times = [service.http.get("/v1/models/flowers/aliases/live").json()["moved_at"]]
    for version in (2, 3):
        assert put(service, "live", version, "*").status_code == 200
        times.append(service.http.get("/v1/models/flowers/aliases/live").json()["moved_at"])
    assert versions_named(service, "flowers@live", "flowers:1") == [3, 1]
    url = "/v1/models/flowers/aliases/live:rollback"
    repeated = [service.http.post(url, headers={"Idempotency-Key": "back"}).json()["version"] for _ in range(2)]
    assert repeated == [2, 2]
    check(service.http.post(url, headers={"If-Match": '"1"'}), 412, "alias_moved")
    assert service.http.post(url).json()["version"] == 1
    check(service.http.post(url), 409, "nothing_to_roll_back")
    assert versions_named(service, "flowers@live") == [1]

    history = service.http.get("/v1/models/flowers/aliases/live/history").json()["data"]
    assert [row["version"] for row in history] == [1, 2, 3, 2, 1]
    assert [row["action"] for row in history] == ["rollback", "rollback", "set", "set", "set"]
    assert set(history[0]) == set(examples.ALIAS_MOVE)
    with Client(service.url, KEY) as client:
        then = [client.alias_history("flowers", "live", at=time)[0]["version"] for time in times]
        assert then == [1, 2, 3]
        assert client.alias_history("flowers", "live", at="2020-01-01T00:00:00Z") == []


@pytest.mark.parametrize("clock", [1_000.0004996, 900.0])
def test_each_move_has_a_time_of_its_own_that_finds_it_again_though_the_clock_be_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: float
) -> None:
    database = Database(f"sqlite:///{tmp_path / 'fovea.db'}")
    Base.metadata.create_all(database.engine)
    for _ in range(3):
        add_version(database, "flowers", GOOD, kept=True)
    times = iter([1_000.0004996, *[clock] * 99])
    monkeypatch.setattr(aliases, "now", lambda: next(times))
    with database.write() as session:
        model = artifacts.find_model(session, "flowers")
        moves = [aliases.put(session, model, "live", version, by="me") for version in (1, 2, 3)]
        told = [shapes.alias_move(move)["time"] for move in moves]
        assert told == sorted(set(told))
        for move, time in zip(moves, told, strict=True):
            assert aliases.at(session, model, "live", datetime.fromisoformat(time).timestamp()) is move
    database.dispose()


def test_a_bare_name_is_the_newest_version_until_production_is_set(service: Fovea) -> None:
    assert service.http.get("/v1/models/others").json()["aliases"] == {}
    check(service.http.get("/v1/models/compare", params={"a": "flowers", "b": "flowers:1"}), 409, "answers_not_kept")
    put(service, "production", 1)
    assert versions_named(service, "flowers", "flowers@production") == [1, 1]
    put(service, "production", 3, "*")
    assert versions_named(service, "flowers") == [3]
    assert service.http.get("/v1/models/flowers").json()["aliases"]["production"] == 3


def test_a_comparison_is_paired_and_names_the_pictures_that_changed(service: Fovea) -> None:
    from scipy.stats import binomtest

    found = service.http.get("/v1/models/compare", params={"a": "flowers:1", "b": "flowers:2"}).json()
    assert set(found) == set(examples.COMPARISON)
    assert (found["right_to_wrong"], found["wrong_to_right"], found["both_right"], found["both_wrong"]) == (
        12,
        3,
        85,
        0,
    )
    assert found["p_value"] == pytest.approx(binomtest(12, 15).pvalue)
    gap = found["accuracy_difference"]
    assert gap["value"] == pytest.approx(-0.09)
    assert gap["low"] < -0.09 < gap["high"] < 0
    assert len(found["changed"]) == 15
    first = found["changed"][0]
    assert (first["change"], first["label"], first["a"], first["b"]) == ("right_to_wrong", "rose", "rose", "tulip")
    other = service.http.get("/v1/models/compare", params={"a": "flowers:1", "b": "others"})
    assert "share 50" in check(other, 409, "different_test_pictures")["detail"]


def test_a_gate_keeps_out_what_is_significantly_worse(service: Fovea) -> None:
    put(service, "gated", 1)
    gate = {"not_worse_than": "gated", "alpha": 0.05}
    nobody = check(put(service, "gated", 2, "*", gate={"not_worse_than": "flowers:99"}), 422, "model_not_found")
    assert nobody["param"] == "/gate/not_worse_than"
    refused = check(put(service, "gated", 2, "*", gate=gate), 409, "significantly_worse")
    assert refused["comparison"]["right_to_wrong"] == 12
    assert versions_named(service, "flowers@gated") == [1]
    assert put(service, "gated", 3, "*", gate=gate).status_code == 200
    assert put(service, "gated", 2, "*", gate={**gate, "alpha": 0.001}).status_code == 200
    check(put(service, "fresh", 1, gate={"not_worse_than": "fresh"}), 422, "alias_not_found")
    check(put(service, "fresh", 1, gate={"not_worse_than": "others"}), 422, "alias_not_found")
    check(put(service, "fresh", 1, gate={"not_worse_than": "others:1"}), 409, "different_test_pictures")


def test_the_interval_of_the_difference_covers_the_truth() -> None:
    random = np.random.default_rng(0)
    labels, hits = ["right"] * 80, 0
    images = [str(k) for k in range(80)]
    for _ in range(300):
        both = np.where(random.random((2, 80)) < [[0.9], [0.8]], "right", "wrong").tolist()
        kept = [comparison.kept_answers(images, labels, one) for one in both]
        gap = comparison.compare(*kept)["accuracy_difference"]
        hits += gap["low"] <= -0.1 <= gap["high"]
    assert hits >= 276  # 95 % of 300, less three deviations


def test_the_command_line_moves_and_compares(service: Fovea) -> None:
    assert run(service, "models", "alias", "flowers", "shop", "1").returncode == 0
    refused = run(service, "models", "alias", "flowers", "shop", "2", "--not-worse-than", "shop")
    assert refused.returncode == 1
    assert refused.stderr.startswith("fovea: significantly_worse: ")
    assert run(service, "models", "alias", "flowers", "shop", "2").returncode == 0
    assert "shop" in run(service, "models", "aliases", "flowers").stdout
    assert '"version": 1' in run(service, "models", "rollback", "flowers", "shop", "--json").stdout
    said = run(service, "models", "compare", "flowers:1", "flowers:2").stdout
    assert "flowers:1 0.9700, flowers:2 0.8800 on 100 pictures: -0.0900" in said
    assert said.count("right_to_wrong") == 12


def test_the_client_does_not_move_an_alias_over_somebody_else(service: Fovea, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(service.url, KEY) as client:
        client.set_alias("flowers", "race", 1)
        stale = client.aliases("flowers")
        client.set_alias("flowers", "race", 2)
        monkeypatch.setattr(client, "aliases", lambda model: stale)
        with pytest.raises(FoveaError, match="alias_moved"):
            client.set_alias("flowers", "race", 3)
