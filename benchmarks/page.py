"""The page in a real Chromium: its first view, 50,000 pictures to scroll through, a job of 100,000 metric points.

A fresh service over a real import; only the long job's metrics and events are written into the tables, for nobody wants
to wait for 20,000 epochs. Times are the browser's own clock, sizes what its network stack received.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, CDPSession, Page, sync_playwright

from benchmarks.pictures import write_zip
from benchmarks.service import running
from service.client import Fovea
from service.db import Database
from service.db.tables import Event, Metric
from service.settings import Settings
from tests.browser import chromium

PICTURES = 50_000
SIDE = 16  # px: many pictures, not large ones
POINTS = 100_000
NAMES = ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr")
RUNS = 5
LAYERS = [{"conv": {"filters": 4, "activation": "relu"}}, {"global_avg_pool": {}}]
SPEC = {"network": {"layers": LAYERS}, "image_size": 16, "epochs": 1, "batch_size": 64}
VIEWPORT = {"width": 1200, "height": 800}

HEADING, CURVE, THUMB = "main h1", ".charts path", ".thumb img"
SEEN = json.dumps({"heading": HEADING, "curve": CURVE, "thumb": THUMB})
WATCH = (
    f"window.sought = {SEEN};"
    """
    window.seen = {};
    const look = () => {
        for (const [name, what] of Object.entries(window.sought))
            if (!(name in window.seen) && document.querySelector(what)) window.seen[name] = performance.now();
    };
    new MutationObserver(look).observe(document, { childList: true, subtree: true });
    window.long = [];
    new PerformanceObserver((list) => window.long.push(...list.getEntries().map((entry) => entry.duration)))
        .observe({ type: "longtask", buffered: true });
"""
)
SCROLL = """async ([step, frames]) => {
    const box = document.querySelector(".gallery");
    box.scrollTop = 0;
    const gaps = [];
    let last = performance.now();
    window.long = [];
    for (let frame = 0; frame < frames; frame += 1) {
        box.scrollTop += step;
        await new Promise(requestAnimationFrame);
        const now = performance.now();
        gaps.push(now - last);
        last = now;
    }
    gaps.sort((a, b) => a - b);
    return { height: box.scrollHeight, at: box.scrollTop, median: gaps[gaps.length >> 1],
             p95: gaps[Math.floor(gaps.length * 0.95)], worst: gaps.at(-1), long: window.long };
}"""


def main(pictures: int = PICTURES, points: int = POINTS) -> None:
    with running(FOVEA_THREADS="1") as (fovea, data), sync_playwright() as playwright:
        browser = chromium(playwright)
        first_views(browser, fovea)
        fill(fovea, pictures)
        first_views(browser, fovea)
        scrolling(browser, fovea, pictures)
        curves(browser, fovea, data, points)
        browser.close()


def fill(fovea: Fovea, pictures: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        archive = Path(name) / "many.zip"
        write_zip(archive, pictures, SIDE, 10)
        started = time.perf_counter()
        fovea.wait(fovea.push_dataset(archive, "many")["job"]["id"])
        print(f"import of {pictures:,} pictures: {time.perf_counter() - started:.1f} s", flush=True)
        write_zip(archive, 200, SIDE, 2)
        fovea.wait(fovea.push_dataset(archive, "few")["job"]["id"])


# --- the first view --------------------------------------------------------------------------------------------------


def first_views(browser: Browser, fovea: Fovea) -> None:
    """From nothing cached to the heading of the datasets, by a sign-in link; and all that was received for it."""
    told = [first_view(browser, fovea) for _ in range(RUNS)]
    seconds = statistics.median(one[0] for one in told) / 1000
    print(
        f"first view: {seconds:.3f} s (median of {RUNS}), {told[0][1] / 1000:.0f} kB in {told[0][2]} requests",
        flush=True,
    )


def first_view(browser: Browser, fovea: Fovea) -> tuple[float, int, int]:
    """Milliseconds, bytes with headers, requests."""
    page, wire = fresh(browser)
    sizes: list[float] = []
    wire.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    page.goto(fovea.url + fovea.sign_in_path())
    page.wait_for_selector(HEADING)
    page.wait_for_load_state("networkidle")
    found = float(page.evaluate("window.seen.heading"))
    page.context.close()
    return found, int(sum(sizes)), len(sizes)


def fresh(browser: Browser) -> tuple[Page, CDPSession]:
    context = browser.new_context(viewport=VIEWPORT)  # type: ignore[arg-type]
    page = context.new_page()
    page.add_init_script(WATCH)
    wire = context.new_cdp_session(page)
    wire.send("Network.enable")
    return page, wire


# --- many pictures ---------------------------------------------------------------------------------------------------


def scrolling(browser: Browser, fovea: Fovea, pictures: int) -> None:
    page, wire = fresh(browser)
    asked: list[int] = []
    page.on(
        "request",
        lambda request: "/items?" in request.url and asked.append(int(request.url.split("limit=")[1].split("&")[0])),
    )
    page.goto(fovea.url + fovea.sign_in_path())
    page.wait_for_selector(HEADING)
    page.goto(f"{fovea.url}/#/dataset/many/1")
    page.reload()
    page.wait_for_selector(THUMB)
    print(f"{pictures:,} pictures: the first after {page.evaluate('window.seen.thumb') / 1000:.3f} s")
    page.locator(".gallery").scroll_into_view_if_needed()
    for step, frames in ((100, 300), (1000, 600), (5000, 150)):
        before = memory(wire)
        told = page.evaluate(SCROLL, [step, frames])
        page.wait_for_load_state("networkidle")
        after, cells = memory(wire), page.locator(".thumb").count()
        share, long = told["at"] / told["height"], told["long"]
        print(
            f"scroll by {step} px a frame to {100 * share:.0f} %: frames {told['median']:.1f} ms in the middle, "
            f"{told['p95']:.1f} ms p95, {told['worst']:.0f} ms at worst; {len(long)} long tasks (longest "
            f"{max(long, default=0):.0f} ms); heap {before:.1f} -> {after:.1f} MB; {cells} thumbnails in the page",
            flush=True,
        )
    print(f"requests for rows: {len(asked)}, at most {max(asked)} thumbnails each")
    page.context.close()


def memory(wire: CDPSession) -> float:
    """Megabytes of JavaScript heap after a collection."""
    wire.send("HeapProfiler.collectGarbage")
    return float(wire.send("Runtime.getHeapUsage")["usedSize"]) / 1e6


# --- many points -----------------------------------------------------------------------------------------------------


def curves(browser: Browser, fovea: Fovea, data: Path, points: int) -> None:
    """From the address to the drawn curves, and to all events shown."""
    job = fovea.wait(fovea.train("few", "few", SPEC)["id"])
    assert job["status"] == "succeeded", job
    lengthen(data, job["id"], points)
    told = [drawn(browser, fovea, job["id"]) for _ in range(RUNS)]
    long = max(one["longest"] for one in told)
    print(
        f"{points:,} metric points: curves after {statistics.median(one['curve'] for one in told) / 1000:.3f} s "
        f"(median of {RUNS}); all still after {statistics.median(one['still'] for one in told) / 1000:.3f} s; "
        f"longest task {long:.0f} ms; {told[0]['kilobytes']:.0f} kB of metrics and events"
    )


def lengthen(data: Path, job: str, points: int) -> None:
    """Makes the job one of so many points, five an epoch, as far as its metrics and events tell."""
    database, epochs = Database(Settings(data=data).database), points // len(NAMES)
    values = [1.0 / (1 + epoch) for epoch in range(epochs)]
    with database.write() as session:
        for epoch in range(2, epochs + 1):
            for name in NAMES:
                session.add(
                    Metric(job_id=job, name=name, step=1000 + epoch, epoch=epoch, value=values[epoch - 1], time=0.0)
                )
            told = {"epoch": epoch, "step": 1000 + epoch, **dict.fromkeys(NAMES, values[epoch - 1])}
            session.add(Event(job_id=job, type="metrics", time=0.0, data=told))
    database.dispose()


def drawn(browser: Browser, fovea: Fovea, job: str) -> dict[str, Any]:
    page, wire = fresh(browser)
    sizes: list[float] = []
    page.goto(fovea.url + fovea.sign_in_path())
    page.wait_for_selector(HEADING)
    wire.on("Network.dataReceived", lambda event: sizes.append(event["dataLength"]))
    page.goto(f"{fovea.url}/#/watch/{job}")
    page.reload()
    page.wait_for_selector(CURVE, state="attached")
    page.wait_for_load_state("networkidle")
    still = page.evaluate("performance.now()") - 500  # what networkidle waits
    found = page.evaluate("({ curve: window.seen.curve, longest: Math.max(0, ...window.long) })")
    page.context.close()
    return {**found, "still": still, "kilobytes": sum(sizes) / 1000}


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
