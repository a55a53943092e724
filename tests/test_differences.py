"""Two versions of a dataset are compared by their pictures."""

import numpy as np
import pytest
from playwright.sync_api import expect

from service.api import examples
from tests.browser import Visit
from tests.conftest import Fovea, make_zip, png

PICTURES = [png(np.full((8, 8, 3), 20 * k, np.uint8)) for k in range(12)]


def split_zip(places: dict[str, int]) -> bytes:
    return make_zip({path: PICTURES[k] for path, k in places.items()})


SPLITS = ("train", "train", "train", "train", "val", "val", "test", "test")
FIRST = {f"{split}/{'ab'[k % 2]}/{k}.png": k for k, split in enumerate(SPLITS)}
SECOND = {path: k for path, k in FIRST.items() if k not in (0, 1, 6)} | {
    "train/b/0.png": 0,  # relabelled
    "train/a/six.png": 6,  # moved, and renamed
    "train/a/8.png": 8,  # added
    "test/a/9.png": 9,  # added
}


@pytest.fixture(scope="module")
def two(shared: Fovea) -> Fovea:
    shared.dataset(split_zip(FIRST), "two")
    head = {"Content-Type": "application/zip"}
    pushed = shared.http.post("/v1/datasets/two/versions", content=split_zip(SECOND), headers=head).json()
    assert shared.wait(pushed["job"]["id"])["status"] == "succeeded"
    return shared


def test_added_removed_relabelled_and_moved_pictures_are_told(two: Fovea) -> None:
    found = two.http.get("/v1/datasets/two/compare", params={"from": 1, "to": 2}).json()
    assert set(found) == set(examples.DIFFERENCES)
    assert found["pictures"] == {"from": 8, "to": 9, "both": 7}
    assert found["counts"] == {"added": 2, "removed": 1, "relabelled": 1, "moved": 1}
    assert [row["path"] for row in found["added"]] == ["test/a/9.png", "train/a/8.png"]
    assert [row["path"] for row in found["removed"]] == ["train/b/1.png"]
    (relabelled,), (moved,) = found["relabelled"], found["moved"]
    assert (relabelled["path"], relabelled["from"], relabelled["to"]) == ("train/b/0.png", "a", "b")
    assert (moved["path"], moved["from"], moved["to"]) == ("train/a/six.png", "test", "train")
    back = two.http.get("/v1/datasets/two/compare", params={"from": 2, "to": 1, "limit": 1}).json()
    assert back["counts"] == {"added": 1, "removed": 2, "relabelled": 1, "moved": 1}
    assert len(back["removed"]) == 1


def test_only_ready_versions_are_compared(two: Fovea) -> None:
    for params, status in (({"from": 1, "to": 3}, 404), ({"from": 1}, 422), ({"from": 0, "to": 1}, 422)):
        assert two.http.get("/v1/datasets/two/compare", params=params).status_code == status
    two.end("workers")
    body = {"content": split_zip(FIRST), "headers": {"Content-Type": "application/zip"}}
    assert two.http.post("/v1/datasets/two/versions", **body).status_code == 202
    early = two.http.get("/v1/datasets/two/compare", params={"from": 1, "to": 3})
    assert (early.status_code, early.json()["code"]) == (409, "dataset_not_ready")


def test_the_page_shows_what_is_new(two: Fovea, visit: Visit) -> None:
    visit.open("dataset/two/2", "two")
    visit.page.get_by_label("Other version").select_option("1")
    expect(visit.page.get_by_role("heading", name="Removed")).to_be_visible()
    expect(visit.page.get_by_role("button", name="train/b/0.png: a → b")).to_be_visible()
    expect(visit.page.get_by_role("button", name="train/a/six.png: test → train")).to_be_visible()
    assert visit.complaints == []
