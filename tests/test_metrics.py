"""Compare metrics with closed forms; test_confusion.py tests Q4's confusion matrices."""

from common.metrics import accuracy_interval, majority_accuracy, mcnemar, recall_intervals

import numpy as np
import pytest
from scipy.stats import chi2


def test_the_majority_class_is_from_the_training_labels():
    assert majority_accuracy([2, 2, 2, 0], [0, 0, 0, 2]) == 0.25


def test_the_interval_matches_wilsons_closed_form():
    for correct, count in ((0, 10), (7, 10), (412, 495), (10, 10)):
        z, share = 1.959963984540054, correct / count
        centre = (share + z * z / (2 * count)) / (1 + z * z / count)
        half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
        assert accuracy_interval(correct, count) == pytest.approx((centre - half, centre + half), abs=1e-9)
        matrix = np.array([[correct, count - correct], [0, 0]])
        assert recall_intervals(matrix)[0] == accuracy_interval(correct, count)
        assert np.isnan(recall_intervals(matrix)[1]).all()


def test_mcnemar_counts_discordant_images_and_agrees_with_chi_square_for_many():
    rng = np.random.default_rng(0)
    first, second = rng.random(4000) < 0.65, rng.random(4000) < 0.68
    test = mcnemar(first, second)
    b, c = (first & ~second).sum(), (~first & second).sum()
    assert (test["first_only"], test["second_only"]) == (b, c)
    assert test["p_value"] == pytest.approx(chi2.sf((abs(b - c) - 1) ** 2 / (b + c), 1), rel=0.05)


def test_mcnemar_of_small_and_equal_classifiers():
    assert mcnemar([True, True, True, False], [False, False, False, False])["p_value"] == 0.25  # 2 * 2^-3
    assert mcnemar([True, False], [True, False])["p_value"] == 1.0
