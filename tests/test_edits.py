"""A dataset's next version by relabelling, moving and removing single pictures, and no picture read again."""

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.api import examples
from service.db import Database
from service.db.tables import DatasetVersion, Item
from service.settings import Settings
from tests.conftest import Fovea, make_zip, png
from tests.test_multilabel import lights_zip

PICTURES = [png(np.random.default_rng(k).integers(0, 255, (12, 12, 3), dtype=np.uint8)) for k in range(40)]
PLACES = {f"{'ab'[k % 2]}/{('train', 'train', 'train', 'val', 'test')[k // 2 % 5]}/{k:02}.png": k for k in range(40)}


def places_zip(places: dict[str, int]) -> bytes:
    return make_zip({path: PICTURES[k] for path, k in places.items()})


@pytest.fixture(scope="module")
def letters(shared: Fovea) -> Fovea:
    shared.dataset(places_zip(PLACES), "letters")
    return shared


def items(fovea: Fovea, name: str = "letters", number: int = 1, **filters: Any) -> list[dict]:
    where = f"/v1/datasets/{name}/versions/{number}/items"
    return fovea.http.get(where, params={"limit": 1000, **filters}).json()["data"]


def edit(fovea: Fovea, *changes: Any, name: str = "letters", number: int = 1, **more: Any) -> httpx.Response:
    return fovea.http.post(f"/v1/datasets/{name}/versions/{number}:edit", json={"changes": changes}, **more)


def relabel(item: dict, label: str) -> dict:
    return {"image": item["image"], "action": "relabel", "label": label}


def problem(answer: httpx.Response, status: int, code: str, param: str | None = None) -> dict:
    assert answer.status_code == status, answer.text
    found = answer.json()
    assert (found["code"], found["param"]) == (code, param)
    return found


def test_relabel_move_and_remove_make_the_next_version_and_leave_the_old_one(letters: Fovea) -> None:
    before, old = items(letters), letters.http.get("/v1/datasets/letters/versions/1").json()
    wrong, gone, moved = (next(one for one in before if one["split"] == split) for split in ("train", "val", "test"))
    answer = edit(
        letters,
        relabel(wrong, "b"),
        {"image": gone["image"], "action": "remove"},
        {"image": moved["image"], "action": "move", "split": "train"},
    )
    assert answer.status_code == 201, answer.text
    version = answer.json()
    assert version.keys() == examples.EDITED.keys()
    assert version["report"].keys() == examples.EDITED["report"].keys()
    assert answer.headers["location"] == f"/v1/datasets/letters/versions/{version['number']}"
    assert letters.http.get(answer.headers["location"]).json() == version
    assert (version["status"], version["image_count"]) == ("ready", 39)
    assert version["report"]["edited"] == {"from": 1, "relabelled": 1, "moved": 1, "removed": 1}
    after = {one["image"]: one for one in items(letters, number=version["number"])}
    expected = {one["image"]: dict(one) for one in before}
    del expected[gone["image"]]
    expected[wrong["image"]] |= {"label": "b", "labels": ["b"]}
    expected[moved["image"]]["split"] = "train"
    assert after == expected
    assert list(after) == list(expected), "in the same order"
    for name in ("train", "val", "test"):
        assert version["splits"][name] == sum(one["split"] == name for one in after.values())
    assert items(letters) == before
    assert letters.http.get("/v1/datasets/letters/versions/1").json() == old
    picture = letters.http.get(f"{answer.headers['location']}/items/{moved['image']}")
    assert picture.content == PICTURES[PLACES[moved["path"]]]
    found = letters.http.get(f"/v1/datasets/letters/compare?from=1&to={version['number']}").json()
    assert found["counts"] == {"added": 0, "removed": 1, "relabelled": 1, "moved": 1}


def test_the_same_content_has_the_same_digest_however_it_came_about(letters: Fovea) -> None:
    wrong, gone = items(letters, label="a", split="train")[:2]
    edited = edit(letters, relabel(wrong, "b"), {"image": gone["image"], "action": "remove"}).json()
    places = {path: k for path, k in PLACES.items() if path != gone["path"]}
    places["b" + wrong["path"][1:]] = places.pop(wrong["path"])
    uploaded = letters.dataset(places_zip(places), "uploaded")
    for key in ("digest", "classes", "splits", "image_count"):
        assert edited[key] == uploaded[key], key
    back = edit(letters, relabel(wrong, "a"), number=edited["number"]).json()
    assert back["digest"] not in (
        edited["digest"],
        letters.http.get("/v1/datasets/letters/versions/1").json()["digest"],
    )


def test_a_new_name_makes_a_class_and_an_emptied_one_is_gone(letters: Fovea) -> None:
    every = items(letters, label="a")
    version = edit(letters, *(relabel(one, "ä" if k % 2 else "c") for k, one in enumerate(every))).json()
    assert [row["name"] for row in version["classes"]] == ["b", "c", "ä"]
    decomposed = edit(letters, relabel(items(letters, label="b")[0], "a\u0308"), number=version["number"]).json()
    assert [row["name"] for row in decomposed["classes"]] == ["b", "c", "ä"], "one name, however it is typed"


def test_a_repeated_request_makes_one_version(letters: Fovea) -> None:
    change, key = relabel(items(letters)[0], "b"), {"Idempotency-Key": "edit-once"}
    first, again = (edit(letters, change, headers=key) for _ in range(2))
    assert (first.status_code, first.content) == (201, again.content)
    assert edit(letters, change, headers=key, number=2).json()["code"] == "idempotency_key_reused"


def test_an_edit_needs_the_scope_of_data(letters: Fovea) -> None:
    change = relabel(items(letters)[0], "b")
    for scope, status in (("predict", 403), ("train", 403), ("data", 201)):
        key = letters.http.post("/v1/keys", json={"name": scope, "scopes": [scope]}).json()["key"]
        assert edit(letters, change, headers={"Authorization": f"Bearer {key}"}).status_code == status


def test_what_cannot_be_done_is_named_with_its_place(letters: Fovea) -> None:
    a, b, *_ = items(letters, label="a")
    good, remove = relabel(a, "b"), {"image": b["image"], "action": "remove"}
    before = letters.http.get("/v1/datasets/letters").json()["versions"]

    problem(edit(letters), 422, "invalid_value", "/changes")
    problem(edit(letters, *[good] * 5001), 422, "invalid_value", "/changes")
    problem(edit(letters, good, relabel({"image": "0" * 64}, "b")), 422, "image_not_found", "/changes/1/image")
    problem(edit(letters, relabel({"image": "a.png"}, "b")), 422, "invalid_value", "/changes/0/image")
    problem(edit(letters, good, remove, {**remove}), 422, "picture_changed_twice", "/changes/2/image")
    problem(edit(letters, {**remove, "action": "burn"}), 422, "invalid_value", "/changes/0/action")
    problem(edit(letters, {**remove, "action": "move"}), 422, "invalid_value", "/changes/0/split")
    problem(edit(letters, {**remove, "action": "move", "split": "dev"}), 422, "invalid_value", "/changes/0/split")
    problem(edit(letters, {**remove, "label": "b"}), 422, "unknown_field", "/changes/0/label")
    problem(edit(letters, {**remove, "why": "b"}), 422, "unknown_field", "/changes/0/why")
    problem(edit(letters, {**remove, "action": "relabel"}), 422, "invalid_value", "/changes/0/labels")
    problem(edit(letters, {**good, "labels": ["b"]}), 422, "invalid_value", "/changes/0/labels")
    for labels in ([], ["a", "b"]):
        change = {**remove, "action": "relabel", "labels": labels}
        problem(edit(letters, change), 422, "several_labels", "/changes/0/labels")
    for label in ("", " b", "a;b", "a\nb", "\u202eb", "\u200bb", "x" * 201, "\ud800", "\0"):
        answer = letters.http.post(
            "/v1/datasets/letters/versions/1:edit",
            content=_json({"changes": [relabel(a, label)]}),
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == 422, (label, answer.text)
        assert answer.json()["param"] == "/changes/0/label"
    problem(edit(letters, relabel(a, "a")), 422, "nothing_changes", "/changes")
    problem(edit(letters, good, number=99), 404, "version_not_found")
    problem(edit(letters, good, number=-1), 404, "version_not_found")
    problem(edit(letters, good, number=10**30), 404, "version_not_found")
    problem(edit(letters, good, name="nobody"), 404, "dataset_not_found")
    assert letters.http.get("/v1/datasets/letters").json()["versions"] == before


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()  # httpx would refuse a lone surrogate


def test_an_edit_that_leaves_too_little_is_refused(letters: Fovea) -> None:
    every = items(letters)
    a = [one for one in every if one["label"] == "a"]
    remove = [{"image": one["image"], "action": "remove"} for one in every]
    problem(edit(letters, *remove), 422, "too_few_classes", "/changes")
    problem(edit(letters, *(relabel(one, "b") for one in a)), 422, "too_few_classes", "/changes")
    problem(edit(letters, relabel(a[0], "c")), 422, "class_too_small", "/changes/0")
    tested = [{"image": one["image"], "action": "move", "split": "train"} for one in every if one["split"] == "test"]
    found = problem(edit(letters, *tested), 422, "split_empty", f"/changes/{len(tested) - 1}")
    assert "test" in found["detail"]
    learned = [{"image": one["image"], "action": "move", "split": "val"} for one in a if one["split"] == "train"]
    problem(edit(letters, *learned), 422, "class_not_in_train", f"/changes/{len(learned) - 1}")
    judged = [relabel(one, "c") for one in a if one["split"] != "train"]
    problem(edit(letters, *judged), 422, "class_not_in_train", f"/changes/{len(judged) - 1}")


def test_several_labels_are_given_and_taken(shared: Fovea) -> None:
    shared.dataset(lights_zip(), "lights")
    first, second, third = items(shared, "lights")[:3]
    names = [row["name"] for row in shared.http.get("/v1/datasets/lights/versions/1").json()["classes"]]

    def change(item: dict, **more: Any) -> dict:
        return {"image": item["image"], "action": "relabel", **more}

    answer = edit(
        shared,
        change(first, labels=names[::-1]),
        change(second, labels=[]),
        change(third, label=names[0]),
        name="lights",
    )
    assert answer.status_code == 201, answer.text
    after = {one["image"]: one["labels"] for one in items(shared, "lights", 2)}
    assert [after[one["image"]] for one in (first, second, third)] == [names, [], names[:1]]
    counts = {row["name"]: row["count"] for row in answer.json()["classes"]}
    assert counts == {name: sum(name in labels for labels in after.values()) for name in names}
    param = "/changes/0/labels/1"
    problem(edit(shared, change(first, labels=[names[0], "a;b"]), name="lights"), 422, "invalid_label", param)


def test_alike_pictures_that_a_move_tears_apart_are_a_leak(shared: Fovea) -> None:
    again = {f"a/again{k}.png": k for k in (0, 2)}  # copies in one split, for they were kept together
    flat = {f"{path[0]}/{k}.png": k for path, k in PLACES.items()}
    first = shared.dataset(places_zip({**flat, **again}), "twins")
    assert (len(first["report"]["duplicates"]), first["report"]["leaks"]) == (2, [])
    twins = [one for one in items(shared, "twins") if one["path"] == "a/0.png"]
    here = twins[0]["split"]
    there = "val" if here == "train" else "train"
    # a change is for the picture, so its copy goes with it
    version = edit(shared, {"image": twins[0]["image"], "action": "move", "split": there}, name="twins").json()
    assert version["report"]["edited"]["moved"] == 2
    assert version["report"]["leaks"] == []
    gone = edit(shared, {"image": twins[0]["image"], "action": "remove"}, name="twins").json()
    assert len(gone["report"]["duplicates"]) == 1


def test_packed_pixels_are_linked_or_copied_and_never_decoded_again(fovea: Fovea) -> None:
    fovea.start()
    fovea.dataset(places_zip(PLACES), "letters")
    one, two = items(fovea, label="a", split="train")[:2]
    relabelled = edit(fovea, relabel(one, "b")).json()
    smaller = edit(fovea, {"image": two["image"], "action": "remove"}, number=2).json()
    for archive in (fovea.data / "archives").glob("*/*.zip"):
        archive.chmod(0)
        archive.rename(archive.with_suffix(".away"))  # whoever wants to decode a picture now cannot
    layers = [{"conv": {"filters": 4}}, {"max_pool": 4}]
    spec = {"network": {"layers": layers}, "epochs": 1, "image_size": 32, "batch_size": 8}
    for number in (2, 3):
        job = fovea.wait(fovea.train("m", f"letters@{number}", spec)["id"])
        assert job["status"] == "succeeded", job
    old, same, fewer = (
        fovea.data / "cache" / f"{version['id']}-32.npy"
        for version in (fovea.http.get("/v1/datasets/letters/versions/1").json(), relabelled, smaller)
    )
    assert old.samefile(same), "only rows differ: it is the same file under two names"
    rows = [k for k, item in enumerate(items(fovea)) if item["image"] != two["image"]]
    assert np.array_equal(np.load(fewer), np.load(old)[rows])


def test_an_edit_of_a_dataset_that_shares_its_archive_outlives_the_other(fovea: Fovea) -> None:
    fovea.start()
    fovea.dataset(places_zip(PLACES), "letters")
    fovea.dataset(places_zip(PLACES), "others")
    item = items(fovea)[0]
    assert edit(fovea, relabel(item, "b"), name="others").status_code == 201
    assert fovea.http.delete("/v1/datasets/letters").status_code == 204
    assert fovea.http.get(f"/v1/datasets/others/versions/2/items/{item['image']}").status_code == 200
    assert fovea.http.delete("/v1/datasets/others").status_code == 204
    assert list(fovea.data.glob("archives/*/*.zip")) == list((fovea.data / "cache").iterdir()) == []


def test_killed_at_any_moment_it_loses_nothing_acknowledged_and_leaves_no_half_version(fovea: Fovea) -> None:
    fovea.start()
    fovea.dataset(places_zip(PLACES), "letters")
    a, b = (items(fovea, label=label) for label in "ab")
    told: list[int] = []

    def send() -> None:
        with httpx.Client(base_url=fovea.url, headers=fovea.http.headers, timeout=30) as client:
            for k in range(200):
                change = relabel(a[k % 8 + 1], "b") if k % 2 else relabel(b[k % 8], "a")
                try:
                    answer = client.post("/v1/datasets/letters/versions/1:edit", json={"changes": [change]})
                except httpx.TransportError:
                    return
                told.append(answer.json()["number"])

    sender = threading.Thread(target=send)
    sender.start()
    while len(told) < 12:
        assert sender.is_alive()
        sender.join(0.02)
    fovea.end("service", number=signal.SIGKILL)
    sender.join()
    assert told == list(range(2, len(told) + 2))
    fovea.start("service")
    versions = fovea.http.get("/v1/datasets/letters/versions?limit=1000").json()["data"]
    assert {row["number"] for row in versions} >= set(told)
    assert {row["status"] for row in versions} == {"ready"}
    assert all(len(items(fovea, number=row["number"])) == row["image_count"] == 40 for row in versions)


@pytest.fixture(scope="module")
def database(letters: Fovea) -> Iterator[Database]:
    with letters.database() as opened:
        yield opened


change = st.fixed_dictionaries(
    {"image": st.integers(0, 41), "action": st.sampled_from(["relabel", "move", "remove"])},
    optional={
        "label": st.sampled_from(["a", "b", "new", "a;b", " "]) | st.text(max_size=4),
        "labels": st.lists(st.sampled_from(["a", "b", "new"]), max_size=2),
        "split": st.sampled_from(["train", "val", "test", "dev"]),
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(change, max_size=24))
def test_any_edit_makes_a_whole_version_or_a_problem_with_its_place(
    letters: Fovea, database: Database, changes: list[dict]
) -> None:
    images = [one["image"] for one in items(letters)] + ["f" * 64, "?"]
    sent = [{**one, "image": images[one["image"]]} for one in changes]
    answer = letters.http.post(
        "/v1/datasets/letters/versions/1:edit",
        content=_json({"changes": sent}),
        headers={"Content-Type": "application/json"},
    )
    if answer.status_code == 422:
        assert answer.json()["param"].startswith("/changes")
        return
    assert answer.status_code == 201, answer.text
    version = answer.json()
    with database.read() as session:
        rows = session.query(Item).filter_by(version_id=version["id"]).order_by(Item.ordinal).all()
        assert [row.ordinal for row in rows] == list(range(version["image_count"]))
        assert session.get_one(DatasetVersion, version["id"]).image_size == 32
    assert sum(version["splits"].values()) == sum(row["count"] for row in version["classes"]) == len(rows)
    assert min(row["count"] for row in version["classes"]) >= 2
    assert min(version["splits"].values()) >= 1
    assert {row.label for row in rows} == {row["name"] for row in version["classes"]}


def test_settings_leave_room_for_the_largest_edit(tmp_path: Path) -> None:
    one = {"image": "0" * 64, "action": "relabel", "label": "a name of some length, as classes have"}
    assert len(_json({"changes": [one] * 5000})) < Settings(data=tmp_path).max_body_bytes
