"""The loop by itself: exact resume at any step, and controls that show the test could fail."""

from typing import Any

import numpy as np
import pytest
import torch

from service.auto import DatasetFacts, resolve
from service.errors import InvalidValue
from service.inference.score import probabilities
from service.spec import TrainSpec
from workers.train_job import remedy
from workers.training import calibration, evaluate, export
from workers.training.augment import augment, blends, draws, mix
from workers.training.budget import total_steps
from workers.training.course import changed, planned
from workers.training.data import Split
from workers.training.loop import Diverged, EpochResult, Run, train, validate
from workers.training.losses import focal
from workers.training.muon import orthogonalise
from workers.training.optim import learning_rate
from workers.training.randomness import seed_globally
from workers.training.state import TrainState, network_of, prepare, start, weights_sha256

PLAN = {"precision": "fp32", "channels_last": False}
CLASSES = 3


def make_spec(*, several: bool = False, **changes: Any) -> dict[str, Any]:
    layers = [
        {"conv": {"filters": 4, "batch_norm": True, "activation": "relu"}},
        {"max_pool": 4},
        {"dropout": {"p": 0.3}},
        {"dense": {"units": 8, "activation": "relu"}},
    ]
    wanted = {"network": {"layers": layers}, "image_size": 16, "epochs": 3, "batch_size": 4, **changes}
    return resolve(TrainSpec.model_validate(wanted), DatasetFacts(30, CLASSES, 16, grey=False, several_labels=several))


def make_run(spec: dict[str, Any], seed: int = 1, *, several: bool = False, side: int = 16) -> Run:
    random = np.random.default_rng(0)
    packed = random.integers(0, 255, (40, side, side, 3), dtype=np.uint8)
    labels = random.integers(0, CLASSES, 40)
    labels = (random.random((40, CLASSES)) < 0.4).astype(np.float32) if several else labels
    rows = np.arange(40)
    prepare("cpu", 1)
    return Run(
        Split.of(packed, rows[:30], labels[:30], "cpu"),
        Split.of(packed, rows[30:], labels[30:], "cpu"),
        spec,
        PLAN,
        seed,
    )


def finish(state: TrainState, run: Run) -> tuple[str, list[dict[str, float]]]:
    results = [one.metrics for one in train(state, run) if isinstance(one, EpochResult)]
    for metrics in results:
        metrics.pop("images_per_second")
    return weights_sha256(state.network.state_dict()), results


def interrupted(spec: dict[str, Any], run: Run, plan: dict[str, Any], step: int) -> TrainState:
    """What a second process goes on from after this step: all of it must come from the bytes."""
    first = start(spec, CLASSES, 1, "cpu", plan)
    for progress in train(first, run):
        if progress.step == step:
            break
    second = start(spec, CLASSES, 99, "cpu", plan)  # other initial weights
    second.load_bytes(first.to_bytes())
    return second


@pytest.fixture(autouse=True)
def _yield_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.training.loop.YIELD_SECONDS", 0.0)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("steps", [1, 7, 10])  # within an epoch, at its end, within the next
def test_resuming_at_any_step_ends_with_the_same_weights_and_metrics(optimizer: str, steps: int) -> None:
    spec = make_spec(optimizer={"name": optimizer, "weight_decay": 0.01})
    run = make_run(spec)
    calm, told = finish(start(spec, CLASSES, 1, "cpu", PLAN), run)

    second = interrupted(spec, run, PLAN, steps)
    resumed, told_after = finish(second, run)
    assert resumed == calm
    assert told_after == told[len(told) - len(told_after) :]


RECIPES: dict[str, dict[str, Any]] = {
    "muon": {"optimizer": {"name": "muon", "norm_bias_rate": 8.0, "clip_norm": 1.0}},
    "ema": {"ema": {"decay": 0.9}},
    "mixed": {"augment": {"mixup": 0.4, "cutmix": 1.0, "horizontal_flip": "alternating"}},
    "turned": {"augment": {"rotate": 20.0, "zoom": 0.2, "erase": 0.3}},
    "focal": {"loss": {"name": "focal", "class_weights": "balanced", "label_smoothing": 0.1}},
    "parts": {"optimizer": {"accumulate": 2, "clip_norm": 0.5}},
    "growing": {
        "network": {
            "layers": [
                {"conv": {"filters": 4, "batch_norm": True}},
                {"residual": {"layers": [{"depthwise_conv": {"stride": 2}}, {"conv": {"filters": 8, "kernel": 1}}]}},
                {"global_avg_pool": {}},
            ]
        },
        "progressive": {"start": 0.5, "until": 0.6},
        "image_size": 32,
    },
}


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "muon"])
def test_resuming_is_exact_in_the_other_memory_layout_too(optimizer: str) -> None:
    plan = {"precision": "fp32", "channels_last": True}
    layers = [{"conv": {"filters": 11, "activation": "gelu"}}, {"max_pool": 4}]  # an odd number of channels
    spec = make_spec(network={"layers": layers}, optimizer={"name": optimizer}, epochs=6)
    run = make_run(spec)
    run.layout = torch.channels_last
    calm, _ = finish(start(spec, CLASSES, 1, "cpu", plan), run)
    second = interrupted(spec, run, plan, 13)
    assert finish(second, run)[0] == calm


@pytest.mark.parametrize("name", RECIPES)
def test_every_option_is_exact_when_resumed_and_changes_the_outcome(name: str) -> None:
    spec = make_spec(**RECIPES[name])
    run = make_run(spec)
    calm, told = finish(start(spec, CLASSES, 1, "cpu", PLAN), run)
    second = interrupted(spec, run, PLAN, 9)
    resumed, told_after = finish(second, run)
    assert resumed == calm
    assert told_after == told[len(told) - len(told_after) :]
    without = {key: value for key, value in RECIPES[name].items() if key in ("network", "image_size")}
    plain = make_spec(**without, augment=None) if name in ("mixed", "turned") else make_spec(**without)
    assert finish(start(plain, CLASSES, 1, "cpu", PLAN), make_run(plain)) != (calm, told)


@pytest.mark.parametrize("loss", [{}, {"class_weights": "balanced", "label_smoothing": 0.1}])
def test_several_labels_are_exact_when_resumed(loss: dict[str, Any]) -> None:
    spec = make_spec(several=True, loss=loss, augment={"mixup": 0.4})
    run = make_run(spec, several=True)
    calm, told = finish(start(spec, CLASSES, 1, "cpu", PLAN), run)
    assert 0 <= told[-1]["val/mean_average_precision"] <= 1
    second = interrupted(spec, run, PLAN, 9)
    assert finish(second, run) == (calm, told[1:])


def test_a_batch_taken_in_parts_has_the_gradients_of_the_whole() -> None:
    layers = [{"conv": {"filters": 4, "activation": "relu"}}, {"max_pool": 4}]
    whole, parts = (
        make_spec(network={"layers": layers}, optimizer={"name": "sgd", "accumulate": k}, augment=None) for k in (1, 2)
    )
    states = []
    for spec in (whole, parts):
        states.append(start(spec, CLASSES, 1, "cpu", PLAN))
        next(train(states[-1], make_run(spec)))
    for one, other in zip(*(state.network.parameters() for state in states), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_the_averaged_weights_are_those_that_are_judged_and_kept() -> None:
    spec = make_spec(ema={"decay": 0.9})
    state, run = start(spec, CLASSES, 1, "cpu", PLAN), make_run(spec)
    *_, last = train(state, run)
    assert state.average is not None
    kept = network_of(state.to_bytes())
    assert all(torch.equal(kept[name], tensor) for name, tensor in state.average.items())
    state.network.load_state_dict(kept)
    state.average = None
    assert validate(state, run).items() <= last.metrics.items()


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    for shape in ((16, 40), (40, 16)):
        found = torch.linalg.svdvals(orthogonalise(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
        assert found.min() > 0.6
        assert found.max() < 1.3


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (96, 864)])
def test_orthogonalising_by_gram_matrices_is_the_published_iteration(shape: tuple[int, int]) -> None:
    luck = torch.Generator().manual_seed(0)
    poor = torch.randn(shape[0], 3, generator=luck) @ torch.randn(3, shape[1], generator=luck)  # of rank three
    for matrix in (torch.randn(shape, generator=luck), poor + 1e-3 * torch.randn(shape, generator=luck)):
        x = matrix.double() / matrix.norm()
        for _ in range(5):  # Jordan et al. 2024
            product = x @ x.T
            x = 3.4445 * x + (-4.7750 * product + 2.0315 * product @ product) @ x
        torch.testing.assert_close(orthogonalise(matrix).double(), x, rtol=0, atol=2e-3)


def test_what_is_drawn_globally_depends_on_the_seed_and_the_purpose_alone() -> None:
    drawn = []
    for seed, purpose in ((1, "init"), (1, "dropout"), (1, "init")):
        seed_globally(seed, purpose)
        drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


def test_focal_loss_without_gamma_is_cross_entropy() -> None:
    logits, labels = torch.randn(9, 4), torch.arange(9) % 4
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected = torch.nn.functional.cross_entropy(logits, labels, weights)
    assert torch.allclose(focal(logits, labels, 0.0, weights, 0.0), expected)
    assert focal(logits, labels, 2.0, None, 0.0) < focal(logits, labels, 0.0, None, 0.0)


def test_mixing_tells_the_share_of_each_picture() -> None:
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 16, 16)
    for recipe in ({"mixup": 1.0, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}):
        for blend in blends(recipe, 0, range(20), 16):
            mixed, share = mix(images, blend), blend[6]
            expected = share * images + (1 - share) * images.roll(1, 0)
            assert torch.allclose(mixed.mean((1, 2, 3)), expected.mean((1, 2, 3)), atol=1e-5)
            if recipe["cutmix"]:
                assert mixed.unique().numel() <= 4  # of whole pictures, nothing in between
    assert torch.equal(mix(images, blends(None, 0, range(1), 16)[0]), images)


def test_how_a_step_mixes_depends_on_its_number_alone() -> None:
    recipe = {"mixup": 0.4, "cutmix": 1.0}
    assert torch.equal(blends(recipe, 3, range(5, 9), 16), blends(recipe, 3, range(9), 16)[5:])
    assert len(blends(recipe, 3, range(9), 16).unique(dim=0)) == 9


def test_a_goal_ends_the_run_when_it_is_reached() -> None:
    spec = make_spec(epochs=200)
    run = make_run(spec)
    run.goal = {"metric": "accuracy", "at_least": 0.2}
    state = start(spec, CLASSES, 1, "cpu", PLAN)
    _, told = finish(state, run)
    assert state.counters.ended == "goal_reached"
    assert told[-1]["val/accuracy"] >= 0.2
    assert len(told) < 200


def test_a_run_may_be_shortened_under_way_and_ends_with_its_rate_run_down() -> None:
    spec = make_spec(epochs=50)
    state, run = start(spec, CLASSES, 1, "cpu", PLAN), make_run(spec)
    for progress in train(state, run):
        if progress.step == 20:
            state.counters.total = 31
    assert state.counters.step == 31
    assert isinstance(progress, EpochResult)
    assert progress.metrics["lr"] < 0.01 * spec["optimizer"]["lr"]


def test_a_run_with_a_budget_is_repeated_from_its_record() -> None:
    spec = make_spec(epochs=50)
    state = start(spec, CLASSES, 1, "cpu", PLAN)
    for progress in train(state, make_run(spec)):
        if progress.step in (13, 20):
            state.revise(60 - progress.step)
    assert [row[0] for row in state.counters.revisions] == [13, 20]
    run = make_run(spec)
    run.revisions, run.until = dict(state.counters.revisions), state.counters.step
    again = start(spec, CLASSES, 1, "cpu", PLAN)
    assert finish(again, run)[0] == weights_sha256(state.network.state_dict())


def test_a_budget_plans_the_steps_that_fit_and_changes_little_of_a_good_plan() -> None:
    fitting = total_steps(step=50, planned=1000, wanted=1000, left=60, step_seconds=0.2)
    assert fitting == 50 + 300
    assert total_steps(50, fitting + 3, 1000, 60, 0.2) == fitting + 3
    assert total_steps(50, 200, 200, 60, 0.2) == 200
    assert total_steps(50, 1000, 1000, -9, 0.2) == 51  # it is over: one more step, with the rate run down


def test_what_ran_out_of_memory_is_tried_in_smaller_parts_down_to_two_pictures() -> None:
    spec = make_spec(batch_size=8)
    error = torch.OutOfMemoryError("CUDA out of memory")
    assert remedy(error, {}, spec, 30)[0] == {"parts": 2}
    assert remedy(RuntimeError("DefaultCPUAllocator: can't allocate memory"), {"parts": 2}, spec, 30)[0] == {"parts": 4}
    assert remedy(error, changed({"parts": 1}, 3, {"parts": 2}), spec, 30)[0] == {"parts": 4}
    for parts, pictures in ((4, 30), (2, 7)):
        with pytest.raises(torch.OutOfMemoryError):
            remedy(error, {"parts": parts}, spec, pictures)
    with pytest.raises(RuntimeError, match="other"):
        remedy(RuntimeError("other"), {}, spec, 30)


@pytest.mark.parametrize(("batch", "parts"), [(4, 2), (7, 3), (30, 14)])
def test_no_part_of_a_batch_is_a_picture_alone(batch: int, parts: int) -> None:
    layers = [{"global_avg_pool": {}}, {"dense": {"units": 4, "batch_norm": True}}]
    spec = make_spec(network={"layers": layers}, batch_size=batch, epochs=1, optimizer={"accumulate": parts})
    finish(start(spec, CLASSES, 1, "cpu", PLAN), make_run(spec))


@pytest.mark.parametrize(("batch", "parts"), [(2, 2), (5, 3), (64, 16)])
def test_parts_of_one_picture_are_refused(batch: int, parts: int) -> None:
    with pytest.raises(InvalidValue) as caught:
        make_spec(batch_size=batch, optimizer={"accumulate": parts})
    assert (caught.value.code, caught.value.param) == ("parts_too_small", "/spec/optimizer/accumulate")


def test_a_loss_that_is_no_number_is_tried_once_more_at_a_tenth_of_the_rate() -> None:
    assert remedy(Diverged(3), {}, make_spec(), 30)[0] == {"rate_scale": 0.1}
    with pytest.raises(Diverged):
        remedy(Diverged(3), changed({}, 2, {"rate_scale": 0.1}), make_spec(), 30)


def test_a_plan_that_was_changed_at_a_checkpoint_is_the_course_that_was_taken() -> None:
    spec = make_spec()
    parts, rate = {"parts": 2}, {"rate_scale": 0.1}
    plan = changed(changed(PLAN, 5, parts), 9, rate)
    told = [(planned(plan, "parts", 1, step), planned(plan, "rate_scale", 1.0, step)) for step in (4, 5, 9)]
    assert told == [(1, 1.0), (2, 1.0), (2, 0.1)]

    state = interrupted(spec, make_run(spec), PLAN, 5)  # the first went further, and back to this checkpoint
    for wanted, until in ((changed(PLAN, 0, parts), 9), (changed(changed(PLAN, 0, parts), 0, rate), None)):
        run = make_run(spec)
        run.plan = wanted
        for progress in train(state, run):
            if progress.step == until:
                break
    run = make_run(spec)
    run.plan = plan
    assert finish(start(spec, CLASSES, 1, "cpu", PLAN), run)[0] == weights_sha256(state.network.state_dict())


@pytest.mark.parametrize("forgotten", ["seed", "step", "moments"])
def test_a_resume_that_forgets_something_ends_with_other_weights(forgotten: str) -> None:
    spec = make_spec()
    calm, _ = finish(start(spec, CLASSES, 1, "cpu", PLAN), make_run(spec))
    state = start(spec, CLASSES, 1, "cpu", PLAN)
    next(iter(train(state, make_run(spec))))
    next(iter(train(state, make_run(spec))))
    saved = state.to_bytes()
    again = start(spec, CLASSES, 1, "cpu", PLAN)
    fresh = again.optimizer.state_dict()
    again.load_bytes(saved)
    if forgotten == "moments":
        again.optimizer.load_state_dict(fresh)
    again.counters.step -= forgotten == "step"
    other, _ = finish(again, make_run(spec, seed=2 if forgotten == "seed" else 1))
    assert other != calm


def test_augmentation_of_a_picture_does_not_depend_on_its_batch() -> None:
    recipe = make_spec()["augment"] | {"saturation": 0.3, "vertical_flip": True}
    images = torch.randint(0, 255, (6, 3, 16, 16), dtype=torch.uint8)
    luck = draws(5, 2, 6)
    whole = augment(images, luck, recipe)
    alone = torch.cat([augment(images[k : k + 1], luck[k : k + 1], recipe) for k in range(6)])
    assert torch.allclose(whole, alone, atol=1e-6)
    assert not torch.equal(draws(5, 3, 6), luck)


def test_a_loss_that_is_no_number_ends_the_run_with_the_reason() -> None:
    spec = make_spec(optimizer={"name": "sgd", "lr": 10.0}, epochs=50)
    run = make_run(spec)
    state = start(spec, CLASSES, 1, "cpu", PLAN)
    with torch.no_grad():
        next(state.network.parameters()).fill_(float("nan"))
    with pytest.raises(InvalidValue, match="diverged"):
        finish(state, run)


def test_early_stopping_ends_before_the_last_epoch() -> None:
    spec = make_spec(epochs=200, early_stopping={"patience": 2})
    state = start(spec, CLASSES, 1, "cpu", PLAN)
    _, told = finish(state, make_run(spec))
    assert len(told) < 200
    assert state.counters.ended == "early_stopped"


def test_schedules_start_peak_and_end_where_they_should() -> None:
    cosine = {"name": "cosine", "warmup": 0.1}
    assert learning_rate(cosine, 1.0, 0, 100) == pytest.approx(0.1)
    assert learning_rate(cosine, 1.0, 10, 100) == pytest.approx(1.0)
    assert learning_rate(cosine, 1.0, 99, 100) < 0.01
    assert learning_rate({"name": "constant", "warmup": 0}, 1.0, 99, 100) == 1.0
    assert learning_rate({"name": "linear", "warmup": 0}, 1.0, 50, 100) == pytest.approx(0.5)
    rates = [learning_rate({"name": "one_cycle", "warmup": 0}, 1.0, step, 100) for step in range(100)]
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) in (29, 30)


def test_the_exported_program_answers_as_the_network() -> None:
    spec = make_spec()
    network = start(spec, CLASSES, 1, "cpu", PLAN).network.eval()
    from service.inference.torch_program import load

    classifier = export.Classifier(network)
    program = load(export.export_program(classifier, 16), "cpu", 1)
    pixels = np.random.default_rng(0).integers(0, 255, (9, 16, 16, 3), dtype=np.uint8)
    with torch.inference_mode():
        trained = classifier(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()
    assert export.certify(trained, program(pixels))["passed"]
    assert not export.certify(trained, -program(pixels))["passed"]
    assert program(pixels[:1]).shape == (1, CLASSES)


def test_temperature_mends_overconfidence() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(size=(4000, 4))
    labels = np.array([random.choice(4, p=row) for row in probabilities(truth, 1.0)])
    logits = (truth * 3).astype(np.float32)
    fitted = evaluate.temperature(logits, labels)
    assert fitted == pytest.approx(3.0, rel=0.1)
    found = evaluate.report("test", logits, labels, list("abcd"), fitted, [""] * 4000)["calibration"]
    assert found["ece_after"] < 0.03 < found["ece_before"]
    assert found["ece_after_interval"]["high"] < 0.04 < found["ece_before_interval"]["low"]
    assert found["ece_before_interval"]["low"] < found["ece_before"] < found["ece_before_interval"]["high"]
    assert found == evaluate.report("test", logits, labels, list("abcd"), fitted, [""] * 4000)["calibration"]


@pytest.mark.parametrize("gap", [0.0, 0.1])
def test_the_interval_holds_the_calibration_error_about_as_often_as_it_says(gap: float) -> None:
    random, held = np.random.default_rng(1), 0
    for _ in range(30):
        confidence = random.uniform(0.5, 0.9, (300, 1))
        right = random.random((300, 1)) < confidence + gap
        found = calibration.interval(confidence, right)
        held += found["low"] <= gap <= found["high"]
    assert held >= 27, "95 of 100 are asked"


def test_the_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    confidence, right = np.array([[0.91, 0.2], [0.93, 0.21]]), np.array([[True, False], [False, False]])
    assert calibration.error(confidence, right) == pytest.approx((abs(0.92 - 0.5) + 0.205) / 2)
    assert calibration.error(confidence[:0], right[:0]) == 0


def test_a_few_right_answers_are_no_certainty() -> None:
    logits = (np.eye(3) * 4).astype(np.float32)[[0, 1, 2, 0, 1, 2]]
    fitted = evaluate.temperature(logits, logits.argmax(1))
    assert 0.8 < probabilities(logits, fitted).max() < 0.95


def test_the_report_counts_as_scikit_learn_does() -> None:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    random = np.random.default_rng(1)
    logits, labels = random.normal(size=(60, 3)).astype(np.float32), random.integers(0, 3, 60)
    report = evaluate.report("test", logits, labels, ["a", "b", "c"], 1.0, [str(k) for k in range(60)])
    assert report["confusion_matrix"]["counts"] == confusion_matrix(labels, logits.argmax(1)).tolist()
    precision, recall, f1, support = precision_recall_fscore_support(labels, logits.argmax(1), zero_division=0)
    for k, row in enumerate(report["per_class"]):
        assert (row["precision"], row["recall"], row["f1"], row["support"]) == pytest.approx(
            (precision[k], recall[k], f1[k], support[k])
        )
    assert len(report["mistakes"]) == 60 - round(report["accuracy"]["value"] * 60)


def test_bins_and_thresholds_against_hand_made_numbers() -> None:
    sure, right = np.array([0.99, 0.95, 0.59, 0.56]), np.array([True, False, True, True])
    low, high = calibration.reliability(sure, right)
    assert (low["n"], low["accuracy"], low["confidence"]) == (2, 1.0, pytest.approx(0.575))
    assert (high["n"], high["accuracy"], high["confidence"]) == (2, 0.5, pytest.approx(0.97))
    assert low["from"] < 0.56 < 0.59 < low["to"]
    assert calibration.error(sure[:, None], right[:, None]) == pytest.approx((2 * 0.425 + 2 * 0.47) / 4)
    assert calibration.reliability(sure[:0], right[:0]) == []
    rows = {row["threshold"]: row for row in evaluate.by_threshold(sure[:, None], right[:, None], 4)}
    assert (rows[0.0]["precision"], rows[0.0]["recall"], rows[0.0]["answered"]) == (0.75, 0.75, 1.0)
    assert (rows[0.58]["precision"], rows[0.58]["recall"], rows[0.58]["answered"]) == (2 / 3, 0.5, 0.75)
    assert (rows[0.96]["precision"], rows[0.96]["recall"]) == (1.0, 0.25)
    assert list(rows) == sorted(rows)
    nothing = evaluate.by_threshold(0.5 * sure[:, None], right[:, None], 4)[-1]
    assert (nothing["precision"], nothing["recall"], nothing["answered"]) == (None, 0.0, 0.0)
