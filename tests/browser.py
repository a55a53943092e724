"""A headless Chromium for the tests and the screenshots: the system's own, or the one that Playwright installed."""

import shutil

import httpx
from playwright.sync_api import Browser, Page, Playwright

from tests.conftest import KEY, Fovea

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]


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
