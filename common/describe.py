"""The sentences that a run's figures speak."""

import numpy as np

NOTABLE = 0.05  # how far above its lowest value a test loss must end to be called overfitting


def describe_result(name, record):
    """Return a sentence with a record's accuracy, what it is of, and what to hold it against."""
    low, high = record["test_accuracy_interval"]
    synthetic = " SYNTHETIC" if record["source"] == "synthetic" else ""
    return (
        f"{name}: test accuracy {record['test_accuracy']:.2%} (95 % interval {low:.1%} to {high:.1%}) on "
        f"{record['test_count']:,}{synthetic} images, loss {record['test_loss']:.3f}; "
        f"always answering the commonest class gets {record['majority_accuracy']:.2%}."
    )


def describe_curves(history):
    """Return two sentences about a history: where the test loss is lowest, and whether the run overfits.

    It is said to overfit when the test loss ends more than NOTABLE above its lowest value while the
    training loss went on falling.
    """
    train, test = np.array(history["train_loss"]), np.array(history["test_loss"])
    epochs, best = len(test), int(test.argmin())
    lowest = f"The test loss is lowest, {test[best]:.3f}, after epoch {best + 1} of {epochs}"
    gap = test[-1] - train[-1]
    side = "above" if gap >= 0 else "below"
    end = f"at the end it is {test[-1]:.3f}, {abs(gap):.3f} {side} the training loss of {train[-1]:.3f}"
    if test[-1] > (1 + NOTABLE) * test[best]:
        if train[-1] < train[best]:
            verdict = f"the two have parted since, so it overfits from about epoch {best + 1} on."
        else:
            verdict = "the training loss rose too, so this is not overfitting but training gone astray."
    elif best >= 0.9 * (epochs - 1):
        verdict = "the test loss was still falling, so it does not overfit yet, and more epochs might help."
    else:
        verdict = "the test loss stays near its lowest value, so it hardly overfits."
    return f"{lowest}; {end}. {verdict[0].upper()}{verdict[1:]}"


def describe_comparison(comparison):
    """Return sentences about a comparison: the accuracies and sizes, and whether chance could explain it."""
    networks = [
        f"{name.upper()} {comparison[f'{name}_accuracy']:.2%} "
        f"(95 % interval {comparison[f'{name}_interval'][0]:.1%} to {comparison[f'{name}_interval'][1]:.1%}, "
        f"{comparison[f'{name}_parameters']:,} parameters)"
        for name in ("fcn", "cnn")
    ]
    difference = comparison["cnn_accuracy"] - comparison["fcn_accuracy"]
    verdict = f"the {'CNN' if difference > 0 else 'FCN'} is better, and not by chance"
    if comparison["p_value"] >= 0.05:
        verdict = "the difference may well be chance"
    return (
        f"{networks[0]} against {networks[1]}: {abs(difference) * 100:.1f} points apart. "
        f"Only the FCN is right on {comparison['fcn_only']:,} images, only the CNN on {comparison['cnn_only']:,}: "
        f"{verdict} (McNemar's test, p = {comparison['p_value']:.2g})."
    )
