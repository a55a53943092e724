"""An upload on the page goes on after the service was killed in the middle of it."""

import signal

import numpy as np
from playwright.sync_api import expect

from tests.browser import Visit
from tests.conftest import make_zip, png

SIDE = 640  # px: noise that no PNG packs, 1.2 MB a picture


def large_zip() -> bytes:
    random = np.random.default_rng(0)
    pictures = (random.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(12))
    return make_zip({f"{'ab'[k % 2]}/{k}.png": png(pixels) for k, pixels in enumerate(pictures)})


def on_disk(visit: Visit) -> int:
    return sum(path.stat().st_size for path in (visit.fovea.data / "uploads").glob("*"))


def test_an_upload_goes_on_after_the_service_was_killed(visit: Visit) -> None:
    page, fovea, body = visit.page, visit.fovea, large_zip()
    assert len(body) > 12_000_000
    visit.open("datasets", "Datasets")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 4_000_000}
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", slow)
    page.fill("#dataset-name", "large")
    page.set_input_files("#zip-file", {"name": "large.zip", "mimeType": "application/zip", "buffer": body})
    sent = page.get_by_text("/s,")
    expect(sent).to_contain_text("MB of")
    for _ in range(600):
        if on_disk(visit) > 5_500_000:  # in the second piece
            break
        page.wait_for_timeout(50)
    fovea.end("service", number=signal.SIGKILL)
    expect(page.get_by_text("The connection is broken")).to_be_visible()
    assert on_disk(visit) < len(body)
    offsets: list[int] = []
    page.on(
        "request",
        lambda asked: asked.method == "PATCH" and offsets.append(int(asked.headers["upload-offset"])),
    )
    fovea.start("service")
    expect(page.locator(".badge")).to_have_text("ready", timeout=90_000)
    assert offsets[0] >= 4 * 1024**2  # what was acknowledged is not sent again
    assert fovea.http.get("/v1/datasets/large/versions/1").json()["image_count"] == 12
    assert list((fovea.data / "uploads").iterdir()) == []
