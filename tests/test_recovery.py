"""Processes are killed at any moment; the job goes on by itself and ends with the same weights, to the bit."""

import os
import random
import signal
import time

from service.db.tables import Metric
from tests.conftest import Fovea, colours_zip
from workers.run_job import NICENESS

SPEC = {
    "network": {
        "layers": [
            {"conv": {"filters": 8, "batch_norm": True, "activation": "relu"}},
            {"max_pool": 2},
            {"dropout": {"p": 0.2}},
            {"dense": {"units": 16, "activation": "relu"}},
        ]
    },
    "epochs": 300,  # long enough that no kill comes too late
    "batch_size": 8,
    "precision": "fp32",
    "augment": {"crop": 0.1, "horizontal_flip": True, "brightness": 0.2},
    "image_size": 32,
}


def test_a_job_killed_at_random_moments_ends_with_the_weights_of_one_never_killed(fovea: Fovea) -> None:
    fovea.start()
    fovea.dataset(colours_zip(), "colours")
    calm = fovea.wait(fovea.train("calm", "colours", SPEC, seed=3)["id"])
    assert calm["status"] == "succeeded", calm
    other_seed = fovea.wait(fovea.train("other", "colours", {**SPEC, "epochs": 2}, seed=4)["id"])

    job = fovea.train("killed", "colours", SPEC, seed=3)
    chance = random.Random(0)
    for victims in (("workers",), ("service",), ("workers", "service")):
        before = fovea.job(job["id"])["progress"]
        step = before["step"] if before else 0
        fovea.wait_for(job["id"], lambda now, least=step: bool(now["progress"]) and now["progress"]["step"] > least)
        time.sleep(chance.uniform(0, 0.5))
        fovea.end(*victims, number=signal.SIGKILL)
        fovea.start(*victims)
    killed = fovea.wait(job["id"])

    assert killed["status"] == "succeeded", killed
    assert killed["attempt"] > 1, "the kills came too late to test anything"
    assert killed["result"]["weights_sha256"] == calm["result"]["weights_sha256"]
    # the control: the hash does tell different weights apart
    assert other_seed["result"]["weights_sha256"] != calm["result"]["weights_sha256"]
    points = {row["name"]: row["points"] for row in fovea.http.get(f"/v1/jobs/{job['id']}/metrics").json()["series"]}
    assert [point[1] for point in points["val/loss"]] == list(range(1, SPEC["epochs"] + 1))


def test_pause_resume_stop_and_cancel_do_what_they_say(shared: Fovea) -> None:
    shared.dataset(colours_zip(), "steer")
    long = {**SPEC, "epochs": 10_000}
    job = shared.train("steer", "steer", long)["id"]
    started = lambda now: bool(now["progress"])  # noqa: E731
    shared.wait_for(job, started)
    act(shared, job, "pause")
    paused = shared.wait_for(job, lambda now: now["status"] == "paused")
    act(shared, job, "pause")  # repeating is harmless
    act(shared, job, "resume")
    shared.wait_for(
        job, lambda now: now["status"] == "running" and now["progress"]["step"] > paused["progress"]["step"]
    )
    act(shared, job, "stop")
    stopped = shared.wait(job)
    assert (stopped["status"], stopped["stop_reason"]) == ("succeeded", "stopped")
    assert stopped["result"]["version"] == 1

    job = shared.train("gone", "steer", long)["id"]
    shared.wait_for(job, started)
    act(shared, job, "cancel")
    assert shared.wait(job)["status"] == "cancelled"
    assert shared.http.get(f"/v1/jobs/{job}/checkpoints").json()["data"] == []
    assert shared.http.get("/v1/models/gone").status_code == 404
    assert shared.http.post(f"/v1/jobs/{job}:resume").status_code == 409


def act(fovea: Fovea, job: str, action: str) -> None:
    answer = fovea.http.post(f"/v1/jobs/{job}:{action}")
    assert answer.status_code == 202, answer.text


def test_a_job_whose_process_dies_three_times_without_progress_ends_failed_with_the_reason(fovea: Fovea) -> None:
    fovea.start()
    fovea.dataset(colours_zip(), "colours")
    slow = {"network": "resnet50", "image_size": 160, "epochs": 1, "batch_size": 32, "precision": "fp32"}
    job = fovea.train("m", "colours", slow)["id"]
    for attempt in (1, 2, 3):
        fovea.wait_for(job, lambda now, nth=attempt: now["status"] == "running" and now["attempt"] == nth)
        child = fovea.job_process()
        child.kill()
    failed = fovea.wait(job)
    assert (failed["status"], failed["error"]["code"], failed["attempt"]) == ("failed", "worker_died", 3)
    assert "SIGKILL" in failed["error"]["message"]
    # the worker itself is well
    assert fovea.wait(fovea.train("m", "colours", {**SPEC, "epochs": 1})["id"])["status"] == "succeeded"


def test_a_training_yields_in_all_its_threads_and_counts_them(fovea: Fovea) -> None:
    """Whatever answers requests goes first."""
    fovea.environment["FOVEA_THREADS"] = "1"
    fovea.start()
    fovea.dataset(colours_zip(), "colours")
    job = fovea.train("m", "colours", {**SPEC, "epochs": 10_000})["id"]
    running = fovea.wait_for(job, lambda now: bool(now["progress"]))
    child, service = fovea.job_process(), fovea.processes["service"]
    assert {os.getpriority(os.PRIO_PROCESS, thread.id) for thread in child.threads()} == {NICENESS}
    assert os.getpriority(os.PRIO_PROCESS, service.pid) == 0
    assert running["plan"]["key"].split(":")[2] == "1"
    act(fovea, job, "cancel")
    assert fovea.wait(job)["status"] == "cancelled"


def test_a_worker_told_to_go_writes_a_checkpoint_and_its_attempt_is_no_death(fovea: Fovea) -> None:
    fovea.start()
    fovea.dataset(colours_zip(), "colours")
    job = fovea.train("m", "colours", {**SPEC, "epochs": 10_000})["id"]
    fovea.wait_for(job, lambda now: bool(now["progress"]))
    assert fovea.end("workers", number=signal.SIGTERM) == [0]
    left = fovea.job(job)
    assert left["status"] == "interrupted"
    checkpoints = fovea.http.get(f"/v1/jobs/{job}/checkpoints").json()["data"]
    step = left["progress"]["step"]
    assert max(row["step"] for row in checkpoints) == step
    with fovea.database() as database, database.write() as session:
        # of an epoch beyond the checkpoint, as a budget or a lower rate would not repeat it
        session.add(Metric(job_id=job, name="val/loss", step=step + 1, epoch=9999, value=-1.0, time=0.0))
    fovea.start("workers")
    fovea.wait_for(job, lambda now: now["status"] == "running" and now["progress"]["step"] > step)
    points = fovea.http.get(f"/v1/jobs/{job}/metrics", params={"names": "val/loss"}).json()["series"][0]["points"]
    assert points
    assert all(point[1] != 9999 for point in points)
