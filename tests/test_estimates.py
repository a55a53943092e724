"""What jobs are told to take, and how finished ones teach the next: arithmetic on a real database."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy.orm import Session

from service import ending, estimates, history, jobs
from service.auto import DatasetFacts, resolve
from service.cost import cost
from service.datasets import versions
from service.db import Database
from service.db.migrate import upgrade
from service.db.tables import DatasetVersion, Job
from service.history import BUDGET, END, GOAL, PACE, QUICK_END, SHARE, START
from service.settings import Settings
from service.spec import TrainSpec
from workers.training.strangeness import MOST_PICTURES

FACTS = DatasetFacts(1200, 3, 32, grey=False)
VERSION = DatasetVersion(id="v", splits={"train": 1200, "val": 150, "test": 150}, classes=[{}, {}, {}])
COMPLETED = "completed"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    database = Database(f"sqlite:///{tmp_path / 'fovea.db'}")
    upgrade(database)
    with database.write() as session:
        yield session
    database.dispose()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path, device="cpu")


def spec_of(network: Any = "classic", **more: Any) -> dict[str, Any]:
    return resolve(TrainSpec.model_validate({"network": network, "image_size": 32, "epochs": 40, **more}), FACTS)


def told(session: Session, settings: Settings, spec: dict[str, Any], **more: Any) -> dict[str, Any]:
    needed = cost(TrainSpec.model_validate(spec), FACTS.classes)
    return estimates.estimate(session, spec, needed, VERSION, settings, **more)


def finish(
    session: Session,
    settings: Settings,
    spec: dict[str, Any],
    times: float,
    *,
    pace: float | None = None,
    share: float = 1.0,
    stop_reason: str = COMPLETED,
    goal: bool = False,
    budget: dict[str, float] | None = None,
) -> Job:
    """A job each of whose parts took `times` what the formula says (a step `pace` times), and `share` of its steps."""
    found = told(session, settings, spec, budget=budget, goal=goal)
    job = jobs.submit(session, "train", spec=spec, budget=budget, goal={} if goal else None, estimate=found)
    job.stop_reason = stop_reason
    formula = found["formula"]
    training = (pace or times) * share * formula["training"]
    each = (pace or times) * formula["training"] / formula["pictures"]
    end = ending.Ending(formula["end"], formula["end_pictures"]).after(each)
    took = estimates.Took(
        start=times * formula["start"],
        training=training,
        steps=round(share * formula["steps"]),
        whole=times * (formula["start"] + end) + training,
        peak_bytes=round(1.5 * formula["memory"]),
    )
    estimates.close(session, job, took, settings)
    return job


def test_little_history_moves_the_middle_and_narrows_the_spread_and_much_replaces_it(session: Session) -> None:
    spec, spreads = spec_of(), []
    for _ in range(3):
        values = history.ratios(session, PACE, spec)
        assert (np.diff(values) > 0).all()
        spreads.append(values[-1] / values[0])
        history.learn(session, PACE, spec, 2.0)
    assert spreads[0] > spreads[1] > spreads[2] > 1
    assert history.median(session, PACE, spec) == pytest.approx(2.0)
    for ratio in (1.0, 1.1, 1.2, 1.3, 1.4):
        history.learn(session, PACE, spec, ratio)
    assert history.ratios(session, PACE, spec) == pytest.approx(
        np.quantile([2.0, 2.0, 2.0, 1.0, 1.1, 1.2, 1.3, 1.4], history.POINTS)
    )


def test_a_network_is_known_by_its_own_jobs_and_a_new_one_by_those_of_all(session: Session, settings: Settings) -> None:
    layers = [{"conv": {"filters": 8}}, {"max_pool": 2}]
    for spec, ratio in ((spec_of(), 2.0), (spec_of("compact"), 0.5), (spec_of({"layers": layers}), 3.0)):
        history.learn(session, PACE, spec, ratio)
    assert history.median(session, PACE, spec_of()) == pytest.approx(2.0)
    assert history.median(session, PACE, spec_of(image_size=48)) == pytest.approx(2.0)
    assert history.median(session, PACE, spec_of("compact")) == pytest.approx(0.5)
    assert history.median(session, PACE, spec_of({"layers": layers * 2})) == pytest.approx(3.0)
    assert history.median(session, PACE, spec_of("resnet18", image_size=64)) == pytest.approx(2.0)  # of the three
    assert history.median(session, START, spec_of()) == 1.0
    assert estimates.gflops(session, settings) == pytest.approx(estimates.GFLOPS / 2)


def test_each_part_is_told_by_itself(session: Session, settings: Settings) -> None:
    """Short jobs, most of whose time is start and end, do not widen what a long one is told."""
    short, long = spec_of(epochs=1), spec_of(epochs=400)
    before = told(session, settings, long)
    for times in (0.5, 0.7, 1.0, 1.5, 2.0, 0.6, 1.8, 1.2, 1.0):
        finish(session, settings, short, times, pace=1.0)
    after = told(session, settings, long)
    assert after["seconds"]["p90"] / after["seconds"]["p10"] < 1.3
    assert before["seconds"]["p90"] / before["seconds"]["p10"] > 2
    assert after["seconds"]["p50"] == pytest.approx(sum(after["parts"].values()), rel=0.05)
    assert after["formula"] == before["formula"]
    assert (before["based_on"], after["based_on"]) != ("earlier jobs of this machine",) * 2


def test_pictures_that_are_to_be_decoded_first_and_large_networks_take_longer(
    session: Session, settings: Settings
) -> None:
    spec = spec_of()
    before = told(session, settings, spec)["parts"]
    cache = versions.cache_path(settings, "v", 32)
    cache.parent.mkdir(parents=True)
    cache.touch()
    assert told(session, settings, spec)["parts"]["start"] == pytest.approx(before["start"] - 1.5)
    assert told(session, settings, spec_of("resnet18", image_size=64))["parts"]["end"] > before["end"] + 4


def test_the_truth_is_recorded_whatever_ended_the_job_and_judged_unless_a_person_did(
    session: Session, settings: Settings
) -> None:
    for reason in ("completed", "early_stopped", "goal_reached"):
        job = finish(session, settings, spec_of(early_stopping={"patience": 3}), 1.0, stop_reason=reason)
        assert job.estimate is not None
        assert job.estimate["inside"] is True
        assert job.estimate["actual_seconds"] > 0
    job = finish(session, settings, spec_of(), 9.0)
    assert job.estimate is not None
    assert job.estimate["inside"] is False
    job = finish(session, settings, spec_of(), 1.0, stop_reason="stopped")
    assert job.estimate is not None
    assert "inside" not in job.estimate
    assert job.estimate["actual_memory_bytes"] > job.estimate["memory_bytes"] / 2


def test_jobs_that_may_end_early_are_told_so_and_teach_by_how_much(session: Session, settings: Settings) -> None:
    plain, early = spec_of(), spec_of(early_stopping={"patience": 3})
    whole = told(session, settings, plain)["seconds"]
    assert told(session, settings, early)["seconds"]["p10"] < 0.7 * whole["p10"]
    assert told(session, settings, plain, goal=True)["seconds"]["p10"] < 0.7 * whole["p10"]
    for _ in range(9):
        finish(session, settings, early, 1.0, share=0.3, stop_reason="early_stopped")
        finish(session, settings, plain, 1.0, share=0.1, stop_reason="goal_reached", goal=True)
    assert history.median(session, SHARE, early) == pytest.approx(0.3, abs=0.01)
    assert history.median(session, GOAL, plain) == pytest.approx(0.1, abs=0.01)
    assert told(session, settings, early)["seconds"]["p90"] < whole["p50"]


def test_a_budget_that_decides_is_told_and_one_that_is_too_short_too(session: Session, settings: Settings) -> None:
    endless = spec_of(epochs=10_000)
    seconds = told(session, settings, endless, budget={"seconds": 60})["seconds"]
    assert 50 < seconds["p10"] < seconds["p50"] < seconds["p90"] < 66
    assert told(session, settings, endless, budget={"seconds": 2})["seconds"]["p50"] > 4  # start and end alone
    short = told(session, settings, spec_of(epochs=1), budget={"seconds": 600})["seconds"]
    assert short["p90"] < 60
    for _ in range(8):
        finish(session, settings, endless, 1.0, share=0.01, stop_reason="budget_exhausted", budget={"seconds": 20})
    assert history.is_known(session, BUDGET, endless)
    assert history.is_known(session, QUICK_END, endless)
    assert not history.is_known(session, END, endless)  # where engines are measured, which is another thing


def test_what_a_processor_took_says_nothing_of_a_graphics_card(session: Session, settings: Settings) -> None:
    card, spec = settings.model_copy(update={"device": "cuda"}), spec_of()
    guess = told(session, card, spec)
    assert guess["parts"]["training"] < 0.1 * told(session, settings, spec)["parts"]["training"]
    assert estimates.gflops(session, card) > 100 * estimates.gflops(session, settings)
    for _ in range(9):
        finish(session, settings, spec, 2.0)
    assert told(session, card, spec) == guess
    assert told(session, settings, spec)["based_on"] == "earlier jobs of this machine"
    for _ in range(9):
        finish(session, card, spec_of(epochs=4000), 3.0)
    assert history.median(session, PACE, spec) == pytest.approx(2.0)
    assert history.median(session, PACE.on(card), spec) == pytest.approx(3.0)
    assert told(session, card, spec)["parts"]["training"] == pytest.approx(3 * guess["parts"]["training"], abs=0.2)


def test_first_steps_alone_teach_no_pace(session: Session, settings: Settings) -> None:
    finish(session, settings, spec_of(epochs=1), 0.01)
    assert not history.is_known(session, PACE, spec_of())
    assert history.is_known(session, START, spec_of())


def test_the_formula_counts_the_pictures_that_strangeness_is_fitted_on() -> None:
    assert ending.FITTED_PICTURES == MOST_PICTURES
