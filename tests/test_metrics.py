import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from common.metrics import accuracy_interval, confusion, majority_accuracy, mcnemar, per_class

pairs = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=200)


@given(pairs)
def test_confusion_is_sklearns(answers):
    labels, predictions = (np.array(column) for column in zip(*answers, strict=True))
    matrix = confusion(torch.from_numpy(predictions), torch.from_numpy(labels), 8)
    assert (matrix == confusion_matrix(labels, predictions, labels=range(8))).all()
    assert (matrix.sum(1) == np.bincount(labels, minlength=8)).all()
    assert np.trace(matrix) / matrix.sum() == (labels == predictions).mean()


@given(pairs)
def test_recall_precision_and_f1_are_sklearns(answers):
    labels, predictions = (np.array(column) for column in zip(*answers, strict=True))
    ours = per_class(confusion(predictions, labels, 8))
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predictions, labels=range(8), zero_division=np.nan
    )
    np.testing.assert_allclose(ours["recall"], recall)
    np.testing.assert_allclose(ours["precision"], precision)
    np.testing.assert_allclose(ours["f1"], f1)


def test_rows_are_the_truth_and_columns_the_predictions():
    assert confusion([1], [0], 2).tolist() == [[0, 1], [0, 0]]


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
