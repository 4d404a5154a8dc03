"""Read true classes of pictures from a table, and compare a network's predictions with them."""

import io
import math
from contextlib import redirect_stderr
from pathlib import Path

from common.galaxies.hdf5 import READ_ERRORS, catalogue_ids, dataset, open_hdf5
from common.galaxies.pictures import is_hdf5
from common.galaxies.split import class_number
from common.galaxies.tables import match_rows, read_rows
from common.metrics import accuracy_interval, per_class
from common.sentences import interval
from common.storage.streams import printable
from use.temperature import fit_temperature

import numpy as np

BINS = 10  # of equal width, for the calibration error


def read_truth(path, class_names, files):
    """Return the true classes of the pictures in `files`, paths as strings: class numbers by picture name.

    Raises OSError, or ValueError for an unknown class or as `read_rows` and `match_rows` do.
    """
    names, ids = names_in(files)
    labels = {}
    for name, [row, *_] in match_rows(path, read_rows(path, class_names=class_names), names, ids).items():
        if row.class_name:
            labels[name] = class_number(class_names, row.class_name)
            if labels[name] is None:
                known = f"the network knows {'; '.join(class_names)}"
                raise ValueError(f"{path}, line {row.line}: {row.class_name} is not a class: {known}")
    return labels


def names_in(files):
    """Return the names of all pictures in `files`, and the ids of pictures in HDF5 files, by name."""
    names, ids = [], {}
    for path, name in zip(files, map(printable, files), strict=True):
        if not is_hdf5(path):
            names.append(name)
            continue
        try:
            with open_hdf5(Path(path)) as file, redirect_stderr(io.StringIO()):  # printed when the pictures are read
                count = len(dataset(Path(path), file, "images"))
                found = catalogue_ids(Path(path), file, count, slice(0, count))
        except (*READ_ERRORS, ValueError):  # reported when the pictures are read
            continue
        rows = [f"{name}[{row}]" for row in range(count)]
        names += rows
        ids.update(zip(rows, found, strict=False))
    return names, ids


def describe_truth(probabilities, labels, class_names, without=0, temperature=1.0):
    """Return accuracy, log loss, calibration error, temperature, recalls and confusion matrix as text.

    probabilities: float64 (n, classes); labels: int (n,), n > 0; without: number of pictures without a true class;
    temperature: the one already applied to the probabilities.
    """
    count, classes = probabilities.shape
    cells = np.bincount(labels * classes + probabilities.argmax(1), minlength=classes**2)
    matrix = cells.reshape(classes, classes)
    correct, width = int(np.trace(matrix)), max(map(len, class_names))
    others = f" {without:,} pictures have no true class." if without else ""
    lines = [
        f"Accuracy {correct / count:.1%} (95% interval {interval(accuracy_interval(correct, count))}) "
        f"on {count:,} pictures.{others}",
        f"{describe_losses(probabilities, labels)} ({BINS} bins of equal width).",
        describe_temperature(probabilities, labels, temperature),
        "true \\ predicted".ljust(width + 3) + " recall     of" + "".join(f"{label:7}" for label in range(classes)),
    ]
    for label, (name, row, recall) in enumerate(zip(class_names, matrix, per_class(matrix)["recall"], strict=True)):
        share = f"{recall:.1%}" if row.any() else "-"
        lines.append(f"{label}  {name:{width}}{share:>7}{row.sum():7,}" + "".join(f"{cell:7,}" for cell in row))
    return "\n".join(lines)


def describe_losses(probabilities, labels):
    """Return a phrase with log loss and expected calibration error (Naeini et al. 2015)."""
    true = probabilities[np.arange(len(labels)), labels]
    loss = -np.log(np.maximum(true, np.finfo(float).eps)).mean()
    confidence = probabilities.max(1)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, confidence - (probabilities.argmax(1) == labels), BINS)
    return f"Log loss {loss:.4f}, expected calibration error {np.abs(gaps).sum() / len(labels):.2%}"


def describe_temperature(probabilities, labels, temperature):
    """Return a sentence with the temperature that fits the pictures best, and the losses with it.

    Its interval is over pictures, by the sandwich estimator (White 1982, Econometrica 50, 1): the spread of the slopes
    of their losses in 1 / T, divided by the curvature of the sum.
    """
    if (probabilities.argmax(1) == labels).all():  # the lower the temperature, the better
        return "No temperature fits these pictures: all predictions are correct."
    logits = np.log(np.maximum(probabilities, np.finfo(float).eps))
    fitted = fit_temperature(logits, labels)
    powers = np.exp(logits / fitted)
    scaled = powers / powers.sum(1, keepdims=True)
    means = (scaled * logits).sum(1)
    slopes = means - logits[np.arange(len(labels)), labels]
    curvature = ((scaled * logits**2).sum(1) - means**2).sum()
    margin = 1.96 * math.sqrt((slopes**2).sum()) / curvature * fitted  # in log T
    low, high = (temperature * fitted * math.exp(sign * margin) for sign in (-1, 1))
    return (
        f"The best --temperature for these pictures is {temperature * fitted:.2f} (95% interval {low:.2f} to "
        f"{high:.2f}): {describe_losses(scaled, labels).lower()}."
    )


def describe_shares(counts, means, class_names):
    """Return a table of the pictures predicted as each class and its mean probability; counts, means: (classes,)."""
    width, total = max(map(len, (*class_names, "class"))), max(counts.sum(), 1)
    lines = [f"{'class':{width}}  predicted    share  mean probability"]
    for name, count, mean in zip(class_names, counts, means, strict=True):
        lines.append(f"{name:{width}}{count:11,}{count / total:9.1%}{mean:18.1%}")
    return "\n".join(lines)
