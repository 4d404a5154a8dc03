"""Sentences about the results of a run: its values, with the numbers needed to judge them."""

import math

from common.galaxies.facts import plural, short_name
from common.metrics import accuracy_interval

import numpy as np

REASON = (
    "Why the CNN is better: it applies the same few weights at every position, so a pattern learned in one place is "
    "recognized everywhere. Each filter sees neighbouring pixels, which belong together. The lead is consistent with "
    "the study locality in docs/studies.md, which shuffles the pixels."
)


def percent(share):
    """Return a share as text, such as 64.6%; a dash where it is undefined."""
    return "–" if share is None or math.isnan(share) else f"{100 * share:.1f}%"


def points(share, other):
    """Return the difference of two shares, each rounded as by `percent`, in points, such as +7.7 points."""
    return f"{round(100 * share, 1) - round(100 * other, 1):+.1f} points"


def interval(bounds):
    """Return the bounds of an interval of shares as text, such as 62.4 to 66.9%."""
    low, high = bounds
    return f"{100 * low:.1f} to {100 * high:.1f}%"


def describe_result(name, record):
    """Return a sentence with the test accuracy, its interval and the majority class's accuracy."""
    synthetic = "SYNTHETIC " if record["source"] == "synthetic" else ""
    return (
        f"{name}: test accuracy {record['test_accuracy']:.2%} on {record['test_count']:,} {synthetic}images (95% "
        f"interval over test images {interval(record['test_accuracy_interval'])}), loss {record['test_loss']:.3f}. "
        f"Always predicting the majority class reaches {record['majority_accuracy']:.2%}."
    )


def describe_curves(record):
    """Return sentences on the losses and test accuracies of a training run; record: from `training_record`."""
    history = record["history"]
    trend = describe_trend(history)
    sentences = [describe_range(history["test_loss"]), trend, describe_gap(record, "overfitting" in trend)]
    last = history["test_accuracy"][-10:]
    if len(last) > 1:
        low, high = percent(min(last)), percent(max(last))
        lies = f"is {low}" if low == high else f"lies between {low.removesuffix('%')} and {high}"
        sentences.append(f"Over the last {len(last)} epochs the test accuracy {lies}.")
    return " ".join(filter(None, sentences))


def describe_range(losses):
    """Return a sentence with the first, the lowest and the last test loss."""
    epochs, best = len(losses), int(np.argmin(losses))
    if epochs == 1:
        return f"The test loss after one epoch is {losses[0]:.3f}."
    if best == 0:
        return f"The test loss is lowest after the first epoch, {losses[0]:.3f}, and ends at {losses[-1]:.3f}."
    end = ", the last" if best == epochs - 1 else f", and ends at {losses[-1]:.3f}"
    return f"The test loss falls from {losses[0]:.3f} to a minimum of {losses[best]:.3f} after epoch {best + 1}{end}."


def fifths(losses):
    """Return the losses of each fifth of the epochs, float64 (5, n // 5), the last epochs in the last row."""
    return np.asarray(losses[len(losses) % 5 :], dtype=float).reshape(5, -1)


def direction(before, after):
    """Return falling, rising, or, if the mean losses are less than 1% apart, level."""
    change = after.mean() - before.mean()
    if abs(change) < 0.01 * abs(before.mean()) - 1e-9:  # a fall by exactly 1% is one
        return "level"
    return "falling" if change < 0 else "rising"


def standard_errors(before, after):
    """Return how many standard errors apart two mean losses are; the error is from their scatter between epochs."""
    error = math.sqrt((before.var(ddof=1) + after.var(ddof=1)) / len(after))
    return abs(after.mean() - before.mean()) / error if error else math.inf


def describe_trend(history):
    """Return sentences on both losses in the last two fifths of the epochs; empty for fewer than ten epochs.

    Overfitting: the last fifth of the test loss is above its lowest fifth, and the training loss has fallen since. Only
    a rise of 1% and four standard errors counts, because the lowest of five is also low by chance.
    """
    if len(history["test_loss"]) < 10:
        return ""
    test, train = fifths(history["test_loss"]), fifths(history["train_loss"])
    word, length, lowest = direction(*test[-2:]), test.shape[1], int(test.mean(1).argmin())
    scatter = ", by less than its scatter from epoch to epoch" if standard_errors(*test[-2:]) < 2 else ""
    text = (
        f"It averages {test[-1].mean():.3f} over the last {length} epochs, {test[-2].mean():.3f} over the {length} "
        f"before: {'still ' if word == 'falling' else ''}{word}{'' if word == 'level' else scatter}. The training loss "
        f"goes from {train[-2].mean():.3f} to {train[-1].mean():.3f}: {direction(*train[-2:])}."
    )
    rises = direction(test[lowest], test[-1]) == "rising" and standard_errors(test[lowest], test[-1]) >= 4
    if rises and train[-1].mean() < train[lowest].mean():
        since = f"The test loss has risen since its lowest fifth, which averages {test[lowest].mean():.3f},"
        return f"{text} {since} while the training loss fell: overfitting."
    return text


def describe_gap(record, overfits=False):
    """Return a sentence on the final network's losses; empty if their standard errors are unknown."""
    errors = [record.get(f"{loss}_error") for loss in ("final_train_loss", "test_loss")]
    if None in errors or not np.isfinite(errors).all():
        return ""
    train, test, margin = record["final_train_loss"], record["test_loss"], 1.96 * math.hypot(*errors)
    values = f"The final network's loss is {train:.3f} on the training and {test:.3f} on the test images, a difference"
    if abs(test - train) <= margin:
        return f"{values} within its margin of {margin:.3f}{'' if overfits else ': no sign of overfitting'}."
    better = "training" if test > train else "test"
    return f"{values} of {abs(test - train):.3f} ± {margin:.3f}: it fits the {better} images better."


def describe_comparison(comparison):
    """Return sentences that compare the CNN with the FCN: accuracies, sizes and, if available, McNemar's test."""
    cnn, fcn = comparison["cnn_accuracy"], comparison["fcn_accuracy"]
    text = (
        f"The CNN ({comparison['cnn_parameters']:,} parameters) classifies {percent(cnn)} of the test images "
        f"correctly, the FCN ({comparison['fcn_parameters']:,}) {percent(fcn)}: a difference of {points(cnn, fcn)}."
    )
    if "p_value" in comparison:
        cnn_only, fcn_only, p = (comparison[key] for key in ("cnn_only", "fcn_only", "p_value"))
        text += (
            f" The CNN alone is correct on {plural(cnn_only, 'image')}, the FCN alone on {fcn_only:,}; by McNemar's "
            f"exact test the difference is {'' if p < 0.05 else 'not '}significant (p = {p:.2g})."
        )
    return f"{text} {REASON}" if cnn > fcn and comparison.get("p_value", 0) < 0.05 else text


def describe_confusion(record, model):
    """Return sentences, one per line, on a network's errors: imbalance, similarity, and the largest groups."""
    matrix, names = np.array(record["models"][model]["confusion"]), record["class_names"]
    errors = int(matrix.sum() - np.trace(matrix))
    lines = [f"The {model.upper()} misclassifies {errors:,} of {plural(matrix.sum(), 'test image')}."]
    absent = "; ".join(names[label] for label in np.flatnonzero(matrix.sum(1) == 0))
    lines[0] += f" There are no test images of {absent}." if absent else ""
    if errors:
        lines += [describe_imbalance(record, matrix), describe_similarity(record["models"][model], errors)]
        lines += [describe_groups(matrix, names)]
    return "\n".join(filter(None, lines))


def describe_imbalance(record, matrix):
    """Return sentences on the pooled recall of the rarest classes, and on the most under-predicted classes."""
    counts, true, predicted = np.array(record["train_counts"]), matrix.sum(1), matrix.sum(0)
    order = [label for label in np.argsort(counts, kind="stable") if true[label]]
    if len(order) < 2:
        return ""
    fewest, most = counts[order[0]], counts[order[-1]]
    if most <= 1.1 * fewest:
        return f"Imbalance: none; each class has about the same number of training images ({fewest:,} to {most:,})."
    rarest, others = order[: len(order) // 2], order[len(order) // 2 :]
    (low, low_count), (high, high_count) = [
        (np.diag(matrix)[half].sum(), true[half].sum()) for half in (rarest, others)
    ]
    seldom = [
        f"{short_name(record['class_names'][label])} ({times_predicted(predicted[label])}, "
        f"{plural(true[label], 'test image')})"
        for label in sorted(order, key=lambda label: predicted[label] / true[label])[:2]
        if predicted[label] < true[label]
    ]
    text = (
        f"Imbalance: rare classes are {'' if low / low_count < high / high_count else 'not '}recognized less often. "
        f"The {len(rarest)} rarest ({counts[rarest[0]]:,} to {counts[rarest[-1]]:,} training images) together have a "
        f"recall of {percent(low / low_count)} (95% interval {interval(accuracy_interval(low, low_count))}), the other "
        f"{len(others)} {percent(high / high_count)} ({interval(accuracy_interval(high, high_count))})."
    )
    return f"{text} Most under-predicted: {' and '.join(seldom)}." if seldom else text


def times_predicted(count):
    """Return how often a class is predicted as text: never predicted, predicted once, predicted twice, ...."""
    few = ("never predicted", "predicted once", "predicted twice")
    return few[count] if count < len(few) else f"predicted {count:,} times"


def describe_similarity(results, errors):
    """Return a sentence on errors within a branch of Galaxy Zoo's decision tree; empty for classes without a tree."""
    share, expected = results["within_branch"], results["within_branch_expected"]
    if share is None:
        return ""
    return (
        f"Similarity: similar classes are {'' if share > expected else 'not '}confused more often than class "
        f"frequencies imply. {round(share * errors):,} of {plural(errors, 'error')} ({percent(share)}) stay within a "
        f"branch of Galaxy Zoo's decision tree; {percent(expected)} would be expected if they were independent of the "
        "true class."
    )


def describe_groups(matrix, names):
    """Return a sentence on the three largest groups of errors, off-diagonal cells of the confusion matrix."""
    errors = matrix - np.diag(np.diag(matrix))
    cells = [np.unravel_index(cell, matrix.shape) for cell in np.argsort(-errors, axis=None, kind="stable")[:3]]
    text = [
        f"{errors[i, j]:,} of {matrix[i].sum():,} {short_name(names[i])} as {short_name(names[j])}" for i, j in cells
    ]
    return f"Largest groups of errors: {'; '.join(text[: np.count_nonzero(errors)])}."


def describe_transfer(record):
    """Return sentences that compare the head with the optimum, on trained and on untrained features."""
    optimum, untrained = record["logistic_regression"], record["untrained_backbone"]
    return (
        "scikit-learn's logistic regression on the same features, the optimum of the head's loss, reaches "
        f"{percent(optimum['accuracy'])} ({interval(optimum['accuracy_interval'])}) and agrees with the head on "
        f"{percent(optimum['agreement'])} of the test images; its loss on all training crops is "
        f"{optimum['train_loss']:.3f}, the head's {optimum['head_train_loss']:.3f}. On the features of an untrained "
        f"backbone it reaches {percent(untrained['accuracy'])} ({interval(untrained['accuracy_interval'])}): a "
        f"difference of {points(optimum['accuracy'], untrained['accuracy'])}."
    )
