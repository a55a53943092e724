"""On the page: pictures are selected and changed, wrong labels are found and put right, by mouse and by keyboard."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser import Visit
from tests.test_multilabel import lights_zip
from tests.test_suspects import FLIPPED, flipped_zip


@pytest.fixture(scope="module")
def truth(visit: Visit) -> dict[str, str]:
    body, truth = flipped_zip()
    visit.fovea.dataset(body, "shapes")
    return truth


def newest(visit: Visit, name: str = "shapes") -> dict:
    return visit.fovea.http.get(f"/v1/datasets/{name}/versions").json()["data"][0]


def serious(visit: Visit) -> list[tuple[str, str]]:
    faults = Axe().run(visit.page).response["violations"]
    return [
        (fault["id"], node["html"])
        for fault in faults
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


def test_selected_pictures_are_relabelled_moved_and_removed(visit: Visit, truth: dict[str, str]) -> None:
    page = visit.page
    visit.open("dataset/shapes/1", "shapes")
    thumbs = page.locator(".gallery .thumb")
    expect(thumbs.first).to_be_visible()
    page.get_by_role("button", name="Select pictures").click()
    expect(page.get_by_role("button", name="Remove", exact=True).last).to_be_disabled()
    thumbs.nth(0).click()
    thumbs.nth(1).click()
    thumbs.nth(1).click()
    expect(page.get_by_text("1 picture selected")).to_be_visible()
    page.get_by_label("Label, also a new one").fill("bars")
    page.get_by_role("button", name="Relabel").click()
    expect(page.get_by_text("1 picture to relabel.")).to_be_visible()
    expect(thumbs.nth(0)).to_contain_text("→ bars")
    thumbs.nth(2).click()
    thumbs.nth(3).click()
    page.locator(".tools").get_by_role("button", name="Remove").click()
    thumbs.nth(4).focus()
    page.keyboard.press("Space")
    page.get_by_label("Split").last.select_option("test")
    page.get_by_role("button", name="Move", exact=True).press("Enter")
    thumbs.nth(3).click()
    page.get_by_role("button", name="As it was").click()
    expect(page.get_by_text("1 picture to relabel, 1 picture to move, 1 picture to remove.")).to_be_visible()
    assert serious(visit) == []
    items = visit.fovea.http.get("/v1/datasets/shapes/versions/1/items?limit=5").json()["data"]
    page.get_by_role("button", name="Make the next version").click()
    expect(page.get_by_text("Version 1 with changes")).to_be_visible()
    version = newest(visit)
    moved = int(items[4]["split"] != "test")
    assert version["report"]["edited"] == {"from": 1, "relabelled": 1, "moved": moved, "removed": 1}
    found = visit.fovea.http.get(f"/v1/datasets/shapes/versions/{version['number']}/items?limit=5").json()["data"]
    assert (found[0]["image"], found[0]["label"]) == (items[0]["image"], "bars")
    assert items[2]["image"] not in {one["image"] for one in found}
    assert visit.complaints == []


def test_an_impossible_edit_says_why_and_keeps_what_was_chosen(visit: Visit, truth: dict[str, str]) -> None:
    page = visit.page
    visit.open("dataset/shapes/1", "shapes")
    page.get_by_role("button", name="Select pictures").click()
    page.locator(".gallery .thumb").first.click()
    page.get_by_label("Label, also a new one").fill("a class of its own")
    page.get_by_role("button", name="Relabel").click()
    expect(page.get_by_text("what is new in version")).to_be_visible()
    page.get_by_role("button", name="Make the next version").click()
    expect(page.locator(".changes [role=alert]")).to_contain_text("would have one picture")
    page.get_by_role("button", name="Forget them").click()
    expect(page.locator(".changes")).to_be_hidden()
    visit.complaints[:] = [one for one in visit.complaints if "status of 422" not in one]


def test_wrong_labels_are_looked_for_and_put_right(visit: Visit, truth: dict[str, str]) -> None:
    page, before = visit.page, newest(visit)["number"]
    visit.open("dataset/shapes/1", "shapes")
    page.get_by_role("button", name="Look for wrong labels").click()
    rows = page.locator(".suspects li")
    expect(rows.first).to_be_visible(timeout=120_000)
    expect(rows.first).to_contain_text("Improbable label")
    assert rows.count() >= FLIPPED
    rows.nth(0).get_by_role("button", name="Accept").click()
    expect(rows.nth(0)).to_contain_text("accepted")
    rows.nth(1).get_by_role("button", name="Accept").press("Enter")
    rows.nth(2).get_by_role("button", name="Remove").click()
    rows.nth(1).get_by_role("button", name="Keep").click()
    expect(rows.nth(1)).to_contain_text("kept as it is")
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")  # no colour halfway to another
        assert serious(visit) == []
    first = visit.fovea.http.get("/v1/datasets/shapes/versions/1/suspects?limit=1").json()["data"][0]
    page.get_by_role("button", name="Make the next version").click()
    expect(page.get_by_text("1 relabelled, 1 removed")).to_be_visible()
    version = newest(visit)
    assert version["number"] == before + 1
    items = visit.fovea.http.get(f"/v1/datasets/shapes/versions/{before + 1}/items?limit=1000").json()["data"]
    assert next(one for one in items if one["image"] == first["image"])["label"] == first["suggested"]
    visit.open("dataset/shapes/1", "shapes")  # what was found is kept
    expect(page.locator(".suspects li").first).to_be_visible()
    expect(page.get_by_role("button", name="Look again")).to_be_visible()
    assert visit.complaints == []


def test_pictures_of_several_labels_get_several(visit: Visit) -> None:
    visit.fovea.dataset(lights_zip(), "lights")
    page, names = visit.page, [row["name"] for row in newest(visit, "lights")["classes"]]
    visit.open("dataset/lights", "lights")
    page.get_by_role("button", name="Select pictures").click()
    page.locator(".gallery .thumb").first.click()
    page.get_by_label("Labels, with ; between them").fill(f" {names[1]} ;{names[0]}")
    page.get_by_role("button", name="Relabel").click()
    page.get_by_role("button", name="Make the next version").click()
    expect(page.get_by_text("Version 1 with changes")).to_be_visible()
    item = visit.fovea.http.get("/v1/datasets/lights/versions/2/items?limit=1").json()["data"][0]
    assert item["labels"] == sorted(names[:2])
    assert visit.complaints == []
