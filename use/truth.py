"""True classes of pictures, from a CSV file, and how often a network agrees with them."""

import csv
import posixpath
from typing import NamedTuple

from common.galaxies.pictures import SUFFIX, picture_id
from common.metrics import accuracy_interval, per_class
from common.sentences import interval
from use.journal import BINS

import numpy as np


class Row(NamedTuple):
    """A row of the file: the name of a picture, its class and the line it stands in."""

    name: str
    label: int
    line: int


def clean(name):
    """Return a name as a path with slashes, without `./` in it."""
    return posixpath.normpath(name.strip().replace("\\", "/"))


def lower_suffix(name):
    return SUFFIX.sub(lambda match: match[0].lower(), clean(name))


def without_folder(name):
    return posixpath.basename(lower_suffix(name))


# The forms in which the name of a row is compared with a picture's, one after the other, until one is the same.
FORMS = (clean, lower_suffix, without_folder, picture_id)


class Truth:
    """The true classes of pictures, from a CSV file whose rows are name and class, a number or one of `class_names`.

    The first row may be a header. A row is a picture's if its name is the same, or else if it is without the folder, or
    else without the suffix as well. Raises OSError, or ValueError with the line that cannot be used.
    """

    def __init__(self, path, class_names):
        self.path = path
        self.rows = {}  # lists of Row, by picture_id
        self.taken = set()  # lines whose names are those of pictures exactly
        for row in read_rows(path, class_names):
            same = self.rows.setdefault(picture_id(clean(row.name)), [])
            before = next((each for each in same if clean(each.name) == clean(row.name)), row)
            if before.label != row.label:
                names = f"{class_names[before.label]} in line {before.line}, here {class_names[row.label]}"
                raise ValueError(f"{path}, line {row.line}: {row.name} has two classes: {names}")
            if before is row:
                same.append(row)
        if not self.rows:
            raise ValueError(f"{path} holds no true class: its rows must be name,class")

    def prepare(self, names):
        """Find the rows of all pictures in the files `names`, of which those in HDF5 files are not known yet.

        Raises ValueError if a row could be that of two pictures, or if there is none for any of them.
        """
        self.taken = {row.line for row, exact in map(self.find, names) if row and exact}
        owners = {}
        for name in names:
            row, _ = self.find(name)
            owner = owners.setdefault(row.line, name) if row else name
            if clean(owner) != clean(name):
                reason = f"{row.name} could be {owner} or {name}: write its name in full"
                raise ValueError(f"{self.path}, line {row.line}: {reason}")
        kinds = map(SUFFIX.search, names)
        if not owners and all(kind and not kind["hdf5"] for kind in kinds):
            raise self.no_match(names)

    def no_match(self, names):
        """Return the ValueError that none of the pictures, `names`, has a row."""
        row, picture = next(iter(self.rows.values()))[0].name, f", and a picture is {names[0]}" if names else ""
        return ValueError(f"{self.path} has no row for any of the pictures: its first name is {row}{picture}")

    def find(self, name):
        """Return the Row of a picture, or None, and whether its name is the same.

        Raises ValueError if it could be one of two that differ.
        """
        rows = self.rows.get(picture_id(clean(name)), [])
        for form in FORMS:
            same = [row for row in rows if form(row.name) == form(name)]
            if form is not clean:
                same = [row for row in same if row.line not in self.taken]
            if len({row.label for row in same}) > 1:
                lines = " and ".join(f"{row.line} ({row.name})" for row in same)
                raise ValueError(f"{self.path}: {name} could be that of lines {lines}: write its name in full")
            if same:
                return same[0], form is clean
        return None, False

    def label(self, name):
        """Return the class of a picture by its name, or None when it has none."""
        row, _ = self.find(name)
        return row and row.label


def read_rows(path, class_names):
    """Yield each Row of a CSV file after the header, if there is one. Raises as Truth does."""
    numbers = {str(number): number for number in range(len(class_names))}
    numbers |= {name.lower(): number for number, name in enumerate(class_names)}
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader, is_first = csv.reader(file), True
        try:
            for row in reader:
                name, *others = (cell.strip() for cell in row or [""])
                if not name and not any(others):
                    continue
                label = numbers.get(others[0].lower()) if len(others) == 1 else None
                if name and label is not None:
                    yield Row(name, label, reader.line_num)
                elif not (is_first and is_header(name, *others)):
                    raise ValueError(
                        f"{path}, line {reader.line_num}: must be name,class with a class of 0 to "
                        f"{len(class_names) - 1}, or its name: {', '.join(class_names)}"
                    )
                is_first = False
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a CSV file ({error})") from None


def is_header(name, *others):
    """Return whether a first row whose class is unknown can be the header: its name is not that of a picture."""
    is_picture = SUFFIX.search(name) or name.isdigit()
    return len(others) == 1 and not is_picture and not others[0].lstrip("+-").replace(".", "").isdigit()


def describe_truth(progress, class_names):
    """Return accuracy, log loss, calibration error, recalls and confusion matrix of a Progress as text.

    The expected calibration error (Naeini et al. 2015) is of BINS bins of equal width. Empty if no true class is known.
    """
    matrix = np.array(progress.confusion)
    if not matrix.any():
        return ""
    correct, count = int(np.trace(matrix)), int(matrix.sum())
    bounds = interval(accuracy_interval(correct, count))
    width = max(map(len, class_names))
    missing = progress.rows - count
    remark = f" {missing:,} of {progress.rows:,} pictures have no true class." if missing else ""
    lines = [
        f"Accuracy {correct / count:.1%} (95% interval {bounds}) on {count:,} pictures.{remark}",
        f"Log loss {progress.log_loss / count:.4f}, expected calibration error "
        f"{sum(map(abs, progress.bins)) / count:.2%} ({BINS} bins of equal width).",
        "true \\ predicted".ljust(width + 3) + " recall     of" + "".join(f"{label:7}" for label in range(len(matrix))),
    ]
    for label, (name, row, recall) in enumerate(zip(class_names, matrix, per_class(matrix)["recall"], strict=True)):
        share = f"{recall:.1%}" if row.any() else "-"
        lines.append(f"{label}  {name:{width}}{share:>7}{row.sum():7,}" + "".join(f"{cell:7,}" for cell in row))
    return "\n".join(lines)
