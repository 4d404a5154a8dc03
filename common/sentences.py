"""The sentences about a run's metrics."""

import math

import numpy as np

from common.trend import LEVEL, MIN_EPOCHS, lowest_stretch, stretch_length, stretch_means, verdict

FITS_ALIKE = 0.01  # nats within which two training losses are called alike


def describe_result(name, record):
    """Return a sentence with a record's test accuracy, its interval and the majority class's accuracy."""
    low, high = record["test_accuracy_interval"]
    synthetic = " SYNTHETIC" if record["source"] == "synthetic" else ""
    return (
        f"{name}: test accuracy {record['test_accuracy']:.2%} (95 % interval {low:.1%} to {high:.1%}) on "
        f"{record['test_count']:,}{synthetic} images, loss {record['test_loss']:.3f}; "
        f"always predicting the majority class reaches {record['majority_accuracy']:.2%}."
    )


def describe_verdict(history):
    """Return a sentence with the verdict on a history, and the numbers it rests on."""
    train, test, word = history["train_loss"], history["test_loss"], verdict(history)
    epochs, length = len(test), stretch_length(len(test))
    if epochs < MIN_EPOCHS:
        return f"From {epochs} epoch{'s' if epochs > 1 else ''} no trend can be told."
    means, train_means, lowest = stretch_means(test), stretch_means(train), lowest_stretch(test)
    first = epochs % length + lowest * length + 1
    rise = (
        f"Averaged over {length} epochs, the test loss rose from {means[lowest]:.3f} (epochs {first} to "
        f"{first + length - 1}) to {means[-1]:.3f} (the last {length}), more than its scatter explains"
    )
    trained = f"the training loss went from {train_means[lowest]:.3f} to {train_means[-1]:.3f}"
    last = f"it averages {means[-1]:.3f} over the last {length} epochs and {means[-2]:.3f} over the {length} before"
    if word == "overfits":
        return f"{rise}, while {trained}: the network overfits."
    if word == "diverged":
        return f"{rise}, and {trained}: this is not overfitting, the training diverged."
    if word == "risen":
        return f"{rise}, and {trained}: whether this is overfitting cannot be told."
    if word == "falling":
        return f"The test loss was still falling: {last}, a difference that its scatter does not explain."
    if word == "level":
        return f"The test loss has levelled off: {last}, and a change of {LEVEL:.0%} would have been noticed."
    sign = "; the last stretch is the lowest" if means[-1] <= means[lowest] else ""
    return f"Whether the test loss falls, rises or is level at the end cannot be told from its scatter: {last}{sign}."


def describe_gap(record):
    """Return a sentence on the final network's losses on training and test images.

    It is empty for a record without the standard errors: an old one, or one of a single test image.
    """
    errors = [record.get(f"{loss}_error") for loss in ("final_train_loss", "test_loss")]
    if None in errors or not np.isfinite(errors).all():
        return ""
    train, test = record["final_train_loss"], record["test_loss"]
    margin = 1.96 * math.hypot(*errors)
    if test - train > margin:
        much = "much better" if train < test / 2 else "better"
        fits = f"it fits its training images {much} than the test images"
    elif test - train < -margin:
        fits = "it fits the test images better than its training images"
    else:
        fits = "a gap between them cannot be told on so many images"
    return (
        f"The final network, evaluated on both in the same way, has a loss of {train:.3f} on the training images "
        f"and {test:.3f} on the test images (difference {test - train:.3f} ± {margin:.3f}, 95 %): {fits}."
    )


def describe_curves(record):
    """Return sentences on a record's losses: the lowest test loss, the gap to the training loss, and the trend."""
    test = record["history"]["test_loss"]
    epochs, best = len(test), int(np.argmin(test))
    if epochs == 1:
        lowest = f"The test loss after the only epoch is {test[0]:.3f}."
    elif best == epochs - 1:
        lowest = f"The test loss is lowest, {test[best]:.3f}, after the last of {epochs} epochs."
    else:
        ends = f"and ends at {test[-1]:.3f}"
        lowest = f"The test loss is lowest, {test[best]:.3f}, after epoch {best + 1} of {epochs}, {ends}."
    return " ".join(filter(None, (lowest, describe_gap(record), describe_verdict(record["history"]))))


def describe_comparison(comparison):
    """Return sentences about a comparison: accuracies, sizes, and whether chance alone could explain the difference."""
    networks = [
        f"{name.upper()} {comparison[f'{name}_accuracy']:.2%} "
        f"(95 % interval {comparison[f'{name}_interval'][0]:.1%} to {comparison[f'{name}_interval'][1]:.1%}, "
        f"{comparison[f'{name}_parameters']:,} parameters)"
        for name in ("fcn", "cnn")
    ]
    difference = comparison["cnn_accuracy"] - comparison["fcn_accuracy"]
    better = f"the {'CNN' if difference > 0 else 'FCN'} is better, and the difference is unlikely by chance alone"
    conclusion = better if comparison["p_value"] < 0.05 else "the two cannot be told apart on these images"
    return (
        f"{networks[0]} against {networks[1]}: {abs(difference) * 100:.1f} points apart. "
        f"Only the FCN is correct on {comparison['fcn_only']:,} images, only the CNN on {comparison['cnn_only']:,}: "
        f"{conclusion} (McNemar's test, p = {comparison['p_value']:.2g})."
    )


def describe_logistic(record):
    """Return sentences on Q5's head and scikit-learn's logistic regression: on the test images, and on what they fit.

    An old record has only the accuracy.
    """
    accuracy = record["logistic_regression_accuracy"]
    reached = f"scikit-learn's logistic regression on the same features reaches {accuracy:.1%}"
    if "logistic_regression" not in record:
        return f"{reached}."
    logistic = record["logistic_regression"]
    test, count = logistic["mcnemar"], record["test_count"]
    better = "the head" if test["first_only"] > test["second_only"] else "the logistic regression"
    if 2 * 0.5**count >= 0.05:
        conclusion = f"on {count:,} test images no difference could show"
    elif test["p_value"] < 0.05:
        conclusion = f"{better} is better, and the difference is unlikely by chance alone"
    else:
        conclusion = "the two cannot be told apart on these images"
    excess = logistic["head_train_loss"] - logistic["train_loss"]
    if abs(excess) <= FITS_ALIKE:
        fit = f"they fit alike, to within {FITS_ALIKE}, as two logistic regressions should"
    elif excess > 0:
        fit = f"the head's is {excess:.3f} above it, so the head has not converged to the optimum"
    else:
        fit = f"scikit-learn's is {-excess:.3f} above the head's, so scikit-learn's is the one that has not converged"
    return (
        f"{reached}, with predictions equal to the head's on {logistic['agreement']:.1%} of the test images: "
        f"{conclusion} (McNemar's test, p = {test['p_value']:.2g}). On the training features its loss is "
        f"{logistic['train_loss']:.3f}, the head's {logistic['head_train_loss']:.3f}: {fit}."
    )
