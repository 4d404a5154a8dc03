"""Discuss the results of each question, from the values that a run of the notebook wrote to results.json."""

from pathlib import Path

from common import metrics
from common.galaxies.facts import branches_of, plural, short_name, source_title
from common.sentences import describe_comparison, describe_confusion, describe_curves, interval, percent, points
from common.storage.artifacts import load_json, without_nan

import numpy as np

GALAXY10 = "Galaxy10 SDSS by Henry Leung and Jo Bovy (https://zenodo.org/records/10844811)"
LOCALITY = Path(__file__).parents[1] / "docs" / "studies" / "locality.json"
PARAMETERS = {"fcn": 442_952, "cnn": 178_616}
THANKS = {
    "Galaxy10.h5": f"The images come from {GALAXY10}: Sloan Digital Sky Survey, with labels from Galaxy "
    "Zoo 2 (Willett et al. 2013, MNRAS 435, 2835).",
    "SYNTHETIC galaxies": f"The galaxies are SYNTHETIC, generated with the class names and counts of {GALAXY10}.",
    "efigi10.h5": "The images come from the EFIGI catalogue (Baillard et al. 2011, A&A 532, A74), from the Sloan "
    f"Digital Sky Survey, in the format of {GALAXY10}.",
}


def discussions(results):
    """Return the discussion of each question, 1 to 5, and the acknowledgements, as Markdown, in a list.

    results: what the notebook writes to results.json.
    """
    record = confusion_record(results)
    matrices = [np.array(results["confusion"][name]) for name in ("fcn", "cnn")]
    fcn, cnn = (np.trace(matrix) / matrix.sum() for matrix in matrices)
    comparison = {"fcn_accuracy": fcn, "cnn_accuracy": cnn}
    comparison |= {f"{name}_parameters": count for name, count in PARAMETERS.items()}
    evidence = [describe_evidence()] if cnn > fcn else []  # for the reason that describe_comparison gives then
    run = f"{results['data']}, random seed {results['seed']}"
    main, transfer = (f"{run}, {plural(len(results[name]['test_loss']), 'epoch')}" for name in ("cnn", "transfer"))
    discussions = [
        (run, describe_balance(results)),
        (main, f"{describe_overfitting(results['fcn'])} {describe_accuracy(matrices[0], results)}"),
        (
            main,
            "\n\n".join((describe_both_curves(results), describe_comparison(comparison), *evidence)),
        ),
        (main, "\n\n".join(listed(describe_confusion(record, name)) for name in record["models"])),
        (transfer, f"{describe_overfitting(results['transfer'])} {describe_transfer(results)}"),
    ]
    thanks = THANKS.get(results["data"], f"The images come from {results['data']}, in the format of {GALAXY10}.")
    return [f"### Discussion of this run: {run}\n\n{text}" for run, text in discussions] + [
        f"## Acknowledgements\n\n{thanks}"
    ]


def describe_overfitting(history):
    """Return sentences on the curves of a history, with a verdict on overfitting for ten or more epochs."""
    text = describe_curves({"history": history})
    if "overfitting" in text or len(history["test_loss"]) < 10:
        return text
    return f"{text} The test loss has not risen clearly above its lowest average, so there is no clear overfitting yet."


def describe_both_curves(results):
    """Return sentences on the CNN's curves, with the FCN's test loss for comparison."""
    losses = results["fcn"]["test_loss"]
    return (
        f"{describe_overfitting(results['cnn'])} For comparison, the FCN's test loss has a minimum of "
        f"{min(losses):.3f} after epoch {np.argmin(losses) + 1} and ends at {losses[-1]:.3f}."
    )


def describe_evidence():
    """Return a sentence with the result and the data of the study with shuffled pixels."""
    study = load_json(LOCALITY)
    lead = {key: 100 * study["cnn_minus_fcn"][key]["mean"] for key in ("as_is", "shuffled")}
    return (
        f"In that study, on {source_title(study['source'])}, the CNN's mean lead is {lead['shuffled']:.1f} points with "
        f"shuffled pixels, instead of {lead['as_is']:.1f}."
    )


def listed(text):
    """Return lines as Markdown: the first is a paragraph, the others are a list."""
    first, *others = text.splitlines()
    return "\n".join((first, "", *(f"- {line}" for line in others)))


def describe_transfer(results):
    """Return sentences on the transfer's accuracy, the majority class, and what the trained features are worth."""
    control, accuracy = results["control"], results["transfer"]["test_accuracy"][-1]
    count = control["test_images"]
    between = interval(metrics.accuracy_interval(round(accuracy * count), count))
    return (
        f"The head ends at {percent(accuracy)} on {count:,} test images (95% interval {between}); always predicting "
        f"the majority class reaches {percent(control['majority'])}. As a control, "
        f"unregularised logistic regression (scikit-learn) reaches {percent(control['trained'])} on the trained "
        f"backbone's features and {percent(control['untrained'])} on an untrained backbone's: training the backbone on "
        f"other classes was worth {points(control['trained'], control['untrained'])}."
    )


def describe_balance(results):
    """Return sentences on the class frequencies of the main training images."""
    counts, names = np.array(results["train_counts"]), [short_name(name) for name in results["class_names"]]
    present = np.flatnonzero(counts)
    most, least = present[counts[present].argmax()], present[counts[present].argmin()]
    missing = [names[label] for label in range(len(counts)) if not counts[label]]
    return (
        f"The most frequent class, {names[most]}, has {counts[most]:,} training images; the rarest, {names[least]}, "
        f"has {counts[least]:,}: a ratio of {counts[most] / counts[least]:,.1f}."
        + (f" {'; '.join(missing)}: no images in this data set." if missing else "")
        + " Rare classes hardly count in the loss, and the accuracy says little about them: always predicting "
        f"{names[most]} is already correct on {percent(majority_accuracy(results))} of the test images.\n\n"
        f"After normalisation, the means of the crops are within {off(results['normalised_mean'], 0)} of 0 and "
        f"their standard deviations within {off(results['normalised_std'], 1)} of 1."
    )


def off(values, expected):
    """Return the largest deviation of the values from the expected one, as text."""
    return f"{np.abs(np.array(values) - expected).max():.3f}"


def describe_accuracy(matrix, results):
    """Return a sentence that compares the accuracy of a confusion matrix with the majority class."""
    correct, count = int(np.trace(matrix)), int(matrix.sum())
    return (
        f"The test accuracy is {percent(correct / count)} on {count:,} images (95% interval "
        f"{interval(metrics.accuracy_interval(correct, count))}); always predicting the majority class reaches "
        f"{percent(majority_accuracy(results))}."
    )


def majority_accuracy(results):
    """Return the share of the main test images that belong to the majority class of the training images."""
    tested = np.array(results["confusion"]["cnn"]).sum(1)
    return tested[np.argmax(results["train_counts"])] / tested.sum()


def confusion_record(results):
    """Return the confusion matrices as Q4's record has them."""
    models = {}
    for name, rows in results["confusion"].items():
        matrix = np.array(rows)
        within, expected = metrics.errors_within_branch(matrix, branches_of(results["class_names"]))
        models[name] = {"confusion": rows, "within_branch": within, "within_branch_expected": expected}
        models[name] |= metrics.per_class(matrix) | {"recall_interval": metrics.recall_intervals(matrix)}
    tested = np.array(results["confusion"]["cnn"]).sum(1).tolist()
    counts = {"train_counts": results["train_counts"], "test_counts": tested}
    return without_nan({"class_names": results["class_names"][:8], "models": models} | counts)
