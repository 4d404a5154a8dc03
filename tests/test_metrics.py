import warnings
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, precision_recall_fscore_support

from common.metrics import (
    accuracy_interval,
    balanced_accuracy,
    holm,
    majority_accuracy,
    mcnemar,
    per_class,
    recall_intervals,
)

pairs = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=200)


@given(pairs)
def test_recall_precision_and_f1_are_sklearns(answers):
    labels, predictions = (np.array(column) for column in zip(*answers, strict=True))
    ours = per_class(confusion_matrix(labels, predictions, labels=range(8)))
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predictions, labels=range(8), zero_division=np.nan
    )
    np.testing.assert_allclose(ours["recall"], recall)
    np.testing.assert_allclose(ours["precision"], precision)
    np.testing.assert_allclose(ours["f1"], f1)


def test_majority_is_that_of_the_training_labels():
    assert majority_accuracy([2, 2, 2, 0], [0, 0, 0, 2]) == 0.25


def test_interval_is_wilsons_closed_form():
    for correct, count in ((0, 10), (7, 10), (412, 495), (10, 10)):
        z, share = 1.959963984540054, correct / count
        centre = (share + z * z / (2 * count)) / (1 + z * z / count)
        half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
        assert accuracy_interval(correct, count) == pytest.approx((centre - half, centre + half), abs=1e-9)


def test_mcnemar_counts_discordant_images_and_agrees_with_the_chi_square_form_for_many():
    rng = np.random.default_rng(0)
    first, second = rng.random(4000) < 0.65, rng.random(4000) < 0.68
    test = mcnemar(first, second)
    b, c = (first & ~second).sum(), (~first & second).sum()
    assert (test["first_only"], test["second_only"]) == (b, c)
    assert test["p_value"] == pytest.approx(chi2.sf((abs(b - c) - 1) ** 2 / (b + c), 1), rel=0.05)


def test_mcnemar_of_small_and_equal_classifiers():
    assert mcnemar([True, True, True, False], [False, False, False, False])["p_value"] == 0.25  # 2 * 2^-3
    assert mcnemar([True, False], [True, False])["p_value"] == 1.0


@given(pairs)
def test_balanced_accuracy_is_sklearns(answers):
    labels, predictions = (np.array(column) for column in zip(*answers, strict=True))
    matrix = confusion_matrix(labels, predictions, labels=range(8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sklearn's, of classes that are predicted and not in the labels
        assert balanced_accuracy(matrix) == pytest.approx(balanced_accuracy_score(labels, predictions), abs=1e-12)


def test_every_recall_has_its_interval_and_a_class_without_test_images_none():
    intervals = recall_intervals(np.array([[7, 3, 0], [0, 0, 0], [2, 0, 0]]))
    assert intervals[0] == pytest.approx(accuracy_interval(7, 10))
    assert np.isnan(intervals[1]).all()
    assert intervals[2] == pytest.approx(accuracy_interval(0, 2))


def test_holms_steps_are_those_of_the_closed_test_of_bonferroni():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p_values = rng.random(4) ** 3
        subsets = [list(each) for size in range(1, 5) for each in combinations(range(4), size)]
        closed = [max(min(1, len(each) * p_values[each].min()) for each in subsets if i in each) for i in range(4)]
        np.testing.assert_allclose(holm(p_values), closed, rtol=1e-12)
    assert holm([]).shape == (0,)
