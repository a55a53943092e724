"""The arithmetic of prediction sets and p-values, against its definition and its promise."""

import numpy as np
import pytest

from service.inference import conformal
from workers.training.trust import expected


def test_the_threshold_is_the_finite_sample_quantile() -> None:
    kept = conformal.keep(np.arange(1, 20) / 100)  # 19 scores: 0.01 to 0.19
    assert conformal.threshold(kept, 0.9) == 0.18  # the ceil(20 * 0.9) = 18th
    assert conformal.threshold(kept, 0.95) == 0.19
    assert conformal.threshold(kept, 0.96) == float("inf")
    assert conformal.threshold(conformal.keep(np.zeros(0)), 0.6) == float("inf")


def test_a_p_value_counts_the_held_out_pictures_that_are_as_strange() -> None:
    kept = conformal.keep(np.array([1.0, 2.0, 2.0, 3.0]))
    assert conformal.p_values(kept, np.array([0.0, 2.0, 2.5, 9.0])).tolist() == [1.0, 0.8, 0.4, 0.2]
    assert conformal.p_values(conformal.keep(np.zeros(0)), np.array([5.0])).tolist() == [1.0]


@pytest.mark.parametrize("count", [1000, 1001, 5432])
def test_what_is_left_out_of_the_card_errs_to_the_safe_side_by_little(count: int) -> None:
    scores = np.random.default_rng(count).normal(size=count)
    whole, kept = conformal.keep(scores, most=10**9), conformal.keep(scores)
    assert len(kept["descending"]) <= 1000
    asked = np.linspace(-4, 4, 500)
    gap = conformal.p_values(kept, asked) - conformal.p_values(whole, asked)
    assert gap.min() >= 0
    assert gap.max() < 0.002
    for coverage in (0.501, 0.8, 0.95, 0.999):
        few, all_of_them = conformal.threshold(kept, coverage), conformal.threshold(whole, coverage)
        assert few >= all_of_them
        assert (scores <= few).mean() - (scores <= all_of_them).mean() < 0.002


def test_a_set_holds_the_classes_in_order_and_is_never_empty() -> None:
    chances = np.array([[0.1, 0.6, 0.3], [0.0, 0.0, 1.0], [0.4, 0.3, 0.3]])
    assert conformal.mass_above(chances).round(9).tolist() == [[0.9, 0.0, 0.6], [1.0, 1.0, 0.0], [0.0, 0.4, 0.7]]
    assert conformal.sets(chances, 0.0).tolist() == [[False, True, False], [False, False, True], [True, False, False]]
    assert conformal.sets(chances, 0.65).sum(1).tolist() == [2, 1, 2]
    assert conformal.sets(chances, float("inf")).all()


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_sets_and_p_values_keep_their_promise_on_average(coverage: float) -> None:
    """On 200 draws of 99 held-out and 100 new pictures, whose stated probabilities are badly wrong."""
    random = np.random.default_rng(1)
    covered, alarms = [], []
    for _ in range(200):
        logits = random.normal(size=(199, 6)) * 2
        truth = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        labels = np.array([random.choice(6, p=row) for row in truth])
        stated = np.exp(3 * logits) / np.exp(3 * logits).sum(1, keepdims=True)
        kept = conformal.keep(conformal.of_labels(stated[:99], labels[:99]))
        named = conformal.sets(stated[99:], conformal.threshold(kept, coverage))
        covered.append(named[np.arange(100), labels[99:]].mean())
        strange = random.gamma(2, size=199)
        alarms.append((conformal.p_values(conformal.keep(strange[:99]), strange[99:]) <= 1 - coverage).mean())
    assert coverage - 0.01 < np.mean(covered) < coverage + 0.03
    assert 1 - coverage - 0.02 < np.mean(alarms) < 1 - coverage + 0.01


@pytest.mark.parametrize(("held_out", "new", "coverage"), [(99, 40, 0.8), (450, 450, 0.95), (30, 500, 0.9)])
def test_what_chance_allows_is_what_it_does_in_95_of_100_draws(held_out: int, new: int, coverage: float) -> None:
    random = np.random.default_rng(held_out)
    rank = int(np.ceil((held_out + 1) * coverage))
    limits = np.sort(random.normal(size=(4000, held_out)))[:, rank - 1]
    shares = (random.normal(size=(4000, new)) <= limits[:, np.newaxis]).mean(1)
    chance = expected(new, held_out, rank)
    assert 0.94 < ((shares >= chance["low"]) & (shares <= chance["high"])).mean() < 0.99


def test_too_few_held_out_pictures_leave_nothing_to_chance() -> None:
    assert expected(100, 5, 6) == {"low": 1.0, "high": 1.0}
    assert expected(100, 5, 0) == {"low": 0.0, "high": 0.0}
