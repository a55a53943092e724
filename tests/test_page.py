"""The page in a real browser, as a person uses it; and the sign-in underneath it, request by request."""

import json
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Error, Route, expect

from tests.browser import Visit, sign_in
from tests.conftest import KEY, Fovea, make_zip, png

EVIL = "<img src=x onerror=fail()>"  # as a name it must stay text
LAYERS = "conv 8 3 relu norm\nmax_pool 2\nglobal_avg_pool"
MOST_BYTES = 300_000


# --- sign-in ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def stranger(shared: Fovea) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shared.url) as client:
        yield client


def problem(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.json()["code"] == code


def test_a_key_opens_a_session_in_a_cookie_that_no_script_can_read(shared: Fovea, stranger: httpx.Client) -> None:
    problem(stranger.post("/v1/session", json={"key": "fov_wrong"}), 401, "sign_in_refused")
    problem(stranger.get("/v1/session"), 401, "unauthorized")
    opened = stranger.post("/v1/session", json={"key": KEY})
    assert opened.status_code == 201
    assert opened.json()["scopes"] == ["admin"]
    cookie = opened.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert KEY not in cookie
    assert stranger.get("/v1/session").json()["auth"] == "on"
    assert stranger.get("/v1/datasets").status_code == 200
    token = stranger.cookies["fovea_session"].encode()
    assert not any(token in path.read_bytes() for path in shared.data.glob("fovea.db*"))


def test_a_session_changes_things_only_when_the_page_itself_asks(stranger: httpx.Client) -> None:
    stranger.post("/v1/session", json={"key": KEY})
    wanted = {"json": {"name": "csrf", "scopes": ["predict"]}}
    host = str(stranger.base_url).rstrip("/")
    for headers in ({}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "http://evil"},
                    {"Origin": "http://["},
                    {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site", "Origin": host}):  # fmt: skip
        problem(stranger.post("/v1/keys", headers=headers, **wanted), 403, "cross_site")
    assert stranger.post("/v1/keys", headers={"Origin": host}, **wanted).status_code == 201
    assert stranger.post("/v1/keys", headers={"Sec-Fetch-Site": "same-origin"}, **wanted).status_code == 201
    cross = {"Sec-Fetch-Site": "cross-site"}
    problem(stranger.post("/v1/session", json={"key": KEY}, headers=cross), 403, "cross_site")
    with_key = {"Authorization": f"Bearer {KEY}", **cross}  # a key cannot be made to be sent
    assert stranger.post("/v1/keys", headers=with_key, **wanted).status_code == 201
    problem(stranger.get("/v1/session", headers={"Authorization": "Bearer fov_wrong"}), 401, "unauthorized")


def test_signing_out_and_revoking_end_a_session(shared: Fovea, stranger: httpx.Client) -> None:
    own = {"Sec-Fetch-Site": "same-origin"}
    stranger.post("/v1/session", json={"key": KEY})
    kept = dict(stranger.cookies)
    assert stranger.delete("/v1/session", headers=own).status_code == 204
    assert "fovea_session" not in stranger.cookies
    problem(httpx.get(f"{shared.url}/v1/session", cookies=kept), 401, "unauthorized")
    made = shared.http.post("/v1/keys", json={"name": "short", "scopes": ["predict"]}).json()
    assert stranger.post("/v1/session", json={"key": made["key"]}).json()["scopes"] == ["predict"]
    problem(stranger.get("/v1/keys"), 403, "scope_missing")
    shared.http.delete(f"/v1/keys/{made['id']}")
    problem(stranger.get("/v1/session"), 401, "unauthorized")


def test_the_printed_link_signs_in_once(shared: Fovea, stranger: httpx.Client) -> None:
    log = (shared.data.parent / "service.log").read_text()
    code = re.search(rf"{re.escape(shared.url)}/#code=(\S+)", log)
    assert code is not None
    assert stranger.post("/v1/session", json={"code": code[1]}).json()["scopes"] == ["admin"]
    problem(stranger.post("/v1/session", json={"code": code[1]}), 401, "sign_in_refused")
    problem(stranger.post("/v1/session", json={"code": stranger.cookies["fovea_session"]}), 401, "sign_in_refused")
    problem(stranger.post("/v1/session", json={}), 422, "invalid_value")


def test_a_link_is_made_for_the_scopes_of_its_maker(shared: Fovea, stranger: httpx.Client) -> None:
    made = shared.http.post("/v1/keys", json={"name": "app", "scopes": ["predict"]}).json()
    head = {"Authorization": f"Bearer {made['key']}"}
    link = stranger.post("/v1/session/links", headers=head).json()
    assert link["path"] == f"/#code={link['code']}"
    assert stranger.post("/v1/session", json={"code": link["code"]}).json()["scopes"] == ["predict"]


def test_without_sign_in_other_sites_still_change_nothing(fovea: Fovea) -> None:
    fovea.environment["FOVEA_AUTH"] = "off"
    fovea.start("service")
    with httpx.Client(base_url=fovea.url) as anybody:
        assert anybody.get("/v1/session").json()["auth"] == "off"
        assert anybody.post("/v1/datasets", json={"name": "mine"}).status_code == 201
        evil = anybody.post("/v1/datasets", json={"name": "theirs"}, headers={"Origin": "http://evil"})
        problem(evil, 403, "cross_site")
        rebound = {"Host": f"evil.example:{fovea.port}", "Origin": f"http://evil.example:{fovea.port}"}
        problem(anybody.post("/v1/keys", json={"name": "x", "scopes": ["admin"]}, headers=rebound), 421, "foreign_host")
        problem(anybody.get("/v1/datasets", headers={"Host": "[::"}), 421, "foreign_host")
        for name in ("localhost", "[::1]:8000", "127.0.0.1"):
            assert anybody.get("/v1/datasets", headers={"Host": name}).status_code == 200
    assert "#code=" not in (fovea.data.parent / "service.log").read_text()


def test_the_files_come_with_a_strict_policy_and_are_not_sent_twice(shared: Fovea) -> None:
    first = shared.http.get("/")
    policy = first.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<script>" not in first.text
    assert "style=" not in first.text
    again = shared.http.get("/", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304
    assert again.content == b""
    script = shared.http.get("/static/views/train.js")
    assert script.headers["content-type"].startswith("text/javascript")
    for name in ("../api/app.py", "..%2Fapi%2Fapp.py", "nothing.js"):
        problem(shared.http.get(f"/static/{name}"), 404, "not_found")


def test_thumbnails_are_small_and_keep_their_proportions(shared: Fovea) -> None:
    from io import BytesIO

    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (300, 600, 3), dtype=np.uint8)
    tiny = np.arange(64, dtype=np.uint8).reshape(8, 8)
    files = {
        f"{label}/{k}.png": png(pixels + np.uint8(k)) for label, pixels in (("a", noise), ("b", tiny)) for k in (1, 2)
    }
    shared.dataset(make_zip(files), "sizes")
    where = "/v1/datasets/sizes/versions/1/items"
    for label, size, kind in (("a", (128, 64), "image/jpeg"), ("b", (8, 8), "image/png")):
        image = shared.http.get(where, params={"label": label}).json()["data"][0]["image"]
        answer = shared.http.get(f"{where}/{image}/thumbnail")
        assert answer.headers["content-type"] == kind
        assert answer.headers["cache-control"].startswith("private, max-age=")
        assert Image.open(BytesIO(answer.content)).size == size
        etag = {"If-None-Match": answer.headers["etag"]}
        assert shared.http.get(f"{where}/{image}/thumbnail", headers=etag).status_code == 304
    problem(shared.http.get(f"{where}/{'0' * 64}/thumbnail"), 404, "image_not_found")


# --- in a browser ----------------------------------------------------------------------------------------------------


def evil_zip() -> bytes:
    random = np.random.default_rng(0)
    files = {}
    for channel, label in enumerate((EVIL, "green", "blue")):
        for number in range(20):
            pixels = random.integers(0, 120, (16, 16, 3), dtype=np.uint8)
            pixels[..., channel] += np.uint8(100)
            files[f"{label}/<b>{number}.png"] = png(pixels)
    return make_zip({**files, "blue/<i>broken.png": b"\x89PNG\r\n\x1a\n"})


@pytest.fixture(scope="module")
def taught(visit: Visit) -> Visit:
    """Uploaded and trained by hand, all names full of HTML."""
    page = visit.page
    visit.open("datasets", "Datasets")
    page.fill("#dataset-name", EVIL)
    page.set_input_files("#zip-file", {"name": "a.zip", "mimeType": "application/zip", "buffer": evil_zip()})
    expect(page.locator(".badge")).to_have_text("ready", timeout=60_000)
    expect(page.locator(".thumb").first).to_be_visible()
    expect(page.get_by_text("60 pictures accepted")).to_be_visible()
    page.get_by_role("link", name="Train on it").click()
    page.get_by_text("Every knob").click()
    page.select_option("#network", "layers")
    page.fill("#layers", LAYERS)
    page.fill("#image-size", "16")
    page.fill("#epochs", "4")
    expect(page.get_by_role("cell", name="8 x 16 x 16")).to_be_visible()
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.get_by_text("right on pictures it never saw")).to_be_visible(timeout=180_000)
    return visit


def test_a_person_uploads_trains_judges_and_asks(taught: Visit) -> None:
    page = taught.page
    taught.open("watch", "Watch")
    page.get_by_role("link", name=f"Train {EVIL}").click()
    expect(page.locator("path.line-1").first).to_be_visible()
    expect(page.locator(".badge")).to_have_text("succeeded")
    page.get_by_text("Log", exact=True).click()
    page.get_by_role("link", name="Judge it").click()
    expect(page.locator(".figure")).to_contain_text("right on")
    expect(page.locator(".matrix tbody tr")).to_have_count(3)
    page.get_by_role("button", name="Recall").click()
    expect(page.locator("th[aria-sort]")).to_have_text("Recall")
    page.get_by_role("link", name="Ask it about a picture").click()
    red = {"name": "<s>red.png", "mimeType": "image/png", "buffer": png(np.full((16, 16, 3), (190, 40, 40), np.uint8))}
    page.set_input_files("#pictures", [red, {"name": "bad.png", "mimeType": "image/png", "buffer": b"nothing"}])
    expect(page.locator(".answer h2")).to_have_count(1)
    expect(page.locator(".answer .bar-row")).to_have_count(3)
    page.get_by_label("where it saw").check()
    expect(page.locator(".map")).to_be_visible()
    expect(page.locator(".answer .notice.bad")).to_have_count(1)
    assert taught.complaints == []


def test_a_picture_is_dropped_and_classified(taught: Visit) -> None:
    page = taught.page
    taught.open(f"ask/{quote(EVIL, safe='')}", "Ask")
    pixels = list(png(np.full((16, 16, 3), (40, 190, 40), np.uint8)))
    transfer = page.evaluate_handle(
        """(bytes) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "green.png", { type: "image/png" }));
            return transfer;
        }""",
        pixels,
    )
    page.locator(".drop").dispatch_event("drop", {"dataTransfer": transfer})
    expect(page.locator(".answer h2")).to_contain_text("%")
    assert taught.complaints == []


def test_a_bundle_is_made_and_comes_down(taught: Visit, tmp_path: Path) -> None:
    taught.open("serve", "Serve")
    with taught.page.expect_download(timeout=120_000) as coming:
        taught.page.get_by_role("button", name="Bundle of").first.click()
    coming.value.save_as(tmp_path / "bundle.zip")
    assert "verify.py" in zipfile.ZipFile(tmp_path / "bundle.zip").namelist()
    assert taught.complaints == []


def test_an_alias_is_pointed_at_a_version_and_remembers(taught: Visit) -> None:
    page = taught.page
    taught.open("serve", "Serve")
    page.fill("#alias-name", "<b>live")
    page.get_by_role("button", name="Point it there").click()
    expect(page.get_by_role("cell", name="<b>live", exact=True)).to_be_visible()
    page.get_by_role("button", name="History of <b>live").click()
    expect(page.get_by_role("cell", name="set", exact=True)).to_be_visible()
    aliases = taught.fovea.http.get(f"/v1/models/{quote(EVIL)}/aliases").json()["data"]
    assert [(row["alias"], row["version"]) for row in aliases] == [("<b>live", 1)]
    page.get_by_role("button", name="Take <b>live back").click()  # there is nothing before the first version
    expect(page.locator("[role=alert]")).to_be_visible()
    taught.complaints[:] = [one for one in taught.complaints if "the server responded with a status of 4" not in one]


def test_names_full_of_html_stay_text(taught: Visit) -> None:
    page, name = taught.page, quote(EVIL, safe="")
    for view, heading in (("datasets", "Datasets"), (f"dataset/{name}", EVIL), ("watch", "Watch"),
                          (f"judge/{name}", "Judge"), (f"ask/{name}", "Ask"), ("serve", "Serve")):  # fmt: skip
        taught.open(view, heading)
        expect(page.get_by_text(EVIL).first).to_be_attached()
        assert page.locator("img[src=x], main b:has(*), main i, main s").count() == 0
    assert taught.complaints == []


def test_no_script_of_ours_turns_text_into_html() -> None:
    risky = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setAttribute\(.style"
    )
    scripts = list((Path(__file__).parents[1] / "service/web").rglob("*.js"))
    assert len(scripts) > 10
    assert [path.name for path in scripts if risky.search(path.read_text())] == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault_in_any_view(taught: Visit, theme: str) -> None:
    page, name = taught.page, quote(EVIL, safe="")
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    job = taught.fovea.http.get("/v1/jobs?type=train").json()["data"][0]["id"]
    views = {
        "datasets": "Datasets",
        f"dataset/{name}": EVIL,
        "train": "Train",
        "watch": "Watch",
        f"watch/{job}": f"Train {EVIL}",
        f"judge/{name}": "Judge",
        f"ask/{name}": "Ask",
        "serve": "Serve",
    }
    for view, heading in views.items():
        taught.open(view, heading)
        page.wait_for_timeout(300)  # charts and the dry run appear
        faults = Axe().run(page).response["violations"]
        serious = [
            (fault["id"], node["target"], node["failureSummary"])
            for fault in faults
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]
        assert serious == [], view


def test_a_folder_is_packed_in_the_browser(visit: Visit, tmp_path: Path) -> None:
    folder = tmp_path / "flöwers"
    for label in ("rose", "tulip"):
        (folder / label).mkdir(parents=True)
        for number in range(4):
            pixels = np.full((9, 9, 3), 50 * number + len(label), np.uint8)
            (folder / label / f"{number}.png").write_bytes(png(pixels))
    visit.open("datasets", "Datasets")
    visit.page.set_input_files("#folder", folder)
    expect(visit.page.locator(".badge")).to_have_text("ready", timeout=60_000)
    version = visit.fovea.http.get("/v1/datasets/flöwers/versions/1").json()
    assert version["classes"] == [{"name": "rose", "count": 4}, {"name": "tulip", "count": 4}]


def test_errors_say_what_to_do(visit: Visit) -> None:
    page = visit.page
    visit.open("datasets", "Datasets")
    page.set_input_files("#zip-file", {"name": "b.zip", "mimeType": "application/zip", "buffer": b"no zip"})
    expect(page.locator("[role=alert] p").first).to_be_visible()
    visit.open("watch/job_nothing", "This did not work")
    expect(page.locator("[role=alert]")).to_contain_text("job_nothing")
    visit.complaints[:] = [one for one in visit.complaints if "the server responded with a status of 4" not in one]


def test_the_first_view_is_light_and_quick(browser: Browser, shared: Fovea) -> None:
    page = browser.new_page()
    sizes: dict[str, int] = {}
    page.on("requestfinished", lambda request: sizes.update({request.url: _body(request.response())}))
    started = time.monotonic()
    sign_in(page, shared)
    expect(page.locator("h1")).to_have_text("Datasets")
    seconds = time.monotonic() - started
    page.wait_for_load_state("networkidle")
    assert "code=" not in page.url
    page.close()
    assert 20_000 < sum(sizes.values()) < MOST_BYTES, sizes
    assert seconds < 20  # a second on an idle machine


def _body(response: object) -> int:
    try:
        return len(response.body())  # type: ignore[attr-defined]
    except Error:
        return 0  # a 304


def test_fifty_thousand_pictures_scroll_with_a_flat_page(taught: Visit) -> None:
    """The list is answered by the test: importing so many takes longer than looking at them."""
    page, total, asked = taught.page, 50_000, []
    real = taught.fovea.http.get(f"/v1/datasets/{quote(EVIL)}/versions").json()
    real["data"][0]["image_count"] = total
    one = taught.fovea.http.get(f"/v1/datasets/{quote(EVIL)}/versions/1/items?limit=1").json()["data"][0]

    def items(route: Route) -> None:
        query = httpx.URL(route.request.url).params
        first, limit = int(query.get("after", -1)) + 1, int(query["limit"])
        asked.append(limit)
        rows = [{**one, "path": f"{number}.png"} for number in range(first, min(first + limit, total))]
        more = first + limit < total
        body = {"object": "list", "data": rows, "has_more": more, "next": str(first + limit - 1) if more else None}
        route.fulfill(json=body)

    page.route(
        re.compile(r"/versions\?"), lambda route: route.fulfill(body=json.dumps(real), content_type="application/json")
    )
    page.route(re.compile(r"/items\?"), items)
    try:
        taught.open(f"dataset/{quote(EVIL, safe='')}", EVIL)
        for share in (0, 0.3, 0.99, 0.5, 1):
            page.locator(".gallery").evaluate("(box, share) => { box.scrollTop = share * box.scrollHeight }", share)
            expect(page.locator(".thumb").first).to_be_visible()
            page.wait_for_timeout(200)
            assert page.locator(".thumb").count() < 300
        expect(page.get_by_role("button", name=f"{total - 1}.png")).to_be_visible()
    finally:
        page.unroute_all()
    assert max(asked) <= 200
    assert len(asked) < 20


def test_a_hundred_thousand_points_are_drawn_within_a_second(visit: Visit) -> None:
    visit.open("watch", "Watch")
    milliseconds = visit.page.evaluate(
        """async () => {
            const { chart } = await import("/static/chart.js");
            const one = chart("many", "step", String);
            document.querySelector("main").append(one);
            const points = Array.from({ length: 100000 }, (_, x) => [x, Math.sin(x / 5000)]);
            const started = performance.now();
            one.draw([{ name: "sine", points }]);
            while (!one.querySelector("path")) await new Promise(requestAnimationFrame);
            one.getBoundingClientRect();
            return performance.now() - started;
        }"""
    )
    assert milliseconds < 1000


def test_signing_out_shows_the_door(visit: Visit) -> None:
    visit.open("serve", "Serve")
    visit.page.click("#sign-out")
    expect(visit.page.locator("h1")).to_have_text("Sign in")
    visit.page.fill("input[type=password]", KEY)
    visit.page.get_by_role("button", name="Sign in").click()
    expect(visit.page.locator("#nav")).to_be_visible()
