"""Q4's numbers: per class, and within the branches of Galaxy Zoo's tree."""

import json

from common import metrics, plots
from common.galaxies.facts import BRANCHES, CLASS_NAMES, DECALS_CLASS_NAMES

import numpy as np
import pytest
from conftest import run_well
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

BRANCHES_OF_MAIN = BRANCHES[CLASS_NAMES]
pairs = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=200)


def slowly(matrix, branches):
    """Errors within a branch and those expected, one image after the other."""
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
def test_errors_within_a_branch_are_counted_one_by_one(answers):
    labels, predictions = zip(*answers, strict=True)
    matrix = confusion_matrix(labels, predictions, labels=range(8))
    found = metrics.errors_within_branch(matrix, BRANCHES_OF_MAIN)
    if labels == predictions:
        assert np.isnan(found).all()
    else:
        np.testing.assert_allclose(found, slowly(matrix, BRANCHES_OF_MAIN), atol=1e-12)


def test_expected_errors_follow_how_often_each_class_is_predicted():
    # Class 1 has 10 errors. Of the predictions of others, class 2 (its branch) has 30, class 0 has 10.
    matrix = np.zeros((8, 8), dtype=int)
    matrix[1, 1], matrix[1, 2], matrix[2, 2], matrix[0, 0] = 5, 10, 20, 10
    assert metrics.errors_within_branch(matrix, BRANCHES_OF_MAIN) == (1.0, 0.75)
    assert np.isnan(metrics.errors_within_branch(matrix, None)).all()


def test_each_class_is_in_one_branch():
    for names in (CLASS_NAMES, DECALS_CLASS_NAMES):
        assert sorted(label for branch in BRANCHES[names] for label in branch) == list(range(10))


@given(pairs)
def test_metrics_of_the_classes_are_sklearns(answers):
    labels, predictions = map(np.array, zip(*answers, strict=True))
    found = metrics.per_class(confusion_matrix(labels, predictions, labels=range(8)))
    expected = precision_recall_fscore_support(labels, predictions, labels=range(8), zero_division=np.nan)
    for name, values in zip(("precision", "recall", "f1"), expected, strict=False):
        np.testing.assert_allclose(found[name], values)
    for label in range(8):
        true, predicted = (labels == label).sum(), (predictions == label).sum()
        ratio = predicted / true if true else np.nan
        np.testing.assert_equal(found["predicted_over_true"][label], ratio)


def test_intervals_of_the_recalls_are_wilsons():
    matrix = np.diag([3, 0, 20, 0])
    matrix[0, 1], matrix[1, 0] = 7, 5
    intervals = metrics.recall_intervals(matrix)
    for (low, high), (correct, count) in zip(intervals, ((3, 10), (0, 5), (20, 20)), strict=False):
        expected = binomtest(correct, count).proportion_ci(method="wilson")
        assert (low, high) == (expected.low, expected.high)
    assert np.isnan(intervals[3]).all()


def test_text_on_any_cell_has_a_contrast_of_at_least_4_5():
    def luminance(colour):
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for share in np.linspace(0, 1, 101):
        cell = plots.plt.get_cmap("Blues")(share)
        text = {"black": 0.0, "white": 1.0}[plots.text_colour(cell)]
        lower, higher = sorted((luminance(cell[:3]), text))
        assert (higher + 0.05) / (lower + 0.05) >= 4.5


def test_the_record_holds_what_the_matrices_say(synthetic_run):
    out, printed = synthetic_run
    record = json.loads((out / "q4_confusion.json").read_text())
    assert len(record["train_counts"]) == len(record["test_counts"]) == 8
    for name, script in (("fcn", "q2_fcn"), ("cnn", "q3_cnn")):
        results, trained = record["models"][name], json.loads((out / f"{script}.json").read_text())
        matrix = np.array(results["confusion"])
        assert matrix.shape == (8, 8)
        assert matrix.sum(1).tolist() == record["test_counts"]
        assert results["accuracy"] == trained["test_accuracy"] == np.trace(matrix) / matrix.sum()
        assert results["weights_sha256"] == trained["weights_sha256"]
        within, expected = slowly(matrix, BRANCHES_OF_MAIN)
        assert results["within_branch"] == pytest.approx(within)
        assert results["within_branch_expected"] == pytest.approx(expected)
        assert f"{name.upper()}: class" in printed["q4"]
    assert max(map(len, printed["q4"].split("\n\n")[0].split("\n")[:9])) <= 120


def test_classes_without_a_known_tree_have_no_branches(synthetic_run, tmp_path):
    out, _ = synthetic_run
    for name in ("q1_data.pt", "q2_fcn.pt", "q2_fcn.json", "q3_cnn.pt", "q3_cnn.json"):
        (tmp_path / name).symlink_to(out / name)
    import torch

    data = torch.load(tmp_path / "q1_data.pt", weights_only=True)
    (tmp_path / "q1_data.pt").unlink()
    torch.save(data | {"class_names": [f"kind {label}" for label in range(10)]}, tmp_path / "q1_data.pt")
    printed = run_well("q4_confusion.py", "--device", "cpu", "--out", tmp_path)
    record = json.loads((tmp_path / "q4_confusion.json").read_text())
    assert record["models"]["cnn"]["within_branch"] is None
    assert record["models"]["cnn"]["within_branch_expected"] is None
    assert "Similarity" not in printed
    assert "Imbalance: " in printed
