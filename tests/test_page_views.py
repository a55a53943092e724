"""What each view of the page offers, tried as a newcomer would."""

import re

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from tests.browser import Visit, sign_in
from tests.conftest import Fovea, colours_zip, make_zip, png

LAYERS = [{"conv": {"filters": 4, "activation": "relu"}}, {"global_avg_pool": {}}]
SPEC = {"network": {"layers": LAYERS}, "image_size": 16, "batch_size": 16, "epochs": 1, "optimizer": {"lr": 1e-4}}
LONG = {**SPEC, "epochs": 10_000}
DROP = """([bytes, name, type]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(bytes)], name, { type }));
    return transfer;
}"""


@pytest.fixture(scope="module")
def known(visit: Visit) -> Visit:
    """Two versions of a poor model."""
    visit.fovea.dataset(colours_zip(), "colours")
    for seed in (1, 2):
        job = visit.fovea.wait(visit.fovea.train("poor", "colours", SPEC, seed=seed)["id"])
        assert job["status"] == "succeeded", job
    return visit


def test_a_newcomer_is_told_the_next_step_in_every_view(browser: Browser, fovea: Fovea) -> None:
    fovea.start("service")
    page = browser.new_page()
    sign_in(page, fovea)
    for view, title, target in (
        ("train", "Nothing to learn from yet", "#/datasets"),
        ("watch", "No jobs yet", "#/train"),
        ("judge", "No model yet", "#/train"),
        ("ask", "No model yet", "#/train"),
        ("serve", "No model to serve yet", "#/train"),
    ):
        page.goto(f"{fovea.url}/#/{view}")
        card = page.locator(".empty", has_text=title)
        expect(card.get_by_role("link")).to_have_attribute("href", target)
    page.goto(f"{fovea.url}/#/datasets")
    expect(page.locator(".empty")).to_contain_text("one folder per class")
    page.close()


def test_everything_is_reached_by_keyboard(known: Visit) -> None:
    page = known.page
    known.open("datasets", "Datasets")
    page.evaluate("document.activeElement.blur()")
    seen = []
    for _ in range(20):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.textContent.trim() || document.activeElement.id"))
    wanted = [
        "Skip to the content",
        "Datasets",
        "Train",
        "Serve",
        "Sign out",
        "dataset-name",
        "Choose a zip",
        "colours",
    ]
    assert [one for one in wanted if one not in seen] == [], seen
    page.get_by_role("link", name="Watch", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Watch")
    assert page.evaluate("document.activeElement.id") == "main"


def test_a_dropped_zip_is_reported_on(visit: Visit) -> None:
    page = visit.page
    visit.open("datasets", "Datasets")
    random = np.random.default_rng(0)
    pixels = [random.integers(0, 255, (12, 12, 3), dtype=np.uint8) for _ in range(6)]
    files = {f"{'ab'[k % 2]}/{k}.png": png(one) for k, one in enumerate(pixels)}
    files |= {"a/again.png": files["a/0.png"], "b/broken.png": b"\x89PNG\r\n\x1a\n", "notes.txt": b"hello"}
    body = [list(make_zip(files)), "dropped.zip", "application/zip"]
    page.locator(".drop").dispatch_event("drop", {"dataTransfer": page.evaluate_handle(DROP, body)})
    expect(page.locator(".badge").first).to_have_text("ready", timeout=60_000)
    expect(page.locator("h1")).to_have_text("dropped")
    found = visit.fovea.http.get("/v1/datasets/dropped/versions/1").json()["report"]
    page.get_by_text("Rejected (1)").click()
    row = page.locator("tr", has_text="b/broken.png")
    expect(row).to_contain_text(found["rejected"][0]["message"])
    expect(row).to_contain_text(found["rejected"][0]["hint"])
    expect(page.get_by_text(re.compile(r"^Duplicates \(1\)"))).to_be_visible()
    for warning in found["warnings"]:
        expect(page.get_by_text(warning["hint"]).first).to_be_visible()
    expect(page.locator(".bar-row")).to_have_count(2)


def test_a_training_is_paused_resumed_and_stopped(known: Visit) -> None:
    page, fovea = known.page, known.fovea
    job = fovea.train("long", "colours", LONG)["id"]
    fovea.wait_for(job, lambda now: (now["progress"] or {}).get("epoch", 0) >= 2)
    page.goto(f"{fovea.url}/#/watch/{job}")
    status = page.locator(".badge").first
    expect(page.get_by_text("Left", exact=True)).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(status).to_have_text("paused")
    page.get_by_role("button", name="Resume").click()
    expect(status).to_have_text("running")
    before = page.locator("path.line-0").first.get_attribute("d")
    expect(page.locator("path.line-0").first).not_to_have_attribute("d", before or "")  # live
    page.get_by_role("button", name="Stop and keep the best").click()
    expect(page.get_by_text("right on pictures it never saw")).to_be_visible()
    expect(page.get_by_text("stopped", exact=True)).to_be_visible()


def test_a_training_is_cancelled(known: Visit) -> None:
    page, fovea = known.page, known.fovea
    job = fovea.train("never", "colours", LONG)["id"]
    page.goto(f"{fovea.url}/#/watch/{job}")
    page.get_by_role("button", name="Cancel and throw away").click()
    expect(page.locator(".badge").first).to_have_text("cancelled")


def test_runs_are_compared(known: Visit) -> None:
    page = known.page
    known.open("watch", "Watch")
    boxes = page.get_by_role("checkbox", name=re.compile("Compare Train poor"))
    compare = page.get_by_role("button", name="Compare the curves")
    expect(compare).to_be_disabled()
    for index in range(2):
        boxes.nth(index).check()
    compare.click()
    expect(page.locator("h1")).to_have_text("Compare")
    expect(page.locator("tr", has_text="seed")).to_contain_text("2")
    expect(page.locator("figure.chart svg")).to_have_count(2)


def test_the_pictures_behind_a_cell_and_another_version(known: Visit) -> None:
    page = known.page
    known.open("judge/poor:2", "Judge")
    page.locator(".cell").first.click()
    expect(page.get_by_text(re.compile("taken for")).first).to_be_visible()
    page.locator(".thumbs .thumb").first.click()
    expect(page.locator("dialog.picture img")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog.picture")).to_have_count(0)
    page.select_option("#other-version", "poor:1")
    expect(page.get_by_text("points against poor:1")).to_be_visible()
    found = known.fovea.http.get("/v1/models/compare", params={"a": "poor:1", "b": "poor:2"}).json()
    better = page.locator(".facts div", has=page.get_by_text("Better now", exact=True)).locator("dd")
    expect(better).to_have_text(str(found["wrong_to_right"]))


def test_promises_are_shown_with_what_came_of_them(known: Visit) -> None:
    page = known.page
    known.open("judge/poor:2", "Judge")
    found = known.fovea.http.get("/v1/models/poor:2/evaluation").json()
    rows = page.get_by_role("region", name="Promises").locator("tbody tr")
    told = found["prediction_sets"] + found["out_of_distribution"]
    expect(rows).to_have_count(len(told))
    for row, one in zip(rows.all(), told, strict=True):
        expect(row.locator("td").nth(1)).to_have_text(f"{100 * one['empirical']['value']:.1f} %")
        expect(row.locator("td").last).to_have_text("kept" if one["kept"] else "not kept")


def test_a_pasted_picture_is_answered(known: Visit) -> None:
    page = known.page
    known.open("ask/poor", "Ask")
    pixels = np.full((16, 16, 3), (190, 40, 40), np.uint8)
    page.evaluate(
        f"(given) => document.dispatchEvent(new ClipboardEvent('paste', {{ clipboardData: ({DROP})(given) }}))",
        [list(png(pixels)), "pasted.png", "image/png"],
    )
    expect(page.locator(".answer h2")).to_contain_text("%")


def test_the_camera_is_asked(known: Visit) -> None:
    page = known.page
    page.context.grant_permissions(["camera"])
    known.open("ask/poor", "Ask")
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take the picture").click()
    expect(page.locator(".answer h2")).to_contain_text("%")
    expect(page.locator(".answer")).to_contain_text("camera.jpg")
    expect(page.locator("dialog")).to_have_count(0)


def test_on_a_phone_the_camera_is_its_own(browser: Browser, known: Visit) -> None:
    context = browser.new_context(has_touch=True, is_mobile=True, viewport={"width": 390, "height": 760})
    page = context.new_page()
    sign_in(page, known.fovea)
    page.goto(f"{known.fovea.url}/#/ask/poor")
    expect(page.locator("input[capture=environment]")).to_be_attached()
    for view in ("datasets", "train", "watch", "judge/poor", "serve"):
        page.goto(f"{known.fovea.url}/#/{view}")
        page.wait_for_timeout(700)
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), view
    context.close()


def test_a_key_is_made_shown_once_and_revoked(known: Visit) -> None:
    page = known.page
    known.open("serve", "Serve")
    page.fill("#key-name", "<i>app</i>")
    page.get_by_role("button", name="Make the key").click()
    key = page.get_by_label("New key", exact=True).text_content() or ""
    headers = {"Authorization": f"Bearer {key}"}
    assert known.fovea.http.get("/v1/models", headers=headers).status_code == 200
    assert known.fovea.http.get("/v1/keys", headers=headers).status_code == 403
    page.reload()
    expect(page.get_by_text("<i>app</i>")).to_be_visible()
    expect(page.get_by_text(key)).to_have_count(0)
    page.get_by_role("button", name="Revoke <i>app</i>").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("revoked", exact=True)).to_be_visible()
    assert known.fovea.http.get("/v1/models", headers=headers).status_code == 401
    for name in ("Health", "On the disk"):
        expect(page.get_by_role("heading", name=name)).to_be_visible()
