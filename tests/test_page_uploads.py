"""An upload on the page goes on after the service was killed, after a reload, and after both."""

import io
import re
import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser import Visit, sign_in
from tests.conftest import KEY, Fovea, make_zip

SIDE = 640  # px: 1.2 MB a picture as it is
PIECE = 4 * 1024**2  # bytes, as the page sends them
NOTHING_KEPT = """
    const put = IDBObjectStore.prototype.put;
    IDBObjectStore.prototype.put = function (...given) {
        if (this.name === "bytes") throw new DOMException("full", "QuotaExceededError");
        return put.apply(this, given);
    };
"""


def noise(seed: int = 0) -> dict[str, bytes]:
    random = np.random.default_rng(seed)
    pictures = (random.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(12))
    return {f"{'ab'[k % 2]}/{k}.bmp": bmp(pixels) for k, pixels in enumerate(pictures)}


def bmp(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "bmp")
    return buffer.getvalue()


def large_zip(seed: int = 0) -> bytes:
    return make_zip(noise(seed), zipfile.ZIP_STORED)


def on_disk(fovea: Fovea) -> int:
    return sum(path.stat().st_size for path in (fovea.data / "uploads").glob("*"))


def slow(page: Page, per_second: int = 4_000_000) -> None:
    limits = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": per_second}
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", limits)


def zip_file(body: bytes) -> dict:
    return {"name": "large.zip", "mimeType": "application/zip", "buffer": body}


def until_on_disk(page: Page, fovea: Fovea, least: int = 5_500_000) -> None:
    """By default until some of the second piece has arrived."""
    for _ in range(600):
        if on_disk(fovea) > least:
            return
        page.wait_for_timeout(50)
    raise AssertionError(on_disk(fovea))


def watch_offsets(page: Page) -> list[int]:
    offsets: list[int] = []
    page.on("request", lambda asked: asked.method == "PATCH" and offsets.append(int(asked.headers["upload-offset"])))
    return offsets


def begin(page: Page, fovea: Fovea, name: str, body: bytes) -> None:
    """Signed in, and in the middle of the second piece."""
    sign_in(page, fovea)
    expect(page.locator("h1")).to_have_text("Datasets")
    slow(page)
    page.fill("#dataset-name", name)
    page.set_input_files("#zip-file", zip_file(body))
    until_on_disk(page, fovea)


@pytest.fixture
def fresh(browser: Browser, shared: Fovea) -> Page:
    """A page of a browser that remembers nothing."""
    page = browser.new_context().new_page()
    page.set_default_timeout(60_000)
    yield page
    page.context.close()
    for row in shared.http.get("/v1/uploads").json().get("data", []):
        shared.http.delete(f"/v1/uploads/{row['id']}", headers={"Tus-Resumable": "1.0.0"})


def test_an_upload_goes_on_after_the_service_was_killed(visit: Visit) -> None:
    page, fovea, body = visit.page, visit.fovea, large_zip()
    assert len(body) > 12_000_000
    visit.open("datasets", "Datasets")
    slow(page)
    page.fill("#dataset-name", "large")
    page.set_input_files("#zip-file", zip_file(body))
    expect(page.get_by_text("/s,")).to_contain_text("MB of")
    until_on_disk(page, fovea)
    fovea.end("service", number=signal.SIGKILL)
    expect(page.get_by_text("The connection is broken")).to_be_visible()
    assert on_disk(fovea) < len(body)
    offsets = watch_offsets(page)
    fovea.start("service")
    expect(page.locator(".badge")).to_have_text("ready", timeout=90_000)
    assert offsets[0] >= PIECE  # what was acknowledged is not sent again
    assert fovea.http.get("/v1/datasets/large/versions/1").json()["image_count"] == 12
    assert list((fovea.data / "uploads").iterdir()) == []


def test_after_a_reload_the_page_goes_on_with_what_the_browser_kept(fresh: Page, shared: Fovea) -> None:
    begin(fresh, shared, "reloaded", large_zip(1))
    fresh.reload()
    expect(fresh.get_by_text("reloaded:")).to_contain_text("have arrived")
    offsets = watch_offsets(fresh)
    fresh.get_by_role("button", name="Go on").click()
    expect(fresh.locator(".badge")).to_have_text("ready", timeout=90_000)
    assert offsets[0] >= PIECE
    assert shared.http.get("/v1/datasets/reloaded/versions/1").json()["image_count"] == 12
    fresh.goto(f"{shared.url}/#/datasets")
    expect(fresh.get_by_role("link", name="reloaded", exact=True)).to_be_visible()
    expect(fresh.get_by_text("An upload was interrupted")).to_have_count(0)


def test_a_browser_that_keeps_nothing_asks_for_the_same_file(fresh: Page, shared: Fovea) -> None:
    body = large_zip(2)
    fresh.add_init_script(NOTHING_KEPT)
    begin(fresh, shared, "chosen", body)
    shared.end("service", number=signal.SIGKILL)
    shared.start("service")
    fresh.reload()
    expect(fresh.get_by_text("Your browser has not kept")).to_be_visible()
    again = fresh.get_by_label("Choose large.zip again").and_(fresh.locator("input"))
    again.set_input_files(zip_file(large_zip(3)))
    expect(fresh.locator("[role=alert]")).to_contain_text("This is not what was being sent")
    offsets = watch_offsets(fresh)
    again.set_input_files(zip_file(body))
    expect(fresh.locator(".badge")).to_have_text("ready", timeout=90_000)
    assert offsets[0] >= PIECE
    assert shared.http.get("/v1/datasets/chosen/versions/1").json()["image_count"] == 12


def test_a_folder_goes_on_too_and_dropping_the_same_again_is_going_on(
    fresh: Page, shared: Fovea, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    for name, data in noise(4).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    fresh.add_init_script(NOTHING_KEPT)
    sign_in(fresh, shared)
    expect(fresh.locator("h1")).to_have_text("Datasets")
    slow(fresh)
    fresh.set_input_files("#folder", folder)
    until_on_disk(fresh, shared)
    fresh.reload()
    expect(fresh.get_by_text("Your browser has not kept")).to_be_visible()
    offsets = watch_offsets(fresh)
    fresh.set_input_files("#folder", folder)
    expect(fresh.locator(".badge")).to_have_text("ready", timeout=90_000)
    assert offsets[0] >= PIECE
    assert shared.http.get("/v1/datasets/photos/versions/1").json()["image_count"] == 12


def test_other_views_can_be_looked_at_meanwhile(fresh: Page, shared: Fovea) -> None:
    begin(fresh, shared, "meanwhile", large_zip(5))
    fresh.get_by_role("link", name="Serve", exact=True).click()
    expect(fresh.locator("h1")).to_have_text("Serve")
    fresh.get_by_role("link", name="Datasets", exact=True).click()
    expect(fresh.get_by_text("/s,")).to_contain_text("MB of")
    fresh.get_by_role("link", name="Serve", exact=True).click()
    expect(fresh.get_by_text("The pictures of meanwhile have arrived.")).to_be_visible(timeout=90_000)


def test_throwing_away_and_signing_out_leave_nothing(fresh: Page, shared: Fovea) -> None:
    begin(fresh, shared, "thrown", large_zip(6))
    fresh.reload()
    fresh.get_by_role("button", name="Throw it away").click()
    expect(fresh.get_by_text("An upload was interrupted")).to_have_count(0)
    assert list((shared.data / "uploads").iterdir()) == []

    fresh.fill("#dataset-name", "signed-out")
    slow(fresh)
    fresh.set_input_files("#zip-file", zip_file(large_zip(7)))
    until_on_disk(fresh, shared)
    fresh.click("#sign-out")
    expect(fresh.locator("h1")).to_have_text("Sign in")
    assert list((shared.data / "uploads").iterdir()) == []
    fresh.fill("input[type=password]", KEY)
    fresh.get_by_role("button", name="Sign in").click()
    expect(fresh.locator("h1")).to_have_text("Datasets")
    fresh.wait_for_timeout(500)
    expect(fresh.get_by_text("An upload was interrupted")).to_have_count(0)
    kept = fresh.evaluate(
        """async () => {
            const { all } = await import("/static/pending.js");
            return (await all()).length;
        }"""
    )
    assert kept == 0


def test_what_is_too_old_or_gone_is_not_offered(fresh: Page, shared: Fovea) -> None:
    sign_in(fresh, shared)
    remembered = """async ([id, touched]) => {
        const now = Date.now;
        const { remember } = await import("/static/pending.js");
        Date.now = () => touched ?? now();
        await remember({ id, name: id, size: 10, print: "0", called: "a.zip", folder: false, sent: 0, target: null });
        Date.now = now;
    }"""
    fresh.evaluate(remembered, ["up_of_long_ago", 1_000_000])
    fresh.evaluate(remembered, ["up_unknown", None])
    with fresh.expect_response(re.compile("/v1/uploads/up_unknown")):
        fresh.reload()
    fresh.wait_for_timeout(300)
    expect(fresh.get_by_text("An upload was interrupted")).to_have_count(0)
    ids = """async () => (await (await import("/static/pending.js")).all()).map((entry) => entry.id)"""
    assert fresh.evaluate(ids) == []
