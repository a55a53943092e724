"""The page's figures where a picture may have several labels."""

import re

import httpx
import pytest
from playwright.sync_api import expect

from tests.browser import Visit
from tests.test_multilabel import SPEC, lights, lights_zip

KEYS = ("recall", "answered")


@pytest.fixture(scope="module")
def lit(visit: Visit) -> Visit:
    fovea = visit.fovea
    fovea.dataset(lights_zip(), "lights")
    job = fovea.wait(fovea.train("lights", "lights", {**SPEC, "epochs": 1, "optimizer": {"lr": 1e-4}})["id"])
    assert job["status"] == "succeeded", job
    return visit


def evaluation(visit: Visit, ref: str) -> dict:
    answer: httpx.Response = visit.fovea.http.get(f"/v1/models/{ref}/evaluation")
    found: dict = answer.json()
    return found


def test_a_model_of_several_labels_is_judged_without_a_matrix(lit: Visit) -> None:
    page, found = lit.page, evaluation(lit, "lights:1")
    lit.open("judge/lights", "Judge")
    expect(page.locator(".figure")).to_contain_text("right in every label")
    expect(page.get_by_text(f"{100 * found['mean_average_precision']:.1f} %").first).to_be_visible()
    expect(page.locator(".matrix")).to_have_count(0)
    for row in found["per_class"]:
        cells = page.locator("tr", has=page.get_by_role("cell", name=row["label"], exact=True)).get_by_role("cell")
        expect(cells.nth(5)).to_have_text(f"{100 * row['threshold']:.1f} %")
    first = found["mistakes"][0]  # one epoch does not learn it all
    words = f"{', '.join(first['labels']) or 'no label'} → {', '.join(first['predicted_labels']) or 'no label'}"
    expect(page.locator(".thumbs .note").first).to_contain_text(words)
    assert lit.complaints == []


def test_a_picture_of_several_labels_or_none_is_answered_on_the_page(lit: Visit) -> None:
    page = lit.page
    lit.open("ask/lights", "Ask")
    pictures = {names: lights(*names, seed=9) for names in (("red", "green", "blue"), ())}
    files = [{"name": "p.png", "mimeType": "image/png", "buffer": one} for one in pictures.values()]
    page.set_input_files("#pictures", files)
    for place, picture in enumerate(pictures.values()):
        answer = lit.fovea.http.post("/v1/models/lights/classify", content=picture).json()["results"][0]
        heading = ", ".join(answer["labels"]) or "None of its labels"
        expect(page.locator(".answer h2").nth(place)).to_contain_text(heading)
    expect(page.locator(".bar-mark")).to_have_count(6)
    lit.complaints[:] = [one for one in lit.complaints if "status of 422" not in one]  # it asked for a set first
    assert lit.complaints == []


def test_the_curve_of_several_labels_is_their_precision(lit: Visit) -> None:
    lit.open("watch", "Watch")
    lit.page.get_by_role("link", name="Train lights").click()
    expect(lit.page.get_by_text("val mean average precision")).to_be_visible()
    expect(lit.page.get_by_text("Mean average precision:")).to_be_visible()


def test_a_slider_tells_what_more_certainty_costs(lit: Visit) -> None:
    page, found = lit.page, evaluation(lit, "lights:1")
    lit.open("judge/lights", "Judge")
    rows = found["thresholds"]
    assert rows[0]["recall"] == 1.0
    for index in (0, len(rows) - 1):
        page.locator("#threshold").fill(str(index))
        row = rows[index]
        precision = "–" if row["precision"] is None else f"{100 * row['precision']:.1f} %"
        facts = page.locator(".card", has=page.locator("#threshold")).locator("dd")
        wanted = [f"{100 * row['threshold']:.0f} %", precision, *(f"{100 * row[key]:.1f} %" for key in KEYS)]
        expect(facts).to_have_text(wanted)
    expect(page.locator("rect.said")).to_have_count(len(found["calibration"]["bins"]))
    expect(page.locator("svg.reliability")).to_have_attribute("aria-label", re.compile("Reliability diagram"))
    assert sum(row["n"] for row in found["calibration"]["bins"]) == 3 * found["n"]
    assert lit.complaints == []
