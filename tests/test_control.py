"""Goal, budget, reproduction, stuck and diverging jobs, through real processes."""

import math
import os
import signal
from datetime import datetime

import pytest

from service.db.tables import Job, Metric
from tests.conftest import Fovea, colours_zip, digits_zip

SPEC = {
    "network": {"layers": [{"conv": {"filters": 8, "activation": "relu"}}, {"max_pool": 4}]},
    "epochs": 8,
    "batch_size": 8,
    "image_size": 32,
    "precision": "fp32",
}


@pytest.fixture(scope="module")
def colours(shared: Fovea) -> Fovea:
    shared.dataset(colours_zip(per_class=40), "colours")
    return shared


def test_training_ends_when_the_goal_is_reached(colours: Fovea) -> None:
    job = colours.wait(colours.train("goal", "colours", {**SPEC, "epochs": 500}, goal={"at_least": 0.9})["id"])
    assert (job["status"], job["stop_reason"]) == ("succeeded", "goal_reached")
    series = colours.http.get(f"/v1/jobs/{job['id']}/metrics", params={"names": "val/accuracy"}).json()["series"]
    values = [point[2] for point in series[0]["points"]]
    assert values[-1] >= 0.9
    assert all(value < 0.9 for value in values[:-1])


def test_a_budget_is_kept_with_the_schedule_compressed_and_the_run_can_be_reproduced(colours: Fovea) -> None:
    job = colours.wait(colours.train("budget", "colours", {**SPEC, "epochs": 10_000}, budget={"seconds": 12})["id"])
    assert (job["status"], job["stop_reason"]) == ("succeeded", "budget_exhausted")
    began, ended = (datetime.fromisoformat(job[name]) for name in ("started_at", "finished_at"))
    assert (ended - began).total_seconds() < 12 + 5
    series = colours.http.get(f"/v1/jobs/{job['id']}/metrics", params={"names": "lr"}).json()["series"]
    steps, _, rate, _ = series[0]["points"][-1]
    falling = steps - round(0.3 * steps)
    last = (1 + math.cos(math.pi * (falling - 1) / falling)) / 2  # of the peak: one_cycle, compressed to these steps
    assert rate == pytest.approx(last * job["spec"]["optimizer"]["lr"])
    assert steps > 20  # not what fits at the speed of the first steps, in which a process warms up

    again = colours.http.post(f"/v1/jobs/{job['id']}:reproduce")
    assert again.status_code == 202, again.text
    again = colours.wait(again.json()["id"])
    assert again["status"] == "succeeded", again
    assert again["result"] == {
        "reproduces": job["id"],
        "equal": True,
        "weights_sha256": job["result"]["weights_sha256"],
        "first_difference": None,
    }
    assert colours.http.get("/v1/models/budget").json()["newest_version"] == 1
    assert colours.http.post(f"/v1/jobs/{again['id']}:reproduce").status_code == 409


def test_a_budget_that_is_too_short_says_so_before_and_while_it_runs(colours: Fovea) -> None:
    large = {"network": "resnet50", "image_size": 64, "epochs": 8, "batch_size": 8, "precision": "fp32"}
    job = colours.train("hurried", "colours", large, budget={"seconds": 5})
    assert job["estimate"]["seconds"]["p50"] > 5
    job = colours.wait(job["id"])
    assert (job["status"], job["stop_reason"]) == ("succeeded", "budget_exhausted")
    events = colours.http.get(f"/v1/jobs/{job['id']}/events", params={"limit": 1000}).json()["data"]
    (warning,) = [event["data"]["message"] for event in events if event["type"] == "warning"]
    assert "budget of 5 s is too short" in warning
    assert {"actual_seconds", "actual_memory_bytes", "inside"} <= job["estimate"].keys()


def test_a_reproduction_that_differs_says_where(colours: Fovea) -> None:
    job = colours.wait(colours.train("record", "colours", SPEC)["id"])
    with colours.database() as database, database.write() as session:  # a record of something that never happened
        row = session.get_one(Job, job["id"])
        row.result = {**row.result, "weights_sha256": "0" * 64}
        metric = session.query(Metric).filter_by(job_id=job["id"], name="train/loss", epoch=3).one()
        metric.value += 1e-9
    again = colours.wait(colours.http.post(f"/v1/jobs/{job['id']}:reproduce").json()["id"])
    assert again["result"]["equal"] is False
    assert again["result"]["first_difference"]["metric"] == "train/loss"
    assert again["result"]["first_difference"]["epoch"] == 3


def test_a_job_that_diverges_is_tried_at_a_lower_rate_and_then_fails_with_the_reason(colours: Fovea) -> None:
    wild = {**SPEC, "optimizer": {"name": "sgd", "lr": 10.0}, "epochs": 50}
    wild["network"] = {"layers": [{"conv": {"filters": 32}} for _ in range(6)]}
    job = colours.wait(colours.train("wild", "colours", wild)["id"])
    events = colours.http.get(f"/v1/jobs/{job['id']}/events", params={"limit": 1000}).json()["data"]
    warnings = [event["data"]["message"] for event in events if event["type"] == "warning"]
    assert len([text for text in warnings if "at 0.1 of the rate" in text]) == 1
    assert (job["status"], job["error"]["code"]) == ("failed", "diverged")


def test_a_job_that_was_tried_at_a_lower_rate_can_be_reproduced(shared: Fovea) -> None:
    shared.dataset(digits_zip(200), "digits")
    wild = {"network": "classic", "image_size": 16, "epochs": 12, "batch_size": 8, "precision": "fp32"}
    wild |= {"optimizer": {"name": "sgd", "lr": 0.4, "momentum": 0.9}, "schedule": {"name": "linear", "warmup": 0.5}}
    job = shared.wait(shared.train("tamed", "digits", wild)["id"])
    assert job["status"] == "succeeded", job
    ((step, change),) = job["plan"]["changes"]
    assert change == {"rate_scale": 0.1}
    assert step > 0
    again = shared.wait(shared.http.post(f"/v1/jobs/{job['id']}:reproduce").json()["id"])
    assert (again["result"]["equal"], again["result"]["first_difference"]) == (True, None)


def test_a_job_without_a_step_is_ended_with_the_reason(fovea: Fovea) -> None:
    fovea.environment |= {"FOVEA_STUCK_SECONDS": "15", "FOVEA_LEASE_SECONDS": "6"}  # a third of which is a look
    fovea.start()
    fovea.dataset(colours_zip(), "colours")
    job = fovea.train("m", "colours", {**SPEC, "epochs": 10_000})["id"]
    fovea.wait_for(job, lambda now: bool(now["progress"]))
    child = fovea.job_process()
    os.kill(child.pid, signal.SIGSTOP)
    stuck = fovea.wait(job)
    assert (stuck["status"], stuck["error"]["code"]) == ("failed", "stuck")
    assert fovea.wait(fovea.train("m", "colours", SPEC)["id"])["status"] == "succeeded"
