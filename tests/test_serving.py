"""Many requests at a time: several processes on one port, more than fits, clients that leave, models that move.

A real service and real programs of untrained networks, as in test_shadows.
"""

import asyncio
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from service.api.remembered import Remembered
from service.db import Database
from service.db.migrate import upgrade
from service.db.tables import Measurement
from service.ids import now
from tests import hostile
from tests.conftest import KEY, Fovea, png
from tests.test_errors import check
from tests.test_shadows import PIXELS, add_versions

PICTURE = png(PIXELS[0])
ASK = "/v1/models/flowers/classify"


@contextmanager
def serving(folder: Path, **environment: str) -> Iterator[Fovea]:
    (folder / "data").mkdir()
    instance = Fovea(folder / "data", FOVEA_DEVICE="cpu", **environment)
    try:
        instance.start("service")
        with instance.database() as database:
            add_versions(database)
        yield instance
    finally:
        instance.http.close()
        instance.end(number=signal.SIGKILL)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fovea]:
    with serving(tmp_path_factory.mktemp("together"), FOVEA_PROCESSES="2") as instance:
        yield instance


def children(fovea: Fovea) -> list[psutil.Process]:
    return psutil.Process(fovea.processes["service"].pid).children()


def clients(fovea: Fovea, count: int = 8) -> list[httpx.Client]:
    """Each with a connection of its own, so that all processes are asked."""
    head = {"Authorization": f"Bearer {KEY}"}
    return [httpx.Client(base_url=fovea.url, headers=head, timeout=60) for _ in range(count)]


def test_what_changes_is_known_to_every_process_at_once(together: Fovea) -> None:
    askers = clients(together)
    made = together.http.post("/v1/keys", json={"name": "app", "scopes": ["predict"]}).json()
    head = {"Authorization": f"Bearer {made['key']}"}
    for version, number in ((1, 201), (3, 200), (2, 200)):
        moved = together.http.put(
            "/v1/models/flowers/aliases/production", json={"version": version}, headers={"If-Match": "*"}
        )
        assert moved.status_code == number or version == 1
        if version == 1 and moved.status_code == 412:
            together.http.put("/v1/models/flowers/aliases/production", json={"version": 1})
        for one in askers:
            answer = one.post(ASK, content=PICTURE, headers=head)
            assert (answer.status_code, answer.json()["model"]["version"]) == (200, version)
    assert together.http.delete(f"/v1/keys/{made['id']}").status_code == 204
    for one in askers:
        check(one.post(ASK, content=PICTURE, headers=head), 401, "unauthorized")
        one.close()


def test_an_alias_moves_under_load_and_no_request_is_dropped(together: Fovea) -> None:
    together.http.put("/v1/models/flowers/aliases/staging", json={"version": 1})
    seen: Counter[tuple[int, int]] = Counter()
    stop = threading.Event()

    def load() -> None:
        with clients(together, 1)[0] as one:
            while not stop.is_set():
                answer = one.post("/v1/models/flowers@staging/classify", content=PICTURE)
                seen[answer.status_code, answer.json()["model"]["version"]] += 1

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for version in (2, 3, 1, 2):
        time.sleep(0.5)
        moved = together.http.put(
            "/v1/models/flowers/aliases/staging", json={"version": version}, headers={"If-Match": "*"}
        )
        assert moved.status_code == 200
    time.sleep(0.5)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert {status for status, _ in seen} == {200}
    assert {version for _, version in seen} == {1, 2, 3}


def test_a_process_that_dies_is_replaced_and_all_end_together(tmp_path: Path) -> None:
    with serving(tmp_path, FOVEA_PROCESSES="2") as fovea:
        before = children(fovea)
        assert len(before) == 2
        before[0].kill()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and len(set(children(fovea)) - set(before)) != 1:
            time.sleep(0.1)
        for one in clients(fovea):
            assert one.post(ASK, content=PICTURE).status_code == 200
            one.close()
        family = children(fovea)
        assert len(family) == 2
        assert before[0] not in family
        said = (tmp_path / "service.log").read_text()
        assert said.count("Fovea is ready") == 1
        assert fovea.end("service") == [0]
        assert not any(process.is_running() for process in family)


def test_processes_without_their_supervisor_end(tmp_path: Path) -> None:
    with serving(tmp_path, FOVEA_PROCESSES="2") as fovea:
        family = children(fovea)
        fovea.end("service", number=signal.SIGKILL)
        _, alive = psutil.wait_procs(family, timeout=30)
        assert alive == []
        fovea.start("service")


def test_beyond_what_fits_it_refuses_at_once_and_answers_the_rest(tmp_path: Path) -> None:
    with serving(tmp_path, FOVEA_INFERENCE_QUEUE="4", FOVEA_MAX_BATCH="1") as fovea:
        assert fovea.http.post(ASK, content=PICTURE).status_code == 200
        answers = asyncio.run(flood(fovea, requests=400, at_once=40))
        statuses = Counter(answer.status_code for answer in answers)
        assert set(statuses) == {200, 503}
        for answer in answers:
            if answer.status_code == 503:
                assert check(answer, 503, "overloaded")["hint"]
                assert int(answer.headers["retry-after"]) >= 1
        assert fovea.http.post(ASK, content=PICTURE).status_code == 200


async def flood(fovea: Fovea, requests: int, at_once: int) -> list[httpx.Response]:
    head = {"Authorization": f"Bearer {KEY}"}
    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(base_url=fovea.url, headers=head, limits=limits, timeout=60) as client:
        return await asyncio.gather(*(client.post(ASK, content=PICTURE) for _ in range(requests)))


def test_an_answer_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    with serving(tmp_path, FOVEA_ANSWER_SECONDS="0.01") as fovea:
        problem = check(fovea.http.post(ASK, content=PICTURE), 503, "timed_out")  # its program is not loaded yet
        assert "0.01" in problem["detail"]


def test_clients_that_leave_leave_nothing_behind(tmp_path: Path) -> None:
    with serving(tmp_path, FOVEA_INFERENCE_QUEUE="8") as fovea:
        for _ in range(8):  # they are gone before the program is loaded
            with pytest.raises(httpx.ReadTimeout):
                fovea.http.post(ASK, content=PICTURE, timeout=0.05)
        answer = fovea.http.post(ASK, content=PICTURE)
        assert answer.status_code == 200, "places of those who left are free"
        assert "Traceback" not in (tmp_path / "service.log").read_text()


def test_dear_pictures_of_one_client_do_not_hold_up_those_of_another(tmp_path: Path) -> None:
    dear, ordinary = png(np.zeros((3000, 3000), np.uint8)), png(np.zeros((300, 300, 3), np.uint8))
    with serving(tmp_path) as fovea, clients(fovea, 1)[0] as other, ThreadPoolExecutor(1) as pool:
        assert fovea.http.post(ASK, content=PICTURE).status_code == 200
        many, began, waits = [("file", ("a.png", dear))] * 20, time.perf_counter(), []
        slow = pool.submit(other.post, ASK, files=many)
        while not slow.done():
            asked = time.perf_counter()
            assert fovea.http.post(ASK, content=ordinary).status_code == 200
            waits.append(time.perf_counter() - asked)
        assert len(slow.result().json()["results"]) == 20
        assert max(waits) < (time.perf_counter() - began) / 2, "it waited for all of the many"


def test_large_pictures_are_decoded_one_after_the_other(tmp_path: Path) -> None:
    body = hostile.blank_png(3500, 3500, rgba=True)  # 50 kB, and 50 MB for each copy
    with serving(tmp_path, FOVEA_MAX_DECODING_BYTES="1000000", FOVEA_INFERENCE_THREADS="6") as fovea:
        assert fovea.http.post(ASK, content=PICTURE).status_code == 200
        process = Path(f"/proc/{fovea.processes['service'].pid}")
        (process / "clear_refs").write_text("5")  # the peak of memory is that of now
        before = memory(process, "VmRSS")
        answer = fovea.http.post(ASK, files=[("file", (f"{k}.png", body)) for k in range(12)])
        assert answer.status_code == 200, answer.text
        assert [row["error"] for row in answer.json()["results"]] == [None] * 12
        assert memory(process, "VmHWM") - before < 200e6


def memory(process: Path, name: str) -> int:
    (found,) = [line for line in (process / "status").read_text().splitlines() if line.startswith(name)]
    return int(found.split()[1]) * 1024


@contextmanager
def most_of_a_body(fovea: Fovea) -> Iterator[socket.socket]:
    """80,000 of 90,000 bytes, which have arrived."""
    head = f"POST {ASK} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 90000\r\n\r\n"
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", fovea.port)) as half:
            half.sendall(head.encode() + bytes(80_000))
            time.sleep(0.5)
            if fovea.http.post(ASK, content=bytes(50_000)).status_code == 503:
                yield half
                return
    raise AssertionError("it never held the memory")


def test_bodies_that_do_not_fit_into_memory_are_refused_before_they_are_read(tmp_path: Path) -> None:
    with serving(tmp_path, FOVEA_MAX_BODIES_BYTES="100000") as fovea:
        with most_of_a_body(fovea) as half:
            answer = fovea.http.post(ASK, content=bytes(50_000))
            check(answer, 503, "overloaded")
            assert int(answer.headers["retry-after"]) >= 1
            assert fovea.http.post(ASK, content=PICTURE).status_code == 200, "there is room for a small one"
            pieces = fovea.http.post(ASK, content=iter([bytes(15_000)] * 2))  # says not how long it will be
            check(pieces, 503, "overloaded")
            half.sendall(bytes(10_000))
            assert half.recv(65536).startswith(b"HTTP/1.1 415")
        check(fovea.http.post(ASK, content=bytes(95_000)), 415, "not_a_picture")


def test_what_is_remembered_is_forgotten_with_any_commit(tmp_path: Path) -> None:
    mine, other = (Database(f"sqlite:///{tmp_path / 'x.db'}") for _ in range(2))
    upgrade(mine)
    remembered = Remembered(mine)
    reads: list[int] = []

    def ask() -> int:
        remembered.look()
        return asyncio.run(remembered.get("key", lambda _session: reads.append(1) or len(reads)))

    assert (ask(), ask()) == (1, 1)
    for database in (other, mine):
        with database.write() as session:
            session.add(Measurement(key=str(id(database)), value={}, created_at=now()))
        before = len(reads)
        assert (ask(), ask()) == (before + 1, before + 1)
    mine.dispose()
    other.dispose()


def test_who_may_not_ask_is_told_nothing_else(together: Fovea) -> None:
    bad = {"top_k": 0}
    check(httpx.post(f"{together.url}{ASK}", params=bad, content=PICTURE), 401, "unauthorized")
    problem = check(together.http.post(ASK, params=bad, content=PICTURE), 422, "invalid_value")
    assert problem["param"] == "top_k"
    unknown = check(together.http.post(ASK, params={"topk": 3}, content=PICTURE), 422, "unknown_field")
    assert unknown["param"] == "topk"
    check(together.http.get("/v1/models/flowers/versions/-1"), 404, "model_not_found")


def test_each_process_gets_its_part_of_the_connections(together: Fovea) -> None:
    before = [connections(one, together.port) for one in children(together)]
    askers = clients(together, 6)
    for one in askers:
        assert one.get("/livez").status_code == 200
    after = [connections(one, together.port) for one in children(together)]
    assert sum(after) == sum(before) + 6
    assert max(after) - min(after) <= 1
    for one in askers:
        one.close()


def connections(process: psutil.Process, port: int) -> int:
    return sum(one.status == "ESTABLISHED" and one.laddr.port == port for one in process.net_connections("tcp"))
