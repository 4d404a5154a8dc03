"""The discussion of each question under the notebook, from the values that its run has written to results.json."""

from common import metrics
from common.galaxies.facts import BRANCHES
from common.sentences import describe_comparison, describe_confusion, describe_curves, interval, percent
from common.storage.artifacts import without_nan

import numpy as np

PARAMETERS = {"fcn": 442_952, "cnn": 178_616}
THANKS = {
    "Galaxy10.h5": "Galaxy10 SDSS is by Henry Leung and Jo Bovy (zenodo.org/records/10844811), with labels of Galaxy "
    "Zoo 2 (Willett et al. 2013, MNRAS 435, 2835) and pictures of the Sloan Digital Sky Survey.",
    "SYNTHETIC galaxies": "The galaxies are SYNTHETIC, generated with the class names and counts of Galaxy10 SDSS by "
    "Henry Leung and Jo Bovy (zenodo.org/records/10844811).",
    "efigi10.h5": "The pictures are of the EFIGI catalogue (Baillard et al. 2011, A&A 532, A74), from the Sloan "
    "Digital Sky Survey, in the form of Galaxy10 by Henry Leung and Jo Bovy (zenodo.org/records/10844811).",
}


def discussions(results):
    """Return the discussion of each question, 1 to 5, and the acknowledgements, as Markdown, in a list.

    results: what the notebook writes to results.json.
    """
    epochs = len(results["fcn"]["test_loss"])
    heading = f"### Discussion of this run: {results['data']}, {epochs} epochs, random seed {results['seed']}"
    record = confusion_record(results)
    matrices = [np.array(results["confusion"][name]) for name in ("fcn", "cnn")]
    fcn, cnn = (np.trace(matrix) / matrix.sum() for matrix in matrices)
    comparison = {"fcn_accuracy": fcn, "cnn_accuracy": cnn}
    comparison |= {f"{name}_parameters": count for name, count in PARAMETERS.items()}
    transfer, control = results["transfer"], results["control"]
    texts = [
        describe_balance(results),
        f"{describe_curves({'history': results['fcn']})} {describe_accuracy(matrices[0], results)}",
        f"{describe_curves({'history': results['cnn']})}\n\n{describe_comparison(comparison)}",
        "\n\n".join(describe_confusion(record, name) for name in record["models"]),
        f"{describe_curves({'history': transfer})} The head ends at {percent(transfer['test_accuracy'][-1])}. "
        f"scikit-learn's logistic regression reaches {percent(control['trained'])} on the features of the trained "
        f"backbone and {percent(control['untrained'])} on those of an untrained one: here the trained features are "
        f"worth {100 * (control['trained'] - control['untrained']):+.1f} points.",
    ]
    thanks = THANKS.get(results["data"], f"The pictures are those of {results['data']}.")
    return [f"{heading}\n\n{text}" for text in texts] + [f"## Acknowledgements\n\n{thanks}"]


def describe_balance(results):
    """Return sentences on how often the main classes occur among the training images."""
    counts, names = np.array(results["train_counts"]), results["class_names"]
    present = np.flatnonzero(counts)
    most, least = present[counts[present].argmax()], present[counts[present].argmin()]
    missing = [names[label] for label in range(len(counts)) if not counts[label]]
    return (
        f"The training set is unbalanced: {names[most]} has {counts[most]:,} images, {names[least]} {counts[least]:,}, "
        f"a ratio of {counts[most] / counts[least]:,.1f}."
        + (f" There are none of {'; '.join(missing)}." if missing else "")
        + f" Always predicting {names[most]} is correct on {percent(majority_accuracy(results))} of the test images."
    )


def describe_accuracy(matrix, results):
    """Return a sentence on the accuracy of a confusion matrix, beside that of the majority class."""
    correct, count = int(np.trace(matrix)), int(matrix.sum())
    return (
        f"The test accuracy is {percent(correct / count)} on {count:,} images (95% interval "
        f"{interval(metrics.accuracy_interval(correct, count))}); always predicting the majority class reaches "
        f"{percent(majority_accuracy(results))}."
    )


def majority_accuracy(results):
    """Return the share of the main test images that are of the majority class of the training images."""
    tested = np.array(results["confusion"]["cnn"]).sum(1)
    return tested[np.argmax(results["train_counts"])] / tested.sum()


def confusion_record(results):
    """Return the confusion matrices as Q4's record has them."""
    models = {}
    for name, rows in results["confusion"].items():
        matrix = np.array(rows)
        within, expected = metrics.errors_within_branch(matrix, BRANCHES.get(tuple(results["class_names"])))
        models[name] = {"confusion": rows, "within_branch": within, "within_branch_expected": expected}
        models[name] |= metrics.per_class(matrix) | {"recall_interval": metrics.recall_intervals(matrix)}
    tested = np.array(results["confusion"]["cnn"]).sum(1).tolist()
    counts = {"train_counts": results["train_counts"], "test_counts": tested}
    return without_nan({"class_names": results["class_names"][:8], "models": models} | counts)
