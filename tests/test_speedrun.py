"""The speedrun recipe: how weights begin, what the recipe fills in, and that its models answer as they were trained."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from service.auto import DatasetFacts, Source, explained, resolve
from service.cost import cost, operations
from service.errors import InvalidValue
from service.inference.torch_program import load
from service.networks import work_while_growing
from service.presets import PRESETS
from service.spec import TrainSpec
from tests.conftest import Fovea, digits_zip, png
from workers.training import export, initialisation
from workers.training.augment import normalise
from workers.training.data import Split
from workers.training.initialisation import _portions
from workers.training.loop import Run, train
from workers.training.state import TrainState, prepare, start, weights_sha256

PLAN = {"precision": "fp32", "channels_last": False}
CLASSES = 3
PHOTOS = DatasetFacts(1600, CLASSES, 32, grey=False)


WIDE = {"conv": {"filters": 8, "kernel": 9}}


def make_spec(facts: DatasetFacts = PHOTOS, **changes: Any) -> dict[str, Any]:
    return resolve(TrainSpec.model_validate({"recipe": "speedrun", **changes}), facts)


def make_split(count: int = 60, side: int = 32) -> Split:
    """Pictures whose neighbouring pixels and channels resemble each other, as in photographs."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 255, (count, side // 4, side // 4, 1)).repeat(4, 1).repeat(4, 2)
    packed = np.clip(coarse + random.integers(-40, 40, (count, side, side, 3)), 0, 255).astype(np.uint8)
    return Split.of(packed, np.arange(count), random.integers(0, CLASSES, count), "cpu")


def begun(spec: dict[str, Any], seed: int = 1) -> TrainState:
    prepare("cpu", 1)
    return start(spec, CLASSES, seed, "cpu", PLAN, train=make_split())


def test_the_first_answers_are_uncorrelated_and_as_large_in_every_direction() -> None:
    pixels = normalise(make_split().images(torch.arange(60)))
    first = next(begun(make_spec()).network.children())
    with torch.inference_mode():
        answers = F.conv2d(pixels, first.weight[::2], first.bias[::2])  # of each direction once, at every place
    found = torch.cov(answers.permute(1, 0, 2, 3).flatten(1))
    assert torch.allclose(found, torch.eye(len(found)), atol=0.02)
    assert answers.mean((0, 2, 3)).abs().max() < 0.02
    assert torch.equal(first.weight[::2], -first.weight[1::2])
    assert torch.corrcoef(pixels.permute(1, 0, 2, 3).flatten(1))[0, 1] > 0.5  # what it had to work on


def test_the_beginning_is_a_function_of_pictures_spec_and_seed_and_the_first_filters_are_never_learned() -> None:
    spec = make_spec(batch_size=8, epochs=1)
    split, state, again = make_split(), begun(spec), begun(spec)
    assert weights_sha256(state.network.state_dict()) == weights_sha256(again.network.state_dict())
    first, second = state.network[0], state.network[2]  # type: ignore[index]
    before = first.weight.clone(), second.weight.clone()
    list(train(state, Run(split, split, spec, PLAN, 1)))
    assert torch.equal(first.weight, before[0])
    assert not torch.equal(second.weight, before[1])
    assert not torch.equal(begun(spec | {"initialisation": None}).network[0].weight, first.weight)  # type: ignore[index]


@pytest.mark.parametrize("window", [1, 3, 4, 5, 9, 31])
@pytest.mark.parametrize("side", [31, 32, 64, 256, 512])
@pytest.mark.parametrize("count", [2, 300, 1000])
def test_whitening_looks_at_as_many_patches_as_memory_allows(count: int, side: int, window: int) -> None:
    part, pictures = _portions(count, side, window)
    size, places = 3 * window**2, (part - window + 1) ** 2
    assert window <= part <= side
    assert 1 <= pictures <= 100
    assert pictures * max(places * size, 3 * side**2, size**2) <= 2**23
    assert count * places * size <= 2**26
    assert part == side or count == 2 or count * places > 4 * size  # enough of them for a covariance
    if side <= 32 and window <= 5:
        assert (part, pictures) == (side, 100)  # what recorded trainings began with


def test_parts_of_pictures_whiten_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initialisation, "MOST_NUMBERS", 60 * 48 * 15**2)
    monkeypatch.setattr(initialisation, "AT_ONCE", 4 * 48 * 15**2)
    assert _portions(60, 32, 4) == (18, 4)
    pixels = normalise(make_split().images(torch.arange(60)))
    first = next(begun(make_spec()).network.children())
    with torch.inference_mode():
        answers = F.conv2d(pixels, first.weight[::2], first.bias[::2])
    found = torch.cov(answers.permute(1, 0, 2, 3).flatten(1))
    assert (found - torch.eye(len(found))).abs().max() < 0.2


def test_convolutions_begin_by_passing_on_what_they_are_given() -> None:
    layers = [{"conv": {"filters": 5, "kernel": 1}}, {"conv": {"filters": 8}}, {"global_avg_pool": {}}]
    spec = make_spec(network={"layers": layers}, initialisation={"identity": True})
    state = begun(spec)
    second = state.network[1]  # type: ignore[index]
    given = torch.randn(2, 5, 6, 6)
    assert torch.allclose(second(given)[:, :5] - second.bias[:5].view(1, 5, 1, 1), given, atol=1e-6)


def resumed(spec: dict[str, Any], step: int) -> tuple[str, str]:
    """Hashes of the weights after a run that was never stopped, and after one that went on from bytes."""
    split, whole, first, second = make_split(), begun(spec), begun(spec), begun(spec, seed=99)
    run = Run(split, split, spec, PLAN, 1)
    list(train(whole, run))
    for progress in train(first, run):
        if progress.step >= step:
            break
    second.load_bytes(first.to_bytes())
    list(train(second, run))
    return weights_sha256(whole.network.state_dict()), weights_sha256(second.network.state_dict())


@pytest.mark.parametrize("changes", [{}, {"network": "compact", "progressive": {"until": 0.9}}])
def test_the_recipe_is_exact_when_resumed(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.training.loop.YIELD_SECONDS", 0.0)
    small = {"image_size": 32, "epochs": 2, "batch_size": 10}
    calm, after = resumed(make_spec(**small, **changes), 5)
    assert calm == after
    assert calm != resumed(make_spec(**small, **changes, initialisation=None), 5)[0]


def test_a_recipe_fills_in_what_is_auto_with_its_reason_and_changes_nothing_that_was_given() -> None:
    given = {"recipe": "speedrun", "epochs": 3, "optimizer": {"name": "sgd"}, "ema": None}
    spec, reasons = explained(TrainSpec.model_validate(given), PHOTOS)
    assert (spec["epochs"], spec["optimizer"]["name"], spec["ema"]) == (3, "sgd", None)
    assert not {"epochs", "optimizer.name", "ema"} & reasons.keys()
    filled = {"network", "optimizer.lr", "schedule", "initialisation", "augment", "loss.label_smoothing"}
    assert all(reasons[name].startswith("speedrun: ") for name in filled)
    assert spec["initialisation"] == {"whitening": {"eps": 5e-4}, "identity": True}
    assert TrainSpec.model_validate(spec).model_dump(mode="json") == spec
    textbook, told = explained(TrainSpec(recipe="textbook"), PHOTOS)
    assert (textbook["network"], textbook["optimizer"]["name"]) == ("classic", "adam")
    assert told["network"].startswith("textbook: ")
    named = make_spec(network="resnet18")
    assert (named["initialisation"], named["optimizer"]["name"]) == (None, "muon")


@pytest.mark.parametrize("recipe", ["textbook", "speedrun"])
def test_where_weights_are_given_they_and_no_recipe_decide_about_the_network(recipe: str) -> None:
    given = TrainSpec.model_validate({"recipe": recipe, "initial_weights": "pretrained"})
    assert resolve(given, PHOTOS)["network"] == "resnet18"
    own = given.model_copy(update={"initial_weights": "m:1"})
    assert resolve(own, PHOTOS, source=Source("compact", 48, "plain"))["network"] == "compact"


def test_pictures_that_may_be_writing_are_not_mirrored() -> None:
    photos = make_spec()
    assert photos["augment"]["horizontal_flip"] == "alternating"
    assert photos["test_time_augmentation"] == "flip"
    for facts in (DatasetFacts(1600, 10, 32, grey=True), DatasetFacts(1600, 10, 32, grey=False, signs=True)):
        spec = make_spec(facts)
        assert spec["augment"]["horizontal_flip"] is False
        assert spec["test_time_augmentation"] is None
        assert resolve(TrainSpec(), facts)["augment"]["horizontal_flip"] is False


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"network": "resnet18", "initialisation": {"identity": True}}, "/spec/initialisation"),
        (
            {"network": "compact", "initial_weights": "a:1", "initialisation": {"identity": True}},
            "/spec/initialisation",
        ),
        ({"network": {"layers": [{"max_pool": 2}]}, "initialisation": {"whitening": {}}}, None),
        ({"network": {"layers": [{"conv": {"filters": 55}}]}, "initialisation": {"whitening": {}}}, None),
        ({"network": {"layers": [WIDE]}, "image_size": 8, "initialisation": {"whitening": {}}}, None),
    ],
)
def test_a_beginning_that_cannot_be_is_refused_with_the_field_that_says_so(changes: Any, param: str | None) -> None:
    with pytest.raises(InvalidValue, match="begin") as caught:
        resolve(TrainSpec.model_validate(changes), PHOTOS)
    assert caught.value.param == (param or "/spec/initialisation/whitening")
    assert caught.value.code == "impossible_initialisation"


def test_the_recipe_whitens_no_window_larger_than_the_picture() -> None:
    for side, whitened in ((8, False), (9, True)):
        spec = make_spec(network={"layers": [WIDE]}, image_size=side)
        assert (spec["initialisation"]["whitening"] is not None) == whitened


def test_large_pictures_grow_where_time_is_short_and_the_network_lets_them() -> None:
    large = DatasetFacts(4000, CLASSES, 300, grey=False)

    def asked(seconds: float, **changes: Any) -> tuple[Any, str]:
        wanted = TrainSpec.model_validate({"image_size": 128, "network": "compact", **changes})
        spec, reasons = explained(wanted, large, budget_seconds=seconds, gflops=40)
        return spec["progressive"], reasons.get("progressive", "")

    assert asked(300)[0] == {"start": 0.5, "until": 0.7}
    assert asked(300_000) == (None, "300000 s are enough for whole pictures")
    assert asked(300, network="classic") == (None, "this network takes pictures of one size only")
    assert asked(300, image_size=32) == (None, "pictures of 32 px are small")
    assert asked(300, progressive=None) == (None, "")
    growing, whole = (
        resolve(TrainSpec.model_validate({"image_size": 128, "network": "compact", **more}), large, gflops=60)
        for more in ({}, {"progressive": None})
    )
    assert growing["epochs"] > whole["epochs"]  # what is saved is spent


def test_the_work_of_a_run_counts_growing_pictures_and_fixed_filters() -> None:
    growth = {"start": 0.5, "until": 0.5}
    assert work_while_growing(growth, 128, "compact", 0.5, 1.0) == 1.0
    assert work_while_growing(growth, 128, "compact", 0.0, 0.01) == pytest.approx(0.25)
    spec = TrainSpec.model_validate(make_spec())
    plain = spec.model_copy(update={"initialisation": None})
    assert operations(plain, 3) == 6 * cost(spec, 3).multiply_adds
    first = 16 * 16 * 32 * 3 * 4 * 4
    assert operations(plain, 3) - operations(spec, 3) == 4 * first


@pytest.mark.parametrize("averaging", ["flip", "translate", "flip_translate"])
def test_averaged_answers_are_exported_and_maps_are_those_of_the_picture_itself(averaging: str) -> None:
    state, split = begun(make_spec()), make_split()
    network = state.network.eval()
    both = [export.Classifier(network, averaging=one) for one in (None, averaging)]
    served = [export.fitted(one, split.packed, split.rows, split.labels.numpy()) for one in both]
    images = split.images(torch.arange(8)).contiguous()
    with torch.inference_mode():
        plain, averaged = (one(images) for one in served)
        mirrored = network(normalise(images.flip(3)))
    assert torch.equal(plain["strangeness"], averaged["strangeness"])
    same = plain["logits"].argmax(1) == averaged["logits"].argmax(1)
    assert same.any()
    assert torch.equal(plain["maps"][same], averaged["maps"][same])
    if averaging == "flip":
        assert torch.allclose(averaged["logits"], (plain["logits"] + mirrored) / 2, atol=1e-5)
    assert not torch.allclose(averaged["logits"], plain["logits"], atol=1e-3)
    program = load(export.export_program(served[1], 32), "cpu", 1)
    assert export.certify(averaged["logits"].numpy(), program(split.packed[:8]))["passed"]


def test_shifted_copies_count_as_much_as_the_picture() -> None:
    class Corner(torch.nn.Module):
        """What the pixel in the corner is, and what its neighbour down and right is."""

        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(2, 2)
            torch.nn.init.eye_(self.head.weight)
            torch.nn.init.zeros_(self.head.bias)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            answers: torch.Tensor = self.head(torch.stack((images[:, 0, 0, 0], images[:, 0, 1, 1]), 1))
            return answers

    images = make_split(side=32).images(torch.arange(4))
    pixels = normalise(images)[:, 0]
    found = export.Classifier(Corner(), averaging="translate")(images)
    here = torch.stack((pixels[:, 0, 0], pixels[:, 1, 1]), 1)
    before = torch.stack((pixels[:, 0, 0], pixels[:, 0, 0]), 1)  # the edge is repeated
    after = torch.stack((pixels[:, 1, 1], pixels[:, 2, 2]), 1)
    assert torch.allclose(found, here / 2 + (before + after) / 4, atol=1e-6)


def test_every_preset_can_begin_whitened() -> None:
    for name in PRESETS:
        assert resolve(TrainSpec(recipe="speedrun", network=name), PHOTOS)["initialisation"]["whitening"]


def test_a_speedrun_job_becomes_a_model_that_says_where_it_looked_and_is_reproduced_to_the_bit(shared: Fovea) -> None:
    shared.dataset(digits_zip(800), "speedrun-digits")
    spec = {"recipe": "speedrun", "epochs": 3, "test_time_augmentation": "translate", "precision": "fp32"}
    job = shared.wait(shared.train("speedrun", "speedrun-digits", spec)["id"])
    assert job["status"] == "succeeded", job
    assert job["reasons"]["network"].startswith("speedrun: ")
    assert job["result"]["metrics"]["accuracy"] > 0.9
    again = shared.http.post(f"/v1/jobs/{job['id']}:reproduce")
    assert again.status_code == 202, again.text
    assert shared.wait(again.json()["id"])["result"]["equal"] is True
    picture = png(np.zeros((8, 8), np.uint8))
    answer = shared.http.post("/v1/models/speedrun/classify?explain=cam", content=picture)
    assert answer.status_code == 200, answer.text
    assert answer.json()["results"][0]["explanation"] is not None
    network = shared.http.get("/v1/networks/speedrun").json()
    dry = shared.http.post(
        "/v1/jobs?dry_run=true", json=network["template"] | {"model": "a", "dataset": "speedrun-digits"}
    )
    assert dry.status_code == 200, dry.text
    assert dry.json()["spec"]["initialisation"]["identity"] is True
