"""Uploads in pieces: what was acknowledged survives, two writers never meet, and the whole becomes a dataset."""

import base64
import hashlib
import signal
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from service.api import examples
from tests.conftest import Fovea, colours_zip

TUS = {"Tus-Resumable": "1.0.0"}
BODY = colours_zip(per_class=4)
MiB = 1024**2


def begin(fovea: Fovea, size: int = len(BODY), **headers: str) -> str:
    answer = fovea.http.post("/v1/uploads", headers={**TUS, "Upload-Length": str(size), **headers})
    assert answer.status_code == 201, answer.text
    where: str = answer.headers["location"]
    return where


def patch(fovea: Fovea, where: str, offset: int, content: bytes | Iterator[bytes], **headers: str) -> httpx.Response:
    kind = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": str(offset)}
    return fovea.http.patch(where, content=content, headers={**TUS, **kind, **headers})


def offset(fovea: Fovea, where: str) -> int:
    return int(fovea.http.head(where, headers=TUS).headers["upload-offset"])


def check(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["tus-resumable"] == "1.0.0"


def test_pieces_become_a_dataset_and_the_upload_is_gone(shared: Fovea) -> None:
    made = shared.http.post(
        "/v1/uploads", headers={**TUS, "Upload-Length": str(len(BODY)), "Upload-Metadata": "a Yg=="}
    )
    assert set(made.json()) == set(examples.UPLOAD)
    where, upload = made.headers["location"], made.json()["id"]
    for start in range(0, len(BODY), 3000):
        sent = patch(shared, where, start, BODY[start : start + 3000])
        assert sent.status_code == 204, sent.text
        assert int(sent.headers["upload-offset"]) == min(start + 3000, len(BODY))
        assert "GMT" in sent.headers["upload-expires"]
    head = shared.http.head(where, headers=TUS)
    assert (head.headers["upload-length"], head.headers["upload-metadata"]) == (str(len(BODY)), "a Yg==")
    assert head.headers["cache-control"] == "no-store"
    wanted, once = {"name": "pieces", "upload": upload}, {"Idempotency-Key": "pieces"}
    pushed = shared.http.post("/v1/datasets", json=wanted, headers=once)
    assert pushed.status_code == 202, pushed.text
    assert shared.wait(pushed.json()["job"]["id"])["status"] == "succeeded"
    assert shared.http.get("/v1/datasets/pieces/versions/1").json()["image_count"] == 12
    assert shared.http.post("/v1/datasets", json=wanted, headers=once).json()["id"] == pushed.json()["id"]
    assert shared.http.head(where, headers=TUS).status_code == 404
    check_gone = shared.http.post("/v1/datasets/pieces/versions", json={"upload": upload})
    assert (check_gone.status_code, check_gone.json()["code"]) == (422, "upload_not_found")
    assert not (shared.data / "uploads" / upload).exists()


def test_a_next_version_comes_from_an_upload_too(shared: Fovea) -> None:
    shared.http.post("/v1/datasets", json={"name": "more"})
    where = begin(shared)
    early = shared.http.post("/v1/datasets/more/versions", json={"upload": where.rpartition("/")[2]})
    assert (early.status_code, early.json()["code"]) == (409, "upload_incomplete")
    patch(shared, where, 0, BODY)
    pushed = shared.http.post("/v1/datasets/more/versions", json={"upload": where.rpartition("/")[2]})
    assert (pushed.status_code, pushed.json()["version"]) == (202, 1)
    wrong = shared.http.post("/v1/datasets/more/versions", json={"uplaod": "up_1"})
    assert (wrong.status_code, wrong.json()["param"]) == (422, "/upload")


def test_what_is_no_archive_is_refused_and_stays_until_it_is_ended(shared: Fovea) -> None:
    where = begin(shared, 6)
    patch(shared, where, 0, b"no zip")
    refused = shared.http.post("/v1/datasets", json={"name": "none", "upload": where.rpartition("/")[2]})
    assert (refused.status_code, refused.json()["code"]) == (422, "archive_not_a_zip")
    assert shared.http.get("/v1/datasets/none").status_code == 404
    assert shared.http.delete(where, headers=TUS).status_code == 204
    check(shared.http.delete(where, headers=TUS), 404, "upload_not_found")


def test_the_protocol_is_told_and_held(shared: Fovea) -> None:
    told = httpx.options(f"{shared.url}/v1/uploads").headers
    assert told["tus-version"] == "1.0.0"
    assert set(told["tus-extension"].split(",")) == {"creation", "checksum", "expiration", "termination"}
    assert "sha1" in told["tus-checksum-algorithm"]
    old = shared.http.post("/v1/uploads", headers={"Tus-Resumable": "0.2.2", "Upload-Length": "3"})
    check(old, 412, "tus_version")
    assert old.headers["tus-version"] == "1.0.0"
    for length in ("", "-1", "a", "9" * 30):
        check(shared.http.post("/v1/uploads", headers={**TUS, "Upload-Length": length}), 400, "header_invalid")
    too_large = shared.http.post("/v1/uploads", headers={**TUS, "Upload-Length": str(10**15)})
    check(too_large, 413, "body_too_large")
    where = begin(shared, 10)
    check(patch(shared, where, 3, b"x"), 409, "offset_conflict")
    check(patch(shared, where, 0, b"x", **{"Content-Type": "text/plain"}), 415, "unsupported_media_type")
    check(patch(shared, where, 0, b"x" * 11), 413, "body_too_large")
    check(patch(shared, where, 0, iter([b"x" * 6, b"x" * 6])), 413, "body_too_large")
    check(patch(shared, "/v1/uploads/up_0", 0, b"x"), 404, "upload_not_found")
    check(patch(shared, "/v1/uploads/..%2f..%2ffovea.db", 0, b"x"), 404, "not_found")
    check(httpx.post(f"{shared.url}/v1/uploads", headers=TUS), 401, "unauthorized")


def test_a_piece_that_is_not_what_its_checksum_says_is_not_kept(shared: Fovea) -> None:
    where = begin(shared, 6)
    digest = {name: base64.b64encode(hashlib.new(name, b"abc").digest()).decode() for name in ("sha1", "sha256")}
    check(patch(shared, where, 0, b"abd", **{"Upload-Checksum": f"sha1 {digest['sha1']}"}), 460, "checksum_mismatch")
    check(patch(shared, where, 0, b"abc", **{"Upload-Checksum": "crc32 AAAA"}), 400, "checksum_invalid")
    assert offset(shared, where) == 0
    assert patch(shared, where, 0, b"abc", **{"Upload-Checksum": f"sha1 {digest['sha1']}"}).status_code == 204
    assert patch(shared, where, 3, b"abc", **{"Upload-Checksum": f"sha256 {digest['sha256']}"}).status_code == 204
    assert (shared.data / "uploads" / where.rpartition("/")[2]).read_bytes() == b"abcabc"
    override = {**TUS, "X-HTTP-Method-Override": "DELETE"}
    assert shared.http.post(where, headers=override).status_code == 204


def test_a_second_writer_is_kept_out_until_the_first_has_gone(shared: Fovea) -> None:
    where, go = begin(shared, 6), threading.Event()

    def slowly() -> Iterator[bytes]:
        yield b"abc"
        go.wait(30)
        yield b"def"

    first = threading.Thread(target=patch, args=(shared, where, 0, slowly()))
    first.start()
    deadline = time.monotonic() + 30
    file = shared.data / "uploads" / where.rpartition("/")[2]
    while file.stat().st_size < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    check(patch(shared, where, 0, b"x"), 423, "upload_locked")
    check(shared.http.delete(where, headers=TUS), 423, "upload_locked")
    go.set()
    first.join()
    assert offset(shared, where) == 6


def test_a_killed_server_keeps_what_it_acknowledged_and_more(fovea: Fovea) -> None:
    fovea.environment["FOVEA_UPLOAD_SECONDS"] = "3600"
    fovea.start("service")
    whole = bytes(range(256)) * (20 * MiB // 256)
    where = begin(fovea, len(whole))
    file = fovea.data / "uploads" / where.rpartition("/")[2]
    assert patch(fovea, where, 0, whole[:MiB]).status_code == 204

    def until_killed() -> Iterator[bytes]:
        for start in range(MiB, 18 * MiB, MiB):
            yield whole[start : start + MiB]
        deadline = time.monotonic() + 30
        while file.stat().st_size < 17 * MiB and time.monotonic() < deadline:
            time.sleep(0.05)
        fovea.end("service", number=signal.SIGKILL)

    with pytest.raises(httpx.TransportError):
        patch(fovea, where, MiB, until_killed())
    (fovea.data / "uploads/up_of_a_killed_request").write_bytes(b"zip")
    fovea.start("service")
    kept = offset(fovea, where)
    assert 9 * MiB <= kept <= 18 * MiB
    assert patch(fovea, where, kept, whole[kept:]).status_code == 204
    assert file.read_bytes() == whole
    assert [path.name for path in (fovea.data / "uploads").iterdir()] == [file.name]


def test_uploads_are_few_and_expire(fovea: Fovea) -> None:
    fovea.environment |= {"FOVEA_MAX_UPLOADS": "2", "FOVEA_UPLOAD_SECONDS": "2", "FOVEA_MAX_UPLOAD_BYTES": "1000"}
    fovea.start("service")
    begin(fovea, 1000)
    where = begin(fovea, 1000)
    assert patch(fovea, where, 0, b"x" * 300).status_code == 204
    storage = fovea.http.get("/v1/info").json()["storage"]
    assert (storage["uploads"], storage["archives"]) == (300, 0)
    assert storage["tables"] > 0
    assert storage["free"] > 0
    check(fovea.http.post("/v1/uploads", headers={**TUS, "Upload-Length": "1"}), 429, "too_many_uploads")
    check(fovea.http.post("/v1/uploads", headers={**TUS, "Upload-Length": "1001"}), 413, "body_too_large")
    time.sleep(2.1)
    check(patch(fovea, where, 0, b"x"), 404, "upload_not_found")
    begin(fovea, 1)  # the expired make place
    assert len(list((fovea.data / "uploads").iterdir())) == 1
    fovea.end("service")
    fovea.environment["FOVEA_DISK_RESERVE_BYTES"] = str(2**60)
    fovea.start("service", until="/livez")
    full = fovea.http.post("/v1/uploads", headers={**TUS, "Upload-Length": "1"})
    check(full, 507, "disk_full")
