"""Metrics computed from predictions and labels."""

import numpy as np
import scipy  # its stats, which take half a second to import, when they are used


def per_class(matrix):
    """Return metrics of each class, float64 (k,) by name, of a confusion matrix; NaN where undefined.

    Recall, precision, F1, and predicted_over_true: how often the class is predicted over how often it occurs. Precision
    is undefined for a class that is never predicted, recall and predicted_over_true for one without test images.
    """
    correct, true, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "recall": correct / true,
            "precision": correct / predicted,
            "f1": 2 * correct / (true + predicted),
            "predicted_over_true": np.where(true, predicted / true, np.nan),
        }


def recall_intervals(matrix):
    """Return the 95 % interval of each class's recall (Wilson 1927), float64 (k, 2); NaN without test images."""
    tested = matrix.sum(1)
    return np.array(
        [
            accuracy_interval(matrix[label, label], count) if count else (np.nan, np.nan)
            for label, count in enumerate(tested)
        ]
    )


def majority_accuracy(train_labels, test_labels):
    """Return the accuracy of always predicting the majority class of the training labels."""
    majority = np.bincount(np.asarray(train_labels)).argmax()
    return float((np.asarray(test_labels) == majority).mean())


def accuracy_interval(correct, count):
    """Return the 95 % confidence interval (low, high) of an accuracy (Wilson 1927)."""
    interval = scipy.stats.binomtest(int(correct), int(count)).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(first_correct, second_correct):
    """Return McNemar's (1947) exact test of two classifiers on the same images: bool (n,) each, whether correct.

    Under the null hypothesis an image that only one of them classifies correctly is equally likely to be either's.
    Keys: first_only and second_only, the numbers of such images, and p_value (1 without any).
    """
    first_correct, second_correct = np.asarray(first_correct), np.asarray(second_correct)
    first_only, second_only = int((first_correct & ~second_correct).sum()), int((second_correct & ~first_correct).sum())
    differ = first_only + second_only
    p_value = float(scipy.stats.binomtest(first_only, differ).pvalue) if differ else 1.0
    return {"first_only": first_only, "second_only": second_only, "p_value": p_value}
