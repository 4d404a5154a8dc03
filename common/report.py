"""What a run is recorded as, and the sentences that its figures speak."""

import numpy as np

from common.metrics import accuracy_interval, majority_accuracy, mcnemar
from common.models import count_parameters
from common.train import loss_and_accuracy

NOTABLE = 0.05  # how far above its lowest value a test loss must end to be called overfitting


def training_record(args, data, part, model, history, logits, labels):
    """Return the JSON record of a trained model: what it was made from, its history and its test figures.

    part: main or transfer; logits, labels: of the whole test set, as `predict` gives them.
    """
    parameters, trainable = count_parameters(model)
    test_loss, test_accuracy = loss_and_accuracy(logits, labels)
    predictions = logits.argmax(1)
    return {
        "source": data["source"],
        "fingerprint": data["fingerprint"],
        "args": vars(args),
        "parameters": parameters,
        "trainable_parameters": trainable,
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
        "test_accuracy_interval": accuracy_interval((predictions == labels).sum(), len(labels)),
        "test_count": len(labels),
        "majority_accuracy": majority_accuracy(data[f"{part}_train_labels"], labels),
        "history": history,
        "test_predictions": predictions.tolist(),
    }


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


def compare(fcn, cnn, labels):
    """Return how Q3's record compares with Q2's on the same test images, labels int (n,), with McNemar's test."""
    labels = np.asarray(labels)
    right = [np.array(record["test_predictions"]) == labels for record in (fcn, cnn)]
    test = mcnemar(*right)
    return {
        "fcn_accuracy": fcn["test_accuracy"],
        "fcn_interval": fcn["test_accuracy_interval"],
        "fcn_parameters": fcn["parameters"],
        "cnn_accuracy": cnn["test_accuracy"],
        "cnn_interval": cnn["test_accuracy_interval"],
        "cnn_parameters": cnn["parameters"],
        "fcn_only": test["first_only"],
        "cnn_only": test["second_only"],
        "p_value": test["p_value"],
    }


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
