"""The loop by itself: exact resume at any step, and controls that show the test could fail."""

from typing import Any

import numpy as np
import pytest
import torch

from service.errors import InvalidValue
from service.inference.score import probabilities
from service.spec import DatasetFacts, TrainSpec, resolve
from workers.training import evaluate, export
from workers.training.augment import augment, draws
from workers.training.data import Split
from workers.training.loop import EpochResult, Run, train
from workers.training.optim import learning_rate
from workers.training.state import TrainState, prepare, start, weights_sha256

PLAN = {"precision": "fp32", "channels_last": False}
CLASSES = 3


def make_spec(**changes: Any) -> dict[str, Any]:
    layers = [
        {"conv": {"filters": 4, "batch_norm": True, "activation": "relu"}},
        {"max_pool": 4},
        {"dropout": {"p": 0.3}},
        {"dense": {"units": 8, "activation": "relu"}},
    ]
    wanted = {"network": {"layers": layers}, "image_size": 16, "epochs": 3, "batch_size": 4, **changes}
    return resolve(TrainSpec.model_validate(wanted), DatasetFacts(30, CLASSES, 16, grey=False))


def make_run(spec: dict[str, Any], seed: int = 1) -> Run:
    random = np.random.default_rng(0)
    packed = random.integers(0, 255, (40, 16, 16, 3), dtype=np.uint8)
    labels = random.integers(0, CLASSES, 40)
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


@pytest.fixture(autouse=True)
def _yield_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.training.loop.YIELD_SECONDS", 0.0)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("steps", [1, 7, 10])  # within an epoch, at its end, within the next
def test_resuming_at_any_step_ends_with_the_same_weights_and_metrics(optimizer: str, steps: int) -> None:
    spec = make_spec(optimizer={"name": optimizer, "weight_decay": 0.01})
    run = make_run(spec)
    calm, told = finish(start(spec, CLASSES, 1, "cpu", PLAN), run)

    first = start(spec, CLASSES, 1, "cpu", PLAN)
    for progress in train(first, run):
        if progress.step == steps:
            break
    saved = first.to_bytes()
    second = start(spec, CLASSES, 99, "cpu", PLAN)  # other initial weights: all must come from the bytes
    second.load_bytes(saved)
    resumed, told_after = finish(second, run)
    assert resumed == calm
    assert told_after == told[len(told) - len(told_after) :]


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
    assert state.counters.ended_early


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
    from service.inference.programs import load

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
    before = evaluate.calibration_error(probabilities(logits, 1.0), labels)
    assert evaluate.calibration_error(probabilities(logits, fitted), labels) < 0.03 < before


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
