"""Metrics computed from predictions and labels."""

import numpy as np
import scipy  # its stats take half a second to import, so they are loaded on first use


def per_class(matrix):
    """Return metrics per class of a confusion matrix, lists of k numbers by name; NaN where undefined.

    Recall, precision, F1, and predicted_over_true: the number of predictions of the class divided by its number of test
    images. Precision is undefined for a class that is never predicted, recall and predicted_over_true for a class
    without test images.
    """
    correct, true, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = {
            "recall": correct / true,
            "precision": correct / predicted,
            "f1": 2 * correct / (true + predicted),
            "predicted_over_true": np.where(true, predicted / true, np.nan),
        }
    return {name: each.tolist() for name, each in values.items()}


def recall_intervals(matrix):
    """Return the 95% interval of each class's recall, a list of k pairs; NaN for classes without test images."""
    return [
        accuracy_interval(matrix[label, label], count) if count else (np.nan, np.nan)
        for label, count in enumerate(matrix.sum(1))
    ]


def errors_within_branch(matrix, branches):
    """Return the share of errors within a branch of similar classes, and the share expected from frequencies alone.

    matrix: confusion matrix, int (k, k); branches: tuples of class numbers, or None if unknown. The expected share
    assumes that errors are independent of the true class: errors of class i are spread over the other classes in
    proportion to their predictions. Both shares are NaN without errors or without branches.
    """
    branch = {label: number for number, labels in enumerate(branches or ()) for label in labels}
    same = np.array(
        [[i != j and branch.get(i) == branch.get(j) for j in range(len(matrix))] for i in range(len(matrix))]
    )
    errors = matrix.sum(1) - np.diag(matrix)
    if not branches or not errors.any():
        return np.nan, np.nan
    predicted = np.tile(matrix.sum(0), (len(matrix), 1))
    np.fill_diagonal(predicted, 0)
    failing = errors > 0  # each has an error, so another class is predicted
    share = (predicted * same).sum(1)[failing] / predicted.sum(1)[failing]
    return float((matrix * same).sum() / errors.sum()), float((errors[failing] * share).sum() / errors.sum())


def majority_accuracy(train_labels, test_labels):
    """Return the accuracy of always predicting the majority class of the training labels."""
    majority = np.bincount(np.asarray(train_labels)).argmax()
    return float((np.asarray(test_labels) == majority).mean())


def accuracy_interval(correct, count):
    """Return the 95% confidence interval (low, high) of an accuracy (Wilson 1927)."""
    interval = scipy.stats.binomtest(int(correct), int(count)).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(first_correct, second_correct):
    """Return McNemar's (1947) exact test of two classifiers on the same images: bool (n,) each, whether correct.

    Under the null hypothesis, an image that only one classifier gets right is equally likely to be either classifier's.
    Keys: first_only and second_only, the numbers of such images, and p_value (1 if there are none).
    """
    first_correct, second_correct = np.asarray(first_correct), np.asarray(second_correct)
    first_only, second_only = int((first_correct & ~second_correct).sum()), int((second_correct & ~first_correct).sum())
    differ = first_only + second_only
    p_value = float(scipy.stats.binomtest(first_only, differ).pvalue) if differ else 1.0
    return {"first_only": first_only, "second_only": second_only, "p_value": p_value}
