"""The outputs of predict.py: a printed table, rows as CSV, and the files created from the rows at the end."""

import base64
import csv
import heapq
import io
import json
from collections import Counter
from itertools import islice
from pathlib import Path

from common.storage.packages import require
from use.trained import written_numbers

import jinja2
import numpy as np
from PIL import Image

LONGEST_NAME = 44  # in the printed table
FORMATS = {".ecsv": "ascii.ecsv", ".fits": "fits", ".fit": "fits"}  # astropy's names of table formats, by suffix
TEXTS = ("file", "id", "class_name", "second_name", "out_of_range", "truth_name")  # columns, in every file
INTEGERS = ("class", "second", "truth")  # other columns are floats
BLOCK = 10_000  # rows that are converted together
FEATURES = 64  # inputs of the last layer
SHEET_CARDS = 500  # pictures per class in a contact sheet


class PrintedTable:
    """An aligned table, printed row by row. files: file names; views: crops per prediction."""

    def __init__(self, files, class_names, views):
        self.name_width = min(LONGEST_NAME, max(map(len, files), default=0) + 6)  # leaves room for `[1234]`
        width = max(map(len, class_names))
        self.form = f"{{:{self.name_width}}}  {{:{width}}} {{:>7}}   {{:{width}}} {{:>7}}   {{}}"
        self.header = self.form.format("file", "class", "prob.", "second choice", "prob.", "crops that disagree")
        self.views = views

    def row(self, record):
        """Return the line of a record, and one line per reason why its picture is marked."""
        name = record["file"]
        name = name if len(name) <= self.name_width else f"…{name[1 - self.name_width :]}"
        second, first = (f"{probability:.1%}" for probability in sorted(record["probabilities"])[-2:])
        disagree = f"{round(record['disagreement'] * self.views)} of {self.views}"
        line = self.form.format(name, record["class_name"], first, record["second_name"], second, disagree)
        marks = (f"    outside the range of the training images: {reason}" for reason in record["out_of_range"])
        return "\n".join([line, *marks])


class Columns:
    """The columns of the rows. labels: true class numbers by picture name, or None without --truth."""

    def __init__(self, class_names, labels):
        numbers = written_numbers(class_names)
        self.truth = {name: (numbers[label], class_names[label]) for name, label in (labels or {}).items()}
        self.names = ["file", "id", "class", "class_name", "probability", *(f"p_{i}" for i in range(len(class_names)))]
        self.names += ["second", "second_name", "disagreement", "out_of_range"]
        self.names += ["truth", "truth_name"] if labels is not None else []
        self.header = as_csv([self.names])

    def rows(self, records):
        """Return records as CSV. No cell is empty, so a column has the same type in all pieces of a catalogue."""
        return as_csv([self.cells(record) for record in records])

    def cells(self, record):
        """Return the cells of a record."""
        row = record | {f"p_{number}": value for number, value in enumerate(record["probabilities"])}
        row["out_of_range"] = "; ".join(record["out_of_range"]) or "none"
        row["truth"], row["truth_name"] = self.truth.get(record["file"], (-1, "none"))
        return [row[name] for name in self.names]


def as_csv(rows):
    """Return rows of cells as CSV, in bytes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def read_records(part):
    """Yield a dict per row of a CSV file, as --json writes it."""
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


def table_format(path):
    """Return astropy's name of a table's format by the suffix of `path`, or None for CSV.

    Raises ValueError if astropy is missing, or for a compressed table.
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".gz", ".bz2"):
        raise ValueError(f"--csv {path}: compressed tables are not written: leave out {suffix}")
    if suffix in FORMATS:
        require(f"--csv {path}: writing it", "astropy")
    return FORMATS.get(suffix)


def write_json_list(rows, path):
    """Write a JSON file: a list of all records."""
    with open(path, "w", encoding="utf-8") as file:
        separator = "[\n"
        for record in read_records(rows.part):
            file.write(separator + json.dumps(record))
            separator = ",\n"
        file.write("[]\n" if separator == "[\n" else "\n]\n")


def write_table(rows, path, kind, header):
    """Write a table with astropy, with all rows in memory. kind: from `table_format`; header: strings by keyword.

    FITS allows only ASCII, so other characters are escaped.
    """
    from astropy.table import Table

    def values(cells, name):
        cells = np.array(cells, str if name in TEXTS else int if name in INTEGERS else float)
        if kind == "fits" and name in TEXTS:  # numpy 1 converts an empty array to floats
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
    table.write(path, format=kind, overwrite=True)  # a file left by a killed process


def write_features(rows, path):
    """Write a NumPy file: `features`, float32 (n, FEATURES), and `files` and `ids`, strings (n,)."""
    files, ids = [], []
    for record in read_records(rows.part):
        files.append(record["file"])
        ids.append(record["id"])
    features = np.fromfile(rows.paths["features"], np.float32).reshape(-1, FEATURES)
    with open(path, "wb") as file:  # given a path, numpy would add a suffix
        np.savez(file, features=features, files=np.array(files, str), ids=np.array(ids, str))


def write_sheet(rows, path, class_names, about, views):
    """Write an HTML contact sheet: the SHEET_CARDS least certain pictures of each predicted class, least certain first.

    about: sentences for the top of the page; views: crops per prediction.
    """
    counts, heaps = Counter(), {name: [] for name in class_names}
    with open(rows.paths["html"], encoding="utf-8") as thumbnails:
        for row, (record, picture) in enumerate(zip(read_records(rows.part), thumbnails, strict=True)):
            counts[record["class_name"]] += 1
            heap, entry = heaps[record["class_name"]], (-record["probability"], -row, record, picture.strip())
            if len(heap) < SHEET_CARDS:
                heapq.heappush(heap, entry)
            else:
                heapq.heappushpop(heap, entry)  # removes the most certain one
    groups = {name: [entry[2:] for entry in sorted(heap, reverse=True)] for name, heap in heaps.items()}
    page = template("sheet.html.j2").render(groups=groups, counts=counts, about=about, views=views)
    path.write_text(page, encoding="utf-8")


def template(name, **filters):
    """Return the jinja2 template `name`; HTML templates escape their values."""
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
    """Return a picture, uint8 (h, w, 3), as a data: URL of a JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
