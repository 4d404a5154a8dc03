"""What predict.py prints and writes: a table, rows as CSV, and at the end the files that are made from the rows."""

import base64
import csv
import heapq
import io
import json
import os
from itertools import islice
from pathlib import Path

from common.storage.packages import require

import jinja2
import numpy as np
from PIL import Image

LONGEST_NAME = 44  # in the table
FORMATS = {".ecsv": "ascii.ecsv", ".fits": "fits", ".fit": "fits"}  # of tables, by suffix, as astropy calls them
TEXTS = ("file", "id", "class_name", "second_name", "out_of_range", "truth_name")  # columns, in every file
INTEGERS = ("class", "second", "truth")  # the others are floats
BLOCK = 10_000  # rows that are converted together
FEATURES = 64  # outputs of the CNN's backbone
SHEET_CARDS = 500  # pictures of each class that a contact sheet shows


class PrintedTable:
    """An aligned table, printed row by row; names: of all files in it; views: crops behind each answer."""

    def __init__(self, names, class_names, views):
        self.name_width = min(LONGEST_NAME, max(map(len, names), default=0) + 6)  # with room for `[1234]`
        self.class_width = max(map(len, class_names))
        self.views = views

    def header(self):
        """Return the header line."""
        return self.line("file", "class", "prob.", "second choice", "prob.", "crops that disagree")

    def line(self, name, first, probability, second, second_probability, disagreement):
        """Return one line, of texts."""
        name = name if len(name) <= self.name_width else f"…{name[1 - self.name_width :]}"
        first, second = first.ljust(self.class_width), second.ljust(self.class_width)
        return f"{name:{self.name_width}}  {first} {probability:>7}   {second} {second_probability:>7}   {disagreement}"

    def row(self, record):
        """Return the line of a record, and one more for each reason why its picture is marked."""
        first, second = (f"{record['probabilities'][record[key]]:.1%}" for key in ("class", "second"))
        disagree = f"{round(record['disagreement'] * self.views)} of {self.views}"
        line = self.line(record["file"], record["class_name"], first, record["second_name"], second, disagree)
        marks = (f"    outside the range of the training images: {reason}" for reason in record["out_of_range"])
        return "\n".join([line, *marks])


class Columns:
    """The columns of the rows; numbers: of the classes, as they are written; has_truth: whether true classes are."""

    def __init__(self, class_names, numbers, has_truth):
        self.class_names, self.numbers = class_names, numbers
        self.names = ["file", "id", "class", "class_name", "probability", *(f"p_{i}" for i in range(len(numbers)))]
        self.names += ["second", "second_name", "disagreement", "out_of_range"]
        self.names += ["truth", "truth_name"] if has_truth else []

    def header(self):
        """Return the header as CSV."""
        return as_csv([self.names])

    def rows(self, records, labels):
        """Return the rows of records as CSV; labels: true classes by name.

        No cell is empty, so that a column has the same type in all pieces of a catalogue.
        """
        return as_csv([self.cells(record, labels.get(record["file"])) for record in records])

    def cells(self, record, label):
        """Return the cells of a record's row; label: the true class, or None."""
        row = record | {f"p_{number}": value for number, value in enumerate(record["probabilities"])}
        row |= {key: self.numbers[record[key]] for key in ("class", "second")}
        row["out_of_range"] = "; ".join(record["out_of_range"]) or "none"
        row["truth"], row["truth_name"] = -1, "none"
        if label is not None:
            row["truth"], row["truth_name"] = self.numbers[label], self.class_names[label]
        return [row[name] for name in self.names]


def as_csv(rows):
    """Return rows of cells as CSV, in bytes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def read_records(part):
    """Yield a dict for each row of a CSV file, as --json writes it."""
    with open(part, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            record = {}
            for name, cell in row.items():
                if name.startswith("p_"):
                    record.setdefault("probabilities", []).append(float(cell))
                else:
                    record[name] = cell if name in TEXTS else int(cell) if name in INTEGERS else float(cell)
            marks = record["out_of_range"]
            record["out_of_range"] = [] if marks == "none" else marks.split("; ")
            if record.get("truth_name") == "none":
                record |= {"truth": None, "truth_name": None}
            yield record


def file_to_write(option, path):
    """Return the file that is written when `option` names `path`, as an absolute Path: of a link, where it leads to.

    Raises ValueError for a folder, a device or a pipe.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        instead = ", or - for stdout" if option == "--csv" else ""
        raise ValueError(f"{option} {path}: is a folder, a device or a pipe: name a file{instead}")
    return Path(os.path.realpath(path))


def write_json_list(rows, path):
    """Write a JSON file: a list of all records."""
    with open(path, "w", encoding="utf-8") as file:
        separator = "[\n"
        for record in read_records(rows.part):
            file.write(separator + json.dumps(record))
            separator = ",\n"
        file.write("[]\n" if separator == "[\n" else "\n]\n")


def table_format(path):
    """Return what astropy calls the form of a table, by the suffix of its name, or None for CSV.

    Raises ValueError if astropy is missing, and for a form that cannot be written there.
    """
    stem, suffix = os.path.splitext(os.path.basename(path).lower())
    if suffix in (".gz", ".bz2") and stem.endswith(tuple(FORMATS)):
        raise ValueError(f"--csv {path}: compressed tables are not written: leave out {suffix}")
    if suffix in FORMATS:
        require(f"--csv {path}: writing it", "astropy")
    return FORMATS.get(suffix)


def write_table(rows, path, kind, header):
    """Write a table, by astropy; kind: as of `table_format`; header: texts by keyword.

    In FITS, which has ASCII alone, other characters are escaped. It takes memory for all rows.
    """
    from astropy.table import Table

    def values(cells, name):
        cells = np.array(cells, str if name in TEXTS else int if name in INTEGERS else float)
        if kind == "fits" and name in TEXTS:  # numpy 1 makes floats of no texts at all
            return np.char.encode(cells, "ascii", "backslashreplace").astype(bytes)
        return cells

    with open(rows.part, newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        columns = {name: [values([], name)] for name in next(reader)}
        while block := list(islice(reader, BLOCK)):
            for name, cells in zip(columns, zip(*block, strict=True), strict=True):
                columns[name].append(values(cells, name))
    meta = {key: text.encode("ascii", "backslashreplace").decode() for key, text in header.items()}
    table = Table({name: np.concatenate(blocks) for name, blocks in columns.items()}, meta=meta)
    table.write(path, format=kind, overwrite=True)  # what a killed process has left


def write_features(rows, path):
    """Write a NumPy file: `features`, float32 (n, FEATURES), and the texts `files` and `ids`, (n,) each."""
    files, ids = [], []
    for record in read_records(rows.part):
        files.append(record["file"])
        ids.append(record["id"])
    features = np.fromfile(rows.paths["features"], np.float32).reshape(-1, FEATURES)
    with open(path, "wb") as file:  # given a path, numpy would add a suffix
        np.savez(file, features=features, files=np.array(files, str), ids=np.array(ids, str))


class LeastCertain:
    """The rows that a contact sheet shows: of each class the SHEET_CARDS with the lowest probability."""

    def __init__(self, part):
        """part: a file of the rows so far."""
        self.heaps = {}
        for row, record in enumerate(read_records(part)):
            self.add(row, record)

    def add(self, row, record):
        """Add a row by its number; return whether it is one to show so far."""
        heap, entry = self.heaps.setdefault(record["class_name"], []), (-record["probability"], -row)
        if len(heap) < SHEET_CARDS:
            heapq.heappush(heap, entry)
            return True
        return heapq.heappushpop(heap, entry) is not entry

    def pictures(self, first, records, thumbnails):
        """Add rows from the number `first` on; return those to show as JSON lines of number and thumbnail, in bytes."""
        lines = []
        for row, (record, picture) in enumerate(zip(records, thumbnails, strict=True), first):
            lines += [json.dumps([row, picture]) + "\n"] if self.add(row, record) else []
        return "".join(lines).encode()


def write_sheet(rows, path, shown, counts, about, views):
    """Write a contact sheet, HTML: pictures by predicted class, the least certain first.

    shown: the LeastCertain of all rows; counts: pictures of each class, by name; about: sentences for the top of the
    page; views: crops behind each prediction.
    """
    numbers = {-row for heap in shown.heaps.values() for _, row in heap}
    with open(rows.paths["pictures"], encoding="utf-8") as file:
        pictures = {row: picture for row, picture in map(json.loads, file) if row in numbers}
    groups = {name: [] for name in counts}
    for row, record in enumerate(read_records(rows.part)):
        if row in numbers:
            groups[record["class_name"]].append((record, pictures[row]))
    for group in groups.values():
        group.sort(key=lambda card: card[0]["probability"])
    page = template("sheet.html.j2").render(groups=groups, counts=counts, about=about, views=views)
    path.write_text(page, encoding="utf-8")


def template(name, **filters):
    """Return the jinja2 template of that name; what it is given is escaped where it makes HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=name.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= filters
    return environment.get_template(name)


def thumbnail(pixels):
    """Return a picture, uint8 (h, w, 3), as a JPEG in a data: address."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
