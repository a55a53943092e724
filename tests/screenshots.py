"""Makes the pictures in docs/screenshots: `python -m tests.screenshots`. Needs a Chromium, and takes a minute.

Everything is real: a service, a worker, scikit-learn's handwritten digits, and a browser that does what a person would.
"""

import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.browser import chromium, sign_in
from tests.conftest import Fovea, digits_zip

FOLDER = Path(__file__).parents[1] / "docs/screenshots"
VIEWPORT = {"width": 1100, "height": 760}
LAYERS = [{"conv": {"filters": 16, "batch_norm": True, "activation": "relu"}}, {"max_pool": 2}]
LAYERS += [{"conv": {"filters": filters, "batch_norm": True, "activation": "relu"}} for filters in (32, 64)]
SPEC = {"network": {"layers": [*LAYERS, {"global_avg_pool": {}}]}, "image_size": 16, "epochs": 12, "batch_size": 64}
SPACE = {"/optimizer/lr": {"log_uniform": [1e-4, 0.1]}, "/optimizer/name": {"choice": ["adam", "sgd", "muon"]}}
SEARCH = {"type": "search", "model": "found", "dataset": "digits", "space": SPACE, "trials": 6}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").mkdir()
        fovea = Fovea(Path(folder) / "data")
        fovea.start()
        try:
            with sync_playwright() as playwright:
                browser = chromium(playwright)
                for theme in ("light", "dark"):
                    page = browser.new_page(viewport=VIEWPORT, color_scheme=theme)
                    page.on("console", lambda message: message.type == "error" and print(message.text))
                    page.on("pageerror", lambda error: print(error))
                    sign_in(page, fovea)
                    (walk if theme == "light" else walk_again)(page, fovea)
                    page.close()
                phone = browser.new_page(viewport={"width": 390, "height": 760}, device_scale_factor=1)
                sign_in(phone, fovea)
                shoot(phone, fovea, "judge/digits", "phone", ".matrix")
                browser.close()
        finally:
            fovea.http.close()
            fovea.end()


def walk(page: Page, fovea: Fovea) -> None:
    page.goto(f"{fovea.url}/#/datasets")
    page.wait_for_selector(".empty")
    save(page, "start")
    fovea.dataset(digits_zip(), "digits")
    shoot(page, fovea, "datasets", "datasets", "table")
    shoot(page, fovea, "dataset/digits/1", "dataset", ".thumb")
    page.locator(".gallery").scroll_into_view_if_needed()
    page.wait_for_load_state("networkidle")
    save(page, "pictures")
    shoot(page, fovea, "train?dataset=digits", "train", "table")
    page.get_by_text("Every knob").click()
    page.locator("#recipe").scroll_into_view_if_needed()
    save(page, "knobs")
    job = fovea.train("digits", "digits", SPEC)
    fovea.wait_for(job["id"], lambda row: (row["progress"] or {}).get("epoch", 0) >= 8 or row["is_terminal"])
    shoot(page, fovea, f"watch/{job['id']}", "watch", "path.line-1")
    fovea.wait(job["id"])
    second = fovea.train("digits", "digits", {**SPEC, "optimizer": {"name": "sgd"}})
    fovea.wait(second["id"])
    search = fovea.http.post("/v1/jobs", json={**SEARCH, "spec": {**SPEC, "epochs": 4}}).json()
    fovea.wait(search["id"])
    shoot(page, fovea, f"watch/{search['id']}", "search", "tbody tr")
    shoot(page, fovea, "watch", "jobs", "table")
    shoot(page, fovea, f"watch/compare?jobs={job['id']},{second['id']}", "compare", "path.line-1")
    shoot(page, fovea, "judge/digits:1", "judge", ".matrix")
    fovea.http.put("/v1/models/digits/aliases/production", json={"version": 2})
    shoot(page, fovea, "serve", "serve", "table")


def walk_again(page: Page, fovea: Fovea) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = fovea.http.get("/v1/datasets/digits/versions/1/items?split=test&limit=2").json()["data"]
        files = [Path(folder) / row["path"].replace("/", "-") for row in rows]
        for file, row in zip(files, rows, strict=True):
            file.write_bytes(fovea.http.get(f"/v1/datasets/digits/versions/1/items/{row['image']}").content)
        fovea.http.post("/v1/models/digits/classify", content=files[0].read_bytes())  # loads the model
        page.goto(f"{fovea.url}/#/ask/digits")
        page.set_input_files("#pictures", files)
        page.wait_for_selector(".answer h2")
        page.get_by_label("where it saw").first.check()
        save(page, "ask-dark")
    shoot(page, fovea, "judge/digits:1", "judge-dark", ".matrix")
    shoot(page, fovea, "dataset/digits/1", "dataset-dark", ".thumb")


def shoot(page: Page, fovea: Fovea, view: str, name: str, wait_for: str) -> None:
    page.goto(f"{fovea.url}/#/{view}")
    page.reload()
    page.wait_for_selector(wait_for)
    page.wait_for_load_state("networkidle") if name not in ("watch",) else page.wait_for_timeout(500)
    save(page, name)


def save(page: Page, name: str) -> None:
    """A PNG of at most 128 colours: small enough for a repository."""
    target = FOLDER / f"{name}.png"
    page.screenshot(path=target)
    with Image.open(target) as image:
        image.convert("RGB").quantize(128).save(target, optimize=True)


if __name__ == "__main__":
    main()
