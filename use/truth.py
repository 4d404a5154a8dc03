"""True classes of pictures, from a CSV file, and how often a network agrees with them."""

import csv
from pathlib import Path

from common.metrics import accuracy_interval

import numpy as np
from sklearn.metrics import confusion_matrix


def read_truth(path, class_names):
    """Return the class of each picture named in a CSV file, as a dict from name to int.

    Its rows are name and class, a number or one of `class_names`; a first row whose class is neither is the header.
    Raises OSError, or ValueError with the line that cannot be used.
    """
    truth = {}
    numbers = {str(number): number for number in range(len(class_names))}
    numbers |= {name.lower(): number for number, name in enumerate(class_names)}
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            for row in filter(None, reader):
                label = numbers.get(row[1].strip().lower()) if len(row) == 2 else None
                if label is not None:
                    truth[row[0].strip()] = label
                elif truth or len(row) != 2 or row[1].strip().isdigit():
                    raise ValueError(
                        f"{path}, line {reader.line_num}: must be name,class with a class of 0 to "
                        f"{len(class_names) - 1}, or its name: {', '.join(class_names)}"
                    )
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a CSV file ({error})") from None
    if not truth:
        raise ValueError(f"{path} holds no true class: its rows must be name,class")
    return truth


def true_class(truth, name):
    """Return the class of a picture by its name, or else by that without its folder; None when it has none."""
    return truth.get(name, truth.get(Path(name).name))


def describe_truth(pairs, class_names):
    """Return the accuracy with its interval and the confusion matrix as text, from (true, predicted) pairs."""
    if not pairs:
        return "None of the pictures has a true class in the file of --truth."
    true, predicted = np.array(pairs).T
    matrix = confusion_matrix(true, predicted, labels=range(len(class_names)))
    correct, count = int(np.trace(matrix)), len(pairs)
    low, high = accuracy_interval(correct, count)
    width = max(map(len, class_names))
    lines = [
        f"Accuracy {correct / count:.1%} (95% interval {100 * low:.1f} to {high:.1%}) on {count:,} pictures.",
        "true \\ predicted".ljust(width + 3) + "".join(f"{label:7}" for label in range(len(matrix))),
    ]
    lines += [
        f"{label}  {name:{width}}" + "".join(f"{cell:7,}" for cell in matrix[label])
        for label, name in enumerate(class_names)
    ]
    return "\n".join(lines)
