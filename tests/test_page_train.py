"""The training form is the spec's schema; a search is begun and watched on the page."""

import json
import re
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, expect

from service.spec import TrainSpec
from tests.browser import Visit
from tests.conftest import colours_zip

LAYERS = "conv 4 3 relu\nmax_pool 4"
OWN = "=own"


@pytest.fixture(scope="module")
def coloured(visit: Visit) -> Visit:
    visit.fovea.dataset(colours_zip(), "colours")
    return visit


@pytest.fixture
def form(coloured: Visit) -> Visit:
    """The form with every knob in sight."""
    page = coloured.page
    page.goto(f"{coloured.fovea.url}/#/datasets")
    coloured.open("train", "Train")
    page.get_by_text("Every knob").click()
    expect(page.locator(".facts").first).to_be_visible()
    coloured.complaints.clear()
    return coloured


def sends(visit: Visit, wanted: dict[str, Any]) -> None:
    """The body that would be sent, as the page shows it, becomes the wanted one."""
    shown: dict[str, Any] = {}
    for _ in range(100):
        texts = visit.page.get_by_label("POST /v1/jobs", exact=True).all_text_contents()
        shown = json.loads(texts[0]) if texts else {}
        if shown == wanted:
            return
        visit.page.wait_for_timeout(200)
    assert shown == wanted


def fault_of(visit: Visit, control: str) -> Locator:
    return visit.page.locator(".field", has=visit.page.locator(control)).locator(".fault").first


def reachable(schema: dict[str, Any], node: dict[str, Any], prefix: str = "") -> list[str]:
    """The ids that the fields of a schema have in the form, but for the network's own."""
    found = []
    for name, inner in node["properties"].items():
        if name == "network":
            continue
        mine = prefix + name.replace("_", "-")
        ways = inner.get("anyOf", [inner])
        objects = [schema["$defs"][way["$ref"].split("/")[-1]] for way in ways if "$ref" in way]
        if not objects or len(ways) > 1:
            found.append(mine)
        for one in objects:
            found += reachable(schema, one, f"{mine}-")
    return found


def test_every_field_of_the_spec_is_in_the_form_with_its_help(form: Visit) -> None:
    page, schema = form.page, TrainSpec.model_json_schema()
    ids = reachable(schema, schema)
    assert len(ids) > 40
    missing = [one for one in ids if page.locator(f"#{one}").count() != 1]
    assert missing == []
    rate = page.locator("#optimizer-momentum")
    assert (rate.get_attribute("min"), rate.get_attribute("max"), rate.get_attribute("placeholder")) == (
        "0",
        "1",
        "0.9",
    )
    expect(page.locator("#image-size-help")).to_have_text("Side of the square, in pixels.")
    expect(page.locator("#recipe option")).to_have_text(["textbook", "speedrun", "none"])
    assert form.complaints == []


def test_what_is_chosen_is_sent_and_nothing_else(form: Visit) -> None:
    page = form.page
    body = {"type": "train", "model": "colours", "dataset": "colours", "seed": 0, "spec": {}}
    sends(form, body)
    page.select_option("#recipe", label="speedrun")
    page.fill("#image-size", "32")
    page.fill("#optimizer-lr", "0.01")
    page.select_option("#optimizer-name", label="sgd")
    page.select_option("#augment", OWN)
    page.select_option("#augment-horizontal-flip", label="alternating")
    page.fill("#augment-rotate", "15")
    page.select_option("#progressive", label="none")
    page.select_option("#early-stopping", OWN)
    page.select_option("#loss-class-weights", OWN)
    page.fill("#loss-class-weights-own", "1, 2.5 1")
    page.fill("#goal", "0.9")
    page.fill("#budget", "60")
    wanted = {
        **body,
        "spec": {
            "recipe": "speedrun",
            "image_size": 32,
            "optimizer": {"lr": 0.01, "name": "sgd"},
            "augment": {"horizontal_flip": "alternating", "rotate": 15},
            "progressive": None,
            "early_stopping": {},
            "loss": {"class_weights": [1, 2.5, 1]},
        },
        "goal": {"metric": "accuracy", "at_least": 0.9},
        "budget": {"seconds": 60},
    }
    sends(form, wanted)
    assert form.complaints == []


def test_an_error_stands_at_its_field(form: Visit) -> None:
    page = form.page
    page.select_option("#network", "classic")
    for control, value, words in (
        ("#optimizer-lr", "20", "less than or equal to 10"),
        ("#epochs", "0", "greater than or equal to 1"),
        ("#seed", "-1", "greater than or equal to 0"),
        ("#budget", "1", "greater than or equal to 5"),
        ("#goal", "2", "less than or equal to 1"),
        ("#model", "a/b", "a name has 1 to 64"),
        ("#initial-weights", "pretrained", "named torchvision networks only"),
    ):
        before = page.input_value(control)
        change = page.select_option if control == "#initial-weights" else page.fill
        change(control, value)
        expect(fault_of(form, control)).to_contain_text(words)
        assert page.locator(control).get_attribute("aria-invalid") == "true"
        change(control, before)
        expect(fault_of(form, control)).to_have_text("")
    page.select_option("#loss-class-weights", OWN)
    page.fill("#loss-class-weights-own", "1, two")
    expect(fault_of(form, "#loss-class-weights")).to_contain_text("write numbers")
    page.fill("#loss-class-weights-own", "1, 2")
    expect(fault_of(form, "#loss-class-weights")).to_contain_text("2 class weights for 3 classes")


def test_an_error_about_a_layer_names_its_line(form: Visit) -> None:
    page = form.page
    page.select_option("#network", "layers")
    page.fill("#layers", "# mine\nconv 4 3 relu\n\nmax_pool 20\nmax_pool 20")
    page.fill("#image-size", "32")
    expect(page.locator("#layers-fault")).to_contain_text("Line 5: a window of 20 does not fit")
    page.fill("#layers", "conv 4 3 relu\nmax_pol 2")
    expect(page.locator("#layers-fault")).to_contain_text("Line 2: there is no layer called max_pol")
    page.get_by_role("button", name="compact", exact=True).click()
    expect(page.locator("#layers-fault")).to_have_text("")
    assert page.input_value("#layers").startswith("conv 32 3 norm relu\nmax_pool 2\n")
    expect(page.get_by_role("cell", name="residual").first).to_be_visible()
    for words, parameters in (("conv 4 3", 112), ("conv 4 3 nobias", 108), ("conv 4 3 norm", 116)):
        page.fill("#layers", f"{words}\nglobal_avg_pool")
        expect(page.get_by_role("row", name=re.compile(f"^conv 4 x 32 x 32 {parameters} "))).to_have_count(1)


def test_pressing_train_leads_to_the_field_that_is_wrong(form: Visit) -> None:
    page = form.page
    page.fill("#optimizer-lr", "20")
    page.get_by_text("Every knob").click()
    expect(page.locator("#optimizer-lr")).to_be_hidden()
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.locator("#optimizer-lr")).to_be_focused()
    assert "watch" not in page.url


def test_the_estimate_follows_the_form(form: Visit) -> None:
    page = form.page
    epochs = page.locator(".facts div", has=page.get_by_text("Epochs", exact=True)).locator("dd")
    page.fill("#epochs", "7")
    expect(epochs).to_have_text("7")
    for name in ("Time", "Memory", "Disk"):
        expect(page.locator("dt", has_text=name)).to_be_visible()
    expect(page.get_by_text("In four of five cases between")).to_be_visible()


def test_a_search_is_begun_and_watched(form: Visit) -> None:
    page = form.page
    page.select_option("#type", "search")
    expect(page.locator("#vary-fault")).to_contain_text("A search varies something.")
    page.select_option("#network", "layers")
    page.fill("#layers", LAYERS)
    for control, value in (("#epochs", "3"), ("#image-size", "32"), ("#batch-size", "8"), ("#trials", "4")):
        page.fill(control, value)
    for pointer in ("/optimizer/lr", "/network/layers/0/conv/filters", "/network/layers/0/conv/activation"):
        page.select_option("#vary", pointer)
        page.get_by_role("button", name="Vary it").click()
    filters = page.locator("fieldset.part", has=page.locator("legend", has_text="conv: filters"))
    expect(filters.locator(".fault")).to_contain_text("say from where to where")
    filters.get_by_label("From").fill("2")
    filters.get_by_label("To").fill("5000")
    expect(filters.locator(".fault")).to_contain_text("less than or equal to 4096")
    filters.get_by_label("To").fill("12")
    activation = page.locator("fieldset.part", has=page.locator("legend", has_text="conv: activation"))
    for word in ("relu6", "leaky_relu", "sigmoid", "tanh", "silu", "hardswish"):
        activation.get_by_label(word, exact=True).uncheck()
    expect(page.get_by_text("4 at most")).to_be_visible()
    assert serious(form) == []
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_role("link", name="Trial 1", exact=True)).to_be_visible()
    expect(page.get_by_text("right on pictures it never saw")).to_be_visible(timeout=180_000)
    job = form.fovea.http.get("/v1/jobs?type=search").json()["data"][0]
    assert job["search"] == {
        "space": {
            "/optimizer/lr": {"log_uniform": [0.0001, 0.01]},
            "/network/layers/0/conv/filters": {"int": [2, 12]},
            "/network/layers/0/conv/activation": {"choice": ["relu", "gelu", None]},
        },
        "trials": 4,
        "metric": "val/accuracy",
    }
    rows = form.fovea.http.get("/v1/jobs", params={"parent": job["id"]}).json()["data"]
    expect(page.get_by_role("link", name=re.compile(r"^Trial \d"))).to_have_count(4)
    best = page.locator("tr", has=page.locator(".badge", has_text="best"))
    expect(best).to_have_count(1)
    (winner,) = [row for row in rows if row["id"] == job["result"]["trial"]]
    expect(best.get_by_role("link")).to_have_text(f"Trial {winner['trial']}")
    assert serious(form) == []

    by_rate = sorted((row["parameters"]["/optimizer/lr"], row["trial"]) for row in rows)
    page.get_by_role("button", name="optimizer lr").click()
    expect(page.locator("tbody a")).to_have_text([f"Trial {trial}" for _, trial in by_rate])
    page.get_by_role("link", name=f"Trial {winner['trial']}", exact=True).click()
    expect(page.locator("h1")).to_have_text(f"Trial {winner['trial']} of colours")
    expect(page.locator("path.line-1").first).to_be_visible()
    expect(page.get_by_role("button", name="Cancel and throw away")).to_have_count(0)
    page.get_by_role("link", name="a search").click()
    expect(page.locator("h1")).to_have_text("Search for colours")


def serious(visit: Visit) -> list[tuple[str, Any]]:
    faults = Axe().run(visit.page).response["violations"]
    bad = [fault for fault in faults if fault["impact"] in ("serious", "critical")]
    return [(fault["id"], node["target"]) for fault in bad for node in fault["nodes"]]
