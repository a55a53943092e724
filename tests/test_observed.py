"""What Prometheus is told: the same whichever process it asks, and nothing is lost with a process."""

import signal
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Fovea
from tests.test_errors import check
from tests.test_serving import ASK, PICTURE, children, clients, serving


def told(fovea: Fovea) -> dict[tuple[str, ...], float]:
    """Value by name and labels."""
    answer = fovea.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(answer.text)
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels) if key != "le")): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@pytest.mark.parametrize("processes", [1, 2])
def test_answers_are_counted_over_all_processes(processes: int, tmp_path: Path) -> None:
    with serving(tmp_path, FOVEA_PROCESSES=str(processes)) as fovea:
        for one in clients(fovea, 6):
            assert one.post(ASK, content=PICTURE).status_code == 200
            check(one.post(ASK, content=b"no picture"), 415, "not_a_picture")
            both = [("file", ("good.png", PICTURE)), ("file", ("bad.png", b"no picture"))]
            assert one.post(ASK, files=both).status_code == 200
            one.close()
        found = told(fovea)
        assert found["fovea_pictures_total", "classified"] == 12
        assert found["fovea_pictures_total", "refused"] == 6
        assert found["fovea_problems_total", "not_a_picture", "415"] == 6
        for part in ("whole", "decode", "queue", "model"):
            assert found["fovea_answer_seconds_count", part] == 12
        assert 0 < found["fovea_answer_seconds_sum", "model"] < found["fovea_answer_seconds_sum", "whole"] < 600
        assert found[("fovea_model_versions",)] == 3
        assert found[("fovea_disk_free_bytes",)] > 0
        check(fovea.http.get("/v1/jobs/none"), 404, "job_not_found")
        assert told(fovea)["fovea_problems_total", "job_not_found", "404"] == 1


def test_what_a_process_counted_outlives_it(tmp_path: Path) -> None:
    with serving(tmp_path, FOVEA_PROCESSES="2") as fovea:
        for one in clients(fovea, 4):
            assert one.post(ASK, content=PICTURE).status_code == 200
            one.close()
        before = children(fovea)
        before[0].send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and len(set(children(fovea)) - set(before)) != 1:
            time.sleep(0.1)
        with clients(fovea, 1)[0] as one:
            assert one.post(ASK, content=PICTURE).status_code == 200
        assert told(fovea)["fovea_pictures_total", "classified"] == 5


def test_it_takes_a_key(tmp_path: Path) -> None:
    with serving(tmp_path) as fovea:
        check(fovea.http.get("/metrics", headers={"Authorization": "Bearer wrong"}), 401, "unauthorized")
