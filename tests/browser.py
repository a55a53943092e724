"""A headless Chromium for the tests and the screenshots: the system's own, or the one that Playwright installed."""

import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import pytest
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright

from tests.conftest import KEY, Fovea

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
ARGUMENTS += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # a camera
expect.set_options(timeout=45_000)  # the first answer of a model imports an engine, on a machine that may be busy


def executable() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def chromium(playwright: Playwright) -> Browser:
    return playwright.chromium.launch(executable_path=executable(), args=ARGUMENTS)


def sign_in(page: Page, fovea: Fovea) -> None:
    """By a one-time link, as a person does."""
    headers = {"Authorization": f"Bearer {KEY}"}
    path = httpx.post(f"{fovea.url}/v1/session/links", headers=headers, timeout=30).json()["path"]
    page.goto(fovea.url + path)
    page.wait_for_selector("#nav:not([hidden])")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if executable() is None:
        message = "NO CHROMIUM FOUND: the page is not tested. Install one, for example `apt-get install chromium`."
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        warnings.warn(message, stacklevel=1)
        pytest.skip(message)
    with sync_playwright() as playwright:
        browser = chromium(playwright)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page, signed in, with everything that the browser complained about."""

    page: Page
    fovea: Fovea
    complaints: list[str] = field(default_factory=list)

    def open(self, view: str, heading: str) -> None:
        self.page.goto(f"{self.fovea.url}/#/{view}")
        self.page.reload()
        expect(self.page.locator("h1")).to_have_text(heading, timeout=30_000)


@pytest.fixture(scope="module")
def visit(browser: Browser, shared: Fovea) -> Iterator[Visit]:
    page = browser.new_page()
    page.set_default_timeout(60_000)
    visit = Visit(page, shared)
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.on("console", lambda message: message.type == "error" and visit.complaints.append(message.text))
    sign_in(page, shared)
    yield visit
    page.close()
