"""The sentences about a run's metrics, and the rule that tells a trend of the losses from their noise."""

import math

import numpy as np
from scipy.stats import t as student_t

MIN_EPOCHS = 10  # with fewer, no verdict is given
STRETCH = 3  # epochs, the shortest stretch whose mean is compared
FALSE_TREND = 0.001  # how often noise alone may pass for a fall or a rise, per comparison
FALSE_LEVEL = 0.01  # how often a change of LEVEL or more may pass for none, per direction
CORRELATION_ALLOWANCE = 1.4  # covers a correlation of 0.2 between neighbouring epochs; EFIGI's losses: -0.2 to 0.14
NOTABLE = 0.01  # share by which a loss must change to be called falling or rising, however little it scatters
LEVEL = 0.05  # share within which a loss must surely stay to be called level
DIVERGED = 0.1  # share by which the training loss must rise to be called diverged
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


def stretch_length(epochs):
    """Return the number of epochs per stretch: a fifth of all, at least STRETCH."""
    return max(epochs // 5, STRETCH)


def stretch_means(losses):
    """Return the mean loss, float64 (m,), of each stretch, in order; the first epochs that fill none are left out."""
    length = stretch_length(len(losses))
    return np.asarray(losses)[len(losses) % length :].reshape(-1, length).mean(1)


def change(losses, stretch, comparisons=1):
    """Return how the last stretch of `losses` differs from another one, as shares of that one's mean.

    Three numbers: the change; how large noise alone makes it with probability FALSE_TREND, shared among
    `comparisons`; and the same for FALSE_LEVEL. The yardstick is the scatter between neighbouring epochs, by how
    much each differs from the mean of the two beside it: such a difference has 1.5 times the variance of one
    epoch's noise, whatever the trend (Gasser, Sroka and Jennen-Steinmetz 1986, Biometrika 73, 625).
    """
    losses, means = np.asarray(losses), stretch_means(losses)
    epochs, length = len(losses), stretch_length(len(losses))
    first = min(epochs % length + stretch % len(means) * length, epochs // 2)
    since = losses[first:]
    residuals = since[1:-1] - (since[:-2] + since[2:]) / 2
    noise = math.sqrt((residuals**2).mean() / 1.5)
    error = CORRELATION_ALLOWANCE * noise * math.sqrt(2 / length)
    freedom = len(residuals) / 2  # overlapping differences count about half
    trend, level = (student_t.isf(rate, freedom) * error for rate in (FALSE_TREND / comparisons, FALSE_LEVEL))
    return (means[-1] - means[stretch]) / means[stretch], trend / means[stretch], level / means[stretch]


def lowest_stretch(losses):
    """Return the index of the stretch with the lowest mean, the last one left out."""
    return int(stretch_means(losses)[:-1].argmin())


def is_trend(share, noise):
    """Say whether a change is larger than noise alone makes it, and worth a word."""
    return abs(share) > max(noise, NOTABLE)


def verdict(history):
    """Return what the losses of a history show, in one word.

    The epochs are divided into fifths, and the last one's mean test loss is compared with the lowest other
    one's (has it risen?) and with the one before (does it still fall?). A difference counts when the scatter
    between neighbouring epochs would produce it by chance once in 1,000 times, and when it is at least 1 %.

    - overfits: the test loss has risen since its lowest fifth, the training loss has fallen and is the lower
    - diverged: the test loss has risen since its lowest fifth, and the training loss too, by 10 % or more
    - risen: the test loss has risen, and the training loss does neither
    - falling: the last fifth is lower than the one before
    - level: none of these, and differences of 5 % or more would have been noticed, 99 times in 100
    - unclear: none of these can be told: there are fewer than 10 epochs, or the scatter is too large
    """
    train, test = history["train_loss"], history["test_loss"]
    if len(test) < MIN_EPOCHS:
        return "unclear"
    lowest = lowest_stretch(test)
    if min(stretch_means(train)[lowest], *stretch_means(test)) <= 0:  # no share of it can be given
        return "unclear"
    rise, noise, rise_level = change(test, lowest, comparisons=len(stretch_means(test)) - 1)
    if rise > 0 and is_trend(rise, noise):
        share, noise, _ = change(train, lowest)
        if share < 0 and is_trend(share, noise) and stretch_means(train)[-1] < stretch_means(test)[-1]:
            return "overfits"
        return "diverged" if share > max(noise, DIVERGED) else "risen"
    share, noise, level = change(test, -2)
    if share < 0 and is_trend(share, noise):
        return "falling"
    return "level" if abs(share) + level < LEVEL and rise + rise_level < LEVEL else "unclear"


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
    sign = "; there is no sign of overfitting" if means[-1] <= means[lowest] else ""
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
