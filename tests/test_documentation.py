"""`/docs` and `/redoc` in a real browser, under a policy that lets them do no more than they need."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.conftest import Fovea

LOGO = "https://cdn.redoc.ly/"  # of Redoc's makers, which it would load from their servers


@contextmanager
def shown(browser: Browser, fovea: Fovea, path: str) -> Iterator[Page]:
    """The page, which must not have complained of anything at the end but that the logo is not loaded."""
    complaints: list[str] = []
    with browser.new_page() as page:
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.goto(fovea.url + path)
        yield page
    assert [one for one in complaints if LOGO not in one] == []


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_documentation_has_a_policy(shared: Fovea, path: str) -> None:
    for method in ("GET", "HEAD"):
        answer = httpx.request(method, shared.url + path)
        assert answer.status_code == 200
        rules = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
        assert rules["default-src"] == "'none'"
        assert "unsafe" not in rules["script-src"]
        assert rules["connect-src"] == "'self'"


def test_a_route_can_be_tried_in_the_documentation(browser: Browser, shared: Fovea) -> None:
    with shown(browser, shared, "/docs") as page:
        route = page.locator(".opblock", has_text="/livez")
        route.locator(".opblock-summary").click()
        route.get_by_role("button", name="Try it out").click()
        route.get_by_role("button", name="Execute").click()
        expect(route.locator(".live-responses-table tr.response .response-col_status")).to_contain_text("200")


def test_the_documentation_can_be_searched(browser: Browser, shared: Fovea) -> None:
    with shown(browser, shared, "/redoc") as page:
        page.get_by_role("textbox").fill("readyz")
        expect(page.get_by_role("search").get_by_text("Readyz", exact=True).first).to_be_visible()
