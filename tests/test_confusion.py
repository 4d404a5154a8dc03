"""Q4's metrics: per class, and within the branches of Galaxy Zoo's tree."""

from common import metrics, plots
from common.galaxies.facts import BRANCHES, CLASS_NAMES, DECALS_CLASS_NAMES

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

BRANCHES_OF_MAIN = BRANCHES[CLASS_NAMES]
pairs = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=200)


def slowly(matrix, branches):
    """Return the errors within a branch, and the expected ones, counted one image at a time."""
    branch = {label: number for number, labels in enumerate(branches) for label in labels}
    within = expected = errors = 0
    for true, row in enumerate(matrix):
        for predicted, count in enumerate(row):
            for _ in range(count if predicted != true else 0):
                others = [(label, matrix[:, label].sum()) for label in range(len(matrix)) if label != true]
                same = sum(times for label, times in others if branch[label] == branch[true])
                within += branch[true] == branch[predicted]
                expected += same / sum(times for _, times in others)
                errors += 1
    return within / errors, expected / errors


@given(pairs)
def test_errors_within_a_branch_match_a_count_one_by_one(answers):
    labels, predictions = zip(*answers, strict=True)
    matrix = confusion_matrix(labels, predictions, labels=range(8))
    found = metrics.errors_within_branch(matrix, BRANCHES_OF_MAIN)
    if labels == predictions:
        assert np.isnan(found).all()
    else:
        np.testing.assert_allclose(found, slowly(matrix, BRANCHES_OF_MAIN), atol=1e-12)
    assert np.isnan(metrics.errors_within_branch(matrix, None)).all()


def test_each_class_is_in_one_branch():
    for names in (CLASS_NAMES, DECALS_CLASS_NAMES):
        assert sorted(label for branch in BRANCHES[names] for label in branch) == list(range(10))


@given(pairs)
def test_metrics_per_class_match_sklearn(answers):
    labels, predictions = map(np.array, zip(*answers, strict=True))
    found = metrics.per_class(confusion_matrix(labels, predictions, labels=range(8)))
    expected = precision_recall_fscore_support(labels, predictions, labels=range(8), zero_division=np.nan)
    for name, values in zip(("precision", "recall", "f1"), expected, strict=False):
        np.testing.assert_allclose(found[name], values)
    for label in range(8):
        true, predicted = (labels == label).sum(), (predictions == label).sum()
        ratio = predicted / true if true else np.nan
        np.testing.assert_equal(found["predicted_over_true"][label], ratio)


def test_text_on_any_cell_has_a_contrast_of_at_least_4_5():
    def luminance(colour):
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for share in np.linspace(0, 1, 101):
        cell = plots.plt.get_cmap("Blues")(share)
        text = {"black": 0.0, "white": 1.0}[plots.text_colour(cell)]
        lower, higher = sorted((luminance(cell[:3]), text))
        assert (higher + 0.05) / (lower + 0.05) >= 4.5
