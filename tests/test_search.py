"""Searches through real processes: the best trial becomes the model, whatever dies meanwhile."""

import json
import math
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from sqlalchemy.exc import IntegrityError

from service import jobs
from service.auto import DatasetFacts
from service.db import Database
from service.db.migrate import upgrade
from service.errors import InvalidValue
from service.jobs import Hold, LeaseLost
from service.search import SearchRequest, check, resolve_varied, vary
from service.settings import Settings
from tests.conftest import Fovea, colours_zip
from tests.test_cli import run
from workers.context import Context
from workers.sampling import Sampling, Tried
from workers.search_job import _left_open
from workers.trials import Search

SPEC = {
    "network": {"layers": [{"conv": {"filters": 4, "activation": "relu"}}, {"max_pool": 4}]},
    "epochs": 4,
    "batch_size": 8,
    "image_size": 32,
    "precision": "fp32",
    "augment": {"horizontal_flip": True},
}
SPACE = {
    "/optimizer/lr": {"log_uniform": [1e-4, 1e-2]},
    "/network/layers/0/conv/filters": {"int": [2, 12]},
    "/network/layers/0/conv/activation": {"choice": ["relu", "gelu", None]},
}
FACTS = DatasetFacts(train_count=42, classes=3, median_side=16, grey=False)


def search(fovea: Fovea, model: str, spec: dict = SPEC, **more: object) -> str:
    body = {"type": "search", "model": model, "dataset": "colours", "spec": spec, "space": SPACE, "seed": 7, **more}
    answer = fovea.http.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def trials(fovea: Fovea, job: str) -> list[dict]:
    rows = fovea.http.get("/v1/jobs", params={"parent": job, "limit": 1000}).json()["data"]
    return sorted(rows, key=lambda row: row["trial"])


def outcome(rows: list[dict]) -> list[tuple]:
    """What must be the same for two searches of the same seed."""
    return [(row["parameters"], row["stop_reason"], (row["result"] or {}).get("weights_sha256")) for row in rows]


@pytest.fixture(scope="module")
def colours(shared: Fovea) -> Fovea:
    shared.dataset(colours_zip(), "colours")
    return shared


def test_the_best_trial_becomes_the_model(colours: Fovea) -> None:
    job = colours.wait(search(colours, "best", trials=4))
    assert (job["status"], job["stop_reason"]) == ("succeeded", "completed"), job
    rows = trials(colours, job["id"])
    assert [row["trial"] for row in rows] == [1, 2, 3, 4]
    assert all(row["parent"] == job["id"] and row["status"] == "succeeded" for row in rows)
    assert all(set(row["parameters"]) == set(SPACE) for row in rows)
    for row in rows:
        assert row["spec"]["optimizer"]["lr"] == row["parameters"]["/optimizer/lr"]
        layer = row["spec"]["network"]["layers"][0]["conv"]
        assert layer["filters"] == row["parameters"]["/network/layers/0/conv/filters"]

    best = max(rows, key=lambda row: (row["result"]["value"], -row["result"]["metrics"]["val/loss"], -row["trial"]))
    result = job["result"]
    assert (result["trial"], result["parameters"]) == (best["id"], best["parameters"])
    assert (result["value"], result["trials"]) == (best["result"]["value"], 4)
    assert result["weights_sha256"] == best["result"]["weights_sha256"]
    assert job["progress"] == {"trial": 4, "trials": 4, "fraction": 1.0, "best_value": best["result"]["value"]}
    version = colours.http.get("/v1/models/best/versions/1").json()
    assert version["weights_sha256"] == result["weights_sha256"]
    lineage = version["lineage"]
    assert (lineage["job"], lineage["trial"], lineage["parameters"]) == (job["id"], best["id"], best["parameters"])
    assert colours.http.get("/v1/models/best/evaluation").json()["split"] == "test"

    # a trial is a training job like any other: from its record it gives the same weights
    again = colours.wait(colours.http.post(f"/v1/jobs/{best['id']}:reproduce").json()["id"])
    assert again["result"]["equal"], again
    assert again["result"]["weights_sha256"] == result["weights_sha256"]

    events = colours.http.get(f"/v1/jobs/{job['id']}/events", params={"limit": 1000}).json()["data"]
    told = [event["data"] for event in events if event["type"] == "metrics"]
    assert [(one["job"], one["value"]) for one in told] == [(row["id"], row["result"]["value"]) for row in rows]
    for row in [job, *rows]:
        assert colours.http.get(f"/v1/jobs/{row['id']}/checkpoints").json()["data"] == []
    assert job["id"] in [row["id"] for row in colours.http.get("/v1/jobs", params={"type": "search"}).json()["data"]]
    plain = [row["id"] for row in colours.http.get("/v1/jobs", params={"limit": 1000}).json()["data"]]
    assert not {row["id"] for row in rows} & set(plain)
    refused = colours.http.post(f"/v1/jobs/{best['id']}:cancel")
    assert (refused.status_code, refused.json()["code"]) == (409, "is_a_trial")


def test_a_search_killed_at_random_moments_ends_like_a_calm_one(fovea: Fovea) -> None:
    fovea.start()
    fovea.dataset(colours_zip(), "colours")
    spec = {**SPEC, "epochs": 50}
    calm = fovea.wait(search(fovea, "calm", spec, trials=4), 400)
    assert calm["status"] == "succeeded", calm

    job, chance = search(fovea, "killed", spec, trials=4), random.Random(1)
    for number in (1, 3):
        learning = lambda now, least=number: bool(now["progress"]) and now["progress"]["trial"] >= least  # noqa: E731
        fovea.wait_for(job, learning)
        time.sleep(chance.uniform(0, 0.5))
        fovea.end("workers", number=signal.SIGKILL)
        fovea.start("workers")
    killed = fovea.wait(job, 400)
    assert killed["status"] == "succeeded", killed
    assert killed["attempt"] > 1, "the kills came too late to test anything"
    assert outcome(trials(fovea, job)) == outcome(trials(fovea, calm["id"]))
    for key in ("parameters", "value", "weights_sha256", "trials", "pruned"):
        assert killed["result"][key] == calm["result"][key], key
    other = fovea.wait(search(fovea, "other", trials=1, seed=8))
    assert trials(fovea, other["id"])[0]["parameters"] != trials(fovea, job)[0]["parameters"]


def act(fovea: Fovea, job: str, action: str) -> None:
    answer = fovea.http.post(f"/v1/jobs/{job}:{action}")
    assert answer.status_code == 202, answer.text


def test_pause_resume_stop_and_cancel_do_what_they_say(colours: Fovea) -> None:
    long = {**SPEC, "epochs": 2000}
    job = search(colours, "steered", long, trials=500)
    learning = lambda now: bool(now["progress"]) and now["progress"]["fraction"] > 0  # noqa: E731
    colours.wait_for(job, learning)
    act(colours, job, "pause")
    colours.wait_for(job, lambda now: now["status"] == "paused")
    paused = trials(colours, job)[-1]
    assert paused["status"] == "paused"
    act(colours, job, "resume")
    colours.wait_for(paused["id"], lambda now: now["status"] == "running" and now["attempt"] == 2)
    act(colours, job, "stop")
    stopped = colours.wait(job)
    assert (stopped["status"], stopped["stop_reason"]) == ("succeeded", "stopped"), stopped
    assert stopped["result"]["version"] == 1
    assert trials(colours, job)[-1]["stop_reason"] == "stopped"

    job = search(colours, "gone", long, trials=500)
    colours.wait_for(job, learning)
    act(colours, job, "cancel")
    assert colours.wait(job)["status"] == "cancelled"
    rows = trials(colours, job)
    assert {row["status"] for row in rows} <= {"succeeded", "cancelled"}
    assert rows[-1]["status"] == "cancelled"
    assert all(colours.http.get(f"/v1/jobs/{row['id']}/checkpoints").json()["data"] == [] for row in rows)
    assert colours.http.get("/v1/models/gone").status_code == 404


def test_a_budget_ends_the_search_when_another_trial_would_not_fit(colours: Fovea) -> None:
    job = colours.wait(search(colours, "budget", trials=1000, budget={"seconds": 8}))
    assert (job["status"], job["stop_reason"]) == ("succeeded", "budget_exhausted"), job
    first = trials(colours, job["id"])[0]
    assert first["budget"] == {"seconds": 8.0}


def test_a_trial_that_outlasts_the_budget_is_shortened_and_still_makes_the_model(colours: Fovea) -> None:
    spec = {**SPEC, "epochs": 10_000}
    job = colours.wait(search(colours, "shortened", spec=spec, trials=3, budget={"seconds": 8}))
    assert (job["status"], job["stop_reason"]) == ("succeeded", "budget_exhausted"), job
    assert job["result"]["trials"] == 1
    (only,) = trials(colours, job["id"])
    assert only["stop_reason"] == "budget_exhausted"
    seconds = [row["result"]["seconds"] for row in trials(colours, job["id"])]
    assert 1 <= len(seconds) == job["result"]["trials"] < 1000
    assert len(seconds) == 1 or sum(seconds[:-1]) + max(seconds[:-1]) < 8, "the last trial should not have begun"
    assert sum(seconds) + max(seconds) > 8 - 3, "another trial would have fitted"


def test_a_failing_trial_is_recorded_and_the_search_goes_on(colours: Fovea) -> None:
    deep = {**SPEC, "network": {"layers": [{"conv": {"filters": 32}} for _ in range(6)]}, "epochs": 50}
    space = {"/optimizer/name": {"choice": ["sgd", "adam"]}, "/optimizer/lr": {"choice": [10.0, 1e-3]}}
    job = colours.wait(search(colours, "some", {**deep, "epochs": 12}, space=space, trials=6, seed=3))
    assert job["status"] == "succeeded", job
    failed = [row for row in trials(colours, job["id"]) if row["status"] == "failed"]
    assert failed
    assert {row["error"]["code"] for row in failed} == {"diverged"}

    space = {"/optimizer/lr": {"choice": [10.0]}}
    job = colours.wait(search(colours, "none", {**deep, "optimizer": {"name": "sgd"}}, space=space, trials=2))
    assert (job["status"], job["error"]["code"]) == ("failed", "diverged")
    assert [row["status"] for row in trials(colours, job["id"])] == ["failed", "failed"]
    assert colours.http.get("/v1/models/none").status_code == 404


def test_the_command_line_searches_and_shows_each_trial(colours: Fovea, tmp_path: Path) -> None:
    (tmp_path / "space.json").write_text('{"/epochs": {"int": [2, 3]}}')
    (tmp_path / "spec.json").write_text('{"image_size": 32, "precision": "fp32"}')
    words = ("search", "typed", "--dataset", "colours", "--space", str(tmp_path / "space.json"), "--trials", "2")
    done = run(colours, *words, "--spec", str(tmp_path / "spec.json"), "--follow")
    assert done.returncode == 0, done.stderr
    assert "trial   2/2" in done.stdout
    assert "epochs " in done.stdout
    assert "succeeded" in done.stdout


@pytest.mark.parametrize(
    ("space", "code", "param"),
    [
        ({"/optimizer/speed": {"uniform": [0, 1]}}, "invalid_value", "/space/~1optimizer~1speed/uniform/0"),
        ({"/optimizer/lr": {"uniform": [0.1, 20]}}, "invalid_value", "/space/~1optimizer~1lr/uniform/1"),
        ({"/epochs": {"uniform": [1, 2]}}, "invalid_value", "/space/~1epochs/uniform/0"),
        ({"/network": {"choice": ["classic", "resnet9000"]}}, "invalid_value", "/space/~1network/choice/1"),
        ({"/image_size": {"choice": [32, 2]}}, "invalid_value", "/space/~1image_size/choice/1"),
        (
            {"/network/layers/1/max_pool": {"choice": [2, 3]}, "/image_size": {"choice": [16, 32]}},
            "impossible_shape",
            "/space/~1image_size/choice/0",
        ),
        ({"/initial_weights": {"choice": [None, "flowers:3"]}}, "not_in_a_search", "/space/~1initial_weights/choice/1"),
        ({"/ema/decay": {"uniform": [0.9, 0.99]}}, "pointer_leads_nowhere", "/space/~1ema~1decay"),
        ({"/network/layers/7/conv": {"choice": [1]}}, "pointer_leads_nowhere", "/space/~1network~1layers~17~1conv"),
        ({"optimizer/lr": {"choice": [1]}}, "invalid_value", "/space/optimizer~1lr"),
        ({"/epochs": {"int": [3, 2]}}, "invalid_value", "/space/~1epochs"),
        ({"/epochs": {"int": [1, 2.5]}}, "invalid_value", "/space/~1epochs/int/1"),
        ({"/optimizer/lr": {"log_uniform": [0, 1]}}, "invalid_value", "/space/~1optimizer~1lr"),
        ({"/optimizer/lr": {"uniform": [0.1, 1], "choice": [1]}}, "invalid_value", "/space/~1optimizer~1lr"),
        ({"/optimizer/lr": {"choice": [0.1, 0.1]}}, "invalid_value", "/space/~1optimizer~1lr"),
        ({"/optimizer": {"choice": [{}]}, "/optimizer/lr": {"choice": [0.1]}}, "invalid_value", "/space"),
        ({"/network": {"choice": [json.loads("[" * 500 + "]" * 500)]}}, "invalid_value", "/space/~1network"),
        ({}, "invalid_value", "/space"),
        ({"/epochs": {"normal": [1, 2]}}, "unknown_field", "/space/~1epochs/normal"),
    ],
)
def test_a_bad_space_is_refused_with_the_place_named(colours: Fovea, space: dict, code: str, param: str | None) -> None:
    network = {"layers": [{"conv": {"filters": 4, "padding": 0}}, {"max_pool": 16}]}
    body = {
        "type": "search",
        "model": "bad",
        "dataset": "colours",
        "space": space,
        "spec": {**SPEC, "network": network},
    }
    for dry in (True, False):
        answer = colours.http.post("/v1/jobs", json=body, params={"dry_run": dry})
        assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
        assert param is None or answer.json()["param"] == param
    assert colours.http.get("/v1/jobs", params={"model": "bad"}).json()["data"] == []


def test_a_dry_run_resolves_and_creates_nothing(colours: Fovea) -> None:
    body = {"type": "search", "model": "dry", "dataset": "colours", "space": SPACE, "spec": SPEC, "trials": 3}
    answer = colours.http.post("/v1/jobs", json=body, params={"dry_run": True}).json()
    assert answer["search"] == {"space": SPACE, "trials": 3, "metric": "val/accuracy"}
    assert answer["estimate"]["seconds"]["p90"] > answer["estimate"]["seconds"]["p10"] > 0
    assert answer["spec"]["optimizer"]["lr"] == 1e-3
    assert colours.http.get("/v1/jobs", params={"model": "dry"}).json()["data"] == []


# --- without processes -----------------------------------------------------------------------------------------------


def test_of_a_bad_value_the_reason_is_told() -> None:
    with pytest.raises(InvalidValue, match="/optimizer/lr: Input should be less than or equal to 10"):
        resolve_varied({}, {"/optimizer": {"lr": 20.0}}, FACTS)
    space = {"/optimizer/lr": {"uniform": [0.001, 20.0]}}
    base = {"optimizer": {"lr": 0.1}}
    request = SearchRequest.model_validate(
        {"type": "search", "model": "m", "dataset": "d", "spec": base, "space": space}
    )
    with pytest.raises(InvalidValue) as caught:
        check(request, FACTS)
    assert caught.value.detail == "/optimizer/lr = 20.0: Input should be less than or equal to 10"


def test_mean_average_precision_is_searched_for_where_pictures_have_several_labels() -> None:
    body = {"type": "search", "model": "m", "dataset": "d", "space": {"/ema": {"choice": [None]}}}
    request = SearchRequest.model_validate({**body, "metric": "val/mean_average_precision"})
    check(request, replace(FACTS, several_labels=True))
    with pytest.raises(InvalidValue) as caught:
        check(request, FACTS)
    assert caught.value.param == "/metric"


def test_a_pointer_reaches_every_part_of_a_spec() -> None:
    request = SearchRequest.model_validate(
        {
            "type": "search",
            "model": "m",
            "dataset": "d",
            "spec": {"network": "auto", "augment": {}},
            "space": {
                "/network": {"choice": ["classic", "resnet18", {"layers": [{"conv": {"filters": 8}}]}]},
                "/augment/crop": {"uniform": [0, 0.2]},
                "/ema": {"choice": [None, {"decay": 0.9}]},
            },
        }
    )
    check(request, FACTS)
    spec = request.spec.model_dump(mode="json")
    varied = vary(spec, {"/network": "resnet18", "/augment/crop": 0.1})
    assert (varied["network"], varied["augment"]["crop"]) == ("resnet18", 0.1)
    assert spec["network"] == "auto"


def sampled(count: int, seed: int = 1) -> list[Tried]:
    """A search in which a rate near 0.01 is best, and "b" is better than "a"."""
    space = {
        "/lr": {"log_uniform": [1e-5, 1.0]},
        "/name": {"choice": ["a", "b", None, {"c": 1}]},
        "/k": {"int": [1, 9]},
    }
    sampling, tried = Sampling(space, seed, count, maximise=True), []
    for number in range(1, count + 1):
        parameters = sampling.propose(number, tried)
        value = -abs(math.log10(parameters["/lr"] / 0.01)) - (parameters["/name"] != "b")
        tried.append(Tried(parameters, {1: value}, value, ("complete", "complete", "pruned")[number % 3]))
    return tried


def test_what_a_trial_tries_is_a_function_of_the_seed_and_the_results_before() -> None:
    first, again = sampled(40), sampled(40)
    assert first == again
    assert sampled(40, seed=2) != first
    assert len({str(trial.parameters) for trial in first}) > 30
    medians = [median(trial.value or 0 for trial in part) for part in (first[:7], first[30:])]
    assert medians[1] > medians[0], "it learns from what it has tried"


@pytest.mark.parametrize("maximise", [True, False])
def test_a_trial_below_the_median_of_those_before_is_given_up(maximise: bool) -> None:
    sign = 1 if maximise else -1
    sampling = Sampling({"/lr": {"uniform": [0, 1]}}, 1, 20, maximise)
    before = [Tried({"/lr": 0.1 * k}, dict.fromkeys(range(1, 11), sign * 0.1 * k), sign * 0.1 * k) for k in range(1, 6)]

    def hopeless(value: float, epoch: int, known: list[Tried] = before) -> bool:
        values = dict.fromkeys(range(1, epoch + 1), sign * value)
        return sampling.judge(known)(Tried({"/lr": 0.5}, values), 10)

    assert hopeless(0.29, 5)
    assert not hopeless(0.31, 5)
    assert not hopeless(0.0, 2), "too early to tell"
    assert not hopeless(0.0, 5, before[:3]), "too few to compare with"
    failed = Tried({"/lr": 0.5}, {}, outcome="failed")
    assert hopeless(0.29, 5, [*before, failed])


@pytest.fixture
def claimed(tmp_path: Path) -> Iterator[tuple[Database, Hold]]:
    """A database with one search, claimed."""
    database = Database(f"sqlite:///{tmp_path / 'fovea.db'}")
    upgrade(database)
    with database.write() as session:
        jobs.submit(session, "search", spec={}, search={"space": {}, "trials": 3, "metric": "val/accuracy"})
    yield database, claim(database)
    database.dispose()


def claim(database: Database) -> Hold:
    with database.write() as session:
        job = jobs.claim(session, {"machine": "here", "pid": 1, "started": 0.0}, 30)
        assert job is not None
        return Hold(job.id, job.attempt)


def begin(database: Database, hold: Hold) -> Hold:
    with database.write() as session:
        trial = jobs.start_trial(session, hold, 1, {}, {"/epochs": 2})
        return Hold(trial.id, hold.attempt, hold)


def test_a_trial_is_claimed_by_nobody_and_held_with_its_search(claimed: tuple[Database, Hold]) -> None:
    database, hold = claimed
    trial = begin(database, hold)
    with database.write() as session:
        assert [job.id for job in jobs.held(session)] == [hold.job_id]
        jobs.died(session, hold, "killed", 3)
    with database.read() as session:
        assert jobs.get(session, trial.job_id).status == "interrupted"
    fresh = claim(database)
    assert fresh.job_id == hold.job_id
    with database.write() as session:
        assert jobs.claim(session, {}, 30) is None
        taken = jobs.take_up_trial(session, fresh)
        assert taken is not None
        assert (taken.id, taken.status, taken.attempt) == (trial.job_id, "running", fresh.attempt)


def test_a_worker_that_lost_the_search_writes_nothing_of_a_trial(claimed: tuple[Database, Hold]) -> None:
    database, hold = claimed
    trial = begin(database, hold)
    with database.write() as session:
        jobs.rescue(session, jobs.get(session, hold.job_id), "silent", 3)
    fresh = claim(database)
    for write in (
        lambda session: jobs.fenced(session, trial, progress={}),
        lambda session: jobs.progressed(session, trial, progress={}),
        lambda session: jobs.succeed(session, trial, {}),
        lambda session: jobs.fail(session, trial, {"message": ""}),
        lambda session: jobs.start_trial(session, hold, 2, {}, {}),
        lambda session: jobs.take_up_trial(session, hold),
    ):
        with pytest.raises(LeaseLost), database.write() as session:
            write(session)
    with database.write() as session:
        assert jobs.take_up_trial(session, fresh) is not None
    with pytest.raises(IntegrityError), database.write() as session:
        jobs.start_trial(session, fresh, 1, {}, {})  # a number is given once


def test_cancelling_a_search_beats_a_trial_that_ends_in_the_same_moment(claimed: tuple[Database, Hold]) -> None:
    database, hold = claimed
    trial = begin(database, hold)
    with database.write() as session:
        jobs.cancel(session, hold.job_id)
    with pytest.raises(LeaseLost), database.write() as session:
        jobs.succeed(session, trial, {})
    with database.write() as session:
        jobs.died(session, hold, "killed", 3)
        assert {jobs.get(session, job_id).status for job_id in (hold.job_id, trial.job_id)} == {"cancelled"}


def test_a_trial_that_every_attempt_dies_of_fails_alone(claimed: tuple[Database, Hold], tmp_path: Path) -> None:
    database, hold = claimed
    trial = begin(database, hold)
    for _ in range(2):
        with database.write() as session:
            assert jobs.died(session, hold, "killed", 3).status == "interrupted"
        hold = claim(database)
        with database.read() as session:
            job = jobs.get(session, hold.job_id)
        context = Context(Settings(data=tmp_path), database, hold, threading.Event())
        sampling = Sampling({"/epochs": {"int": [1, 3]}}, 1, 3, maximise=True)
        left = _left_open(Search(context, job, "val/accuracy", 3, sampling))
        assert (left is None) == (hold.attempt == 3)
    with database.read() as session:
        failed = jobs.get(session, trial.job_id)
        assert (failed.status, failed.error["code"]) == ("failed", "worker_died")
        assert jobs.get(session, hold.job_id).deaths == 1
