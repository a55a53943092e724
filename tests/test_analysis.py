"""The parts of an analysis alone: folds, answers of classifiers that have not seen a picture, confident learning."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from workers.analysis import confident, crossfit, patches


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 15)), min_size=1, max_size=60), st.integers(2, 6))
def test_folds_keep_alike_pictures_together_and_spread_the_classes(rows: list[tuple[int, int]], folds: int) -> None:
    groups = np.array([next(k for k, other in enumerate(rows) if other[1] == row[1]) for row in rows])
    labels = np.array([label for label, _ in rows])
    fold = crossfit.assign(labels, groups, folds, seed=1)
    assert all(fold[row] == fold[leader] for row, leader in enumerate(groups))
    leaders = np.unique(groups)
    for label in set(labels[leaders]):
        sizes = np.bincount(fold[leaders[labels[leaders] == label]], minlength=folds)
        assert sizes.max() - sizes.min() <= 1


def plain(x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Linear discriminant analysis, written down once more without any shared sums."""
    means = np.stack([x[train & (y == k)].mean(0) for k in range(3)])
    centred = x[train] - means[y[train]]
    covariance = centred.T @ centred / train.sum()
    size = len(covariance)
    shrunk = (1 - crossfit.SHRINK) * covariance + crossfit.SHRINK * np.trace(covariance) / size * np.eye(size)
    inverse = np.linalg.inv(shrunk)
    share = np.bincount(y[train]) / train.sum()
    return np.stack(
        [np.log(share[k]) - ((x[test] - means[k]) @ inverse * (x[test] - means[k])).sum(1) / 2 for k in range(3)], 1
    )


def test_the_folds_answer_as_if_each_were_fitted_alone() -> None:
    random = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = random.normal(size=(90, 7)) + 2 * np.eye(3, 7)[y]
    fold = crossfit.assign(y, np.arange(90), 4, seed=0)
    told: list[int] = []
    found = crossfit.answer(x.astype(np.float32), np.eye(3)[y], fold, told.append, several=False)
    assert told == list(range(8))
    assert found.probabilities.sum(1) == pytest.approx(1)
    scaled = (x - x.mean(0)) / (x.std(0) + 1e-3)
    scores = np.empty((90, 3))
    for k in range(4):
        scores[fold == k] = plain(scaled, y, fold != k, fold == k)
    rate = np.log(found.probabilities[0, 0] / found.probabilities[0, 1]) / (scores[0, 0] - scores[0, 1])
    assert found.probabilities == pytest.approx(softmax(scores * rate, axis=1), abs=1e-4)


def test_a_class_that_the_other_folds_lack_is_not_judged() -> None:
    random = np.random.default_rng(0)
    y = np.array([0] * 20 + [1] * 20 + [2] * 2)
    groups = np.arange(42)
    groups[41] = 40  # the two of the third class are alike
    fold = crossfit.assign(y, groups, 5, seed=0)
    features = random.normal(size=(42, 6)).astype(np.float32)
    for several in (False, True):
        found = crossfit.answer(features, np.eye(3)[y], fold, lambda _: None, several=several)
        assert np.isnan(found.probabilities[40:, 2]).all()
        assert np.isfinite(found.probabilities[:40, :2]).all()
        assert np.isfinite(found.strangeness).all()


def test_sure_answers_give_the_joint_distribution_of_given_and_true_labels() -> None:
    truth = np.repeat([0, 1, 2], 100)
    given = truth.copy()
    given[:10], given[100:105] = 1, 2  # ten of 0 are called 1, five of 1 are called 2
    probabilities = np.full((300, 3), 0.05)
    probabilities[np.arange(300), truth] = 0.9
    expected = [[90, 0, 0], [10, 95, 0], [0, 5, 100]]
    assert confident.joint(probabilities, given) == pytest.approx(np.array(expected, float))
    assert np.flatnonzero(confident.doubtful(probabilities, given)).tolist() == [*range(10), *range(100, 105)]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_nobody_is_doubted_whose_label_is_the_most_probable(count: int, classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    given = random.integers(0, classes, count)
    probabilities = random.dirichlet(np.full(classes, 0.5), count)
    flagged = confident.doubtful(probabilities, given)
    assert not (flagged & (probabilities.argmax(1) == given)).any()
    assert confident.joint(probabilities, given).sum(1) == pytest.approx(np.bincount(given, minlength=classes))


@pytest.mark.parametrize(("count", "side"), [(2, 32), (70, 48), (130, 128)])
def test_features_are_finite_and_those_of_the_picture_alone(count: int, side: int) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (count, side, side, 3), dtype=np.uint8)
    pictures[0] = 128  # of one colour
    done: list[int] = []
    found = patches.features(pictures, 3, done.append)
    assert found.shape == (count, patches.SIZE)
    assert np.isfinite(found).all()
    assert done[-1] == count
    assert np.array_equal(found, patches.features(pictures, 3))
    assert not np.array_equal(found, patches.features(pictures, 4))
