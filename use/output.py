"""What predict.py writes: a table, CSV and JSON record by record, and a contact sheet as one HTML file."""

import base64
import csv
import heapq
import io
import json
import os
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

from common.storage.atomic import atomic_write, open_through, output_file, replace_files
from common.storage.packages import require

import jinja2
import numpy as np
from PIL import Image

LONGEST_NAME = 44  # in the table
FORMATS = {".ecsv": "ascii.ecsv", ".fits": "fits", ".fit": "fits"}  # of tables, by suffix, as astropy calls them
TEXTS = ("file", "id", "class_name", "second_name", "out_of_range", "truth_name")  # columns, in every file
INTEGERS = ("class", "second", "truth")  # the others are floats
BLOCK = 10_000  # rows that are converted together
SHEET_CARDS = 500  # pictures of each class that a contact sheet shows


class Table:
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
        """Return the line of a record, and a second one when its picture is marked."""
        line = self.line(
            record["file"],
            record["class_name"],
            f"{record['probability']:.1%}",
            record["second_name"],
            f"{record['probabilities'][record['second']]:.1%}",
            f"{round(record['disagreement'] * self.views)} of {self.views}",
        )
        return "\n".join(
            [line, *(f"    outside the range of the training images: {reason}" for reason in record["out_of_range"])]
        )


class GrowingFile:
    """A file that grows record by record under the name FILE.part, until it is complete and gets its own name.

    A device or a pipe has no such name: it is written directly. All methods raise OSError, naming the file.
    """

    def __init__(self, path):
        self.path, self.target, self.file, self.rows = path, output_file(path), None, 0
        self.part = self.target and self.target.with_name(f"{self.target.name}.part")

    def open(self):
        """Begin a new file. Raises FileExistsError if another run has begun it."""
        if self.part:
            self.part.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.part, "xb") if self.part else open_through(self.path)  # noqa: SIM115
        self.put(self.begin())

    def begin(self):
        """Return what comes before the first record."""
        return ""

    def end(self):
        """Return what comes after the last record."""
        return ""

    def reopen(self, size, rows):
        """Continue the file of an interrupted run after its first `size` bytes, which hold `rows` records."""
        self.file, self.rows = open(self.part, "r+b"), rows  # noqa: SIM115
        self.file.truncate(size)
        self.file.seek(size)

    def put(self, text):
        """Write text."""
        with self.named():
            self.file.write(text.encode("utf-8", "backslashreplace"))

    @contextmanager
    def named(self):
        """Name the file in an OSError inside the block."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, f"{os.strerror(error.errno)}: it cannot be written", str(self.path)) from None

    def write(self, record, thumbnail, features=None):
        """Append a record; thumbnail: as `thumbnail` returns it, or None; features: float32 (64,)."""
        self.put(self.text(record))
        self.rows += 1

    def flush(self):
        """Hand what was written to the system; return the number of bytes so far."""
        with self.named():
            self.file.flush()
        return self.file.tell() if self.part else 0

    def save(self):
        """Wait until all is on the disk."""
        with self.named():
            os.fsync(self.file.fileno())

    def summarise(self, counts, agreement):
        """Take note of what is known at the end: pictures per class, and what `describe_truth` says."""

    def complete(self):
        """Write what comes after the last record."""
        self.put(self.end())
        self.flush()

    def rename(self):
        """Give the complete file its name, and the mode of the one that it replaces."""
        with self.named():
            self.file.close()
            if self.part:
                replace_files([self.part], [self.target])


class CsvFile(GrowingFile):
    """A CSV file: a row for each record."""

    def __init__(self, path, classes, has_truth):
        super().__init__(path)
        self.columns = ["file", "id", "class", "class_name", "probability", *(f"p_{label}" for label in range(classes))]
        self.columns += ["second", "second_name", "disagreement", "out_of_range"]
        self.columns += ["truth", "truth_name"] if has_truth else []

    def begin(self):
        """Return the header."""
        return self.line(self.columns)

    def text(self, record):
        """Return the row of a record. No cell is empty: a column is of the same type in all pieces of a catalogue."""
        row = record | {f"p_{label}": value for label, value in enumerate(record["probabilities"])}
        row["out_of_range"] = "; ".join(record["out_of_range"]) or "none"
        if record.get("truth", -1) is None:
            row |= {"truth": -1, "truth_name": "none"}
        return self.line([row[column] for column in self.columns])

    def line(self, cells):
        """Return one line of the file."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        return text.getvalue()


class WholeFile(GrowingFile):
    """A file that is written as a whole when all records are known: until then FILE.part holds them as lines.

    `convert(part, temporary)`, of each kind, makes the one of the other, and takes memory for all records.
    """

    def complete(self):
        """Write the file under a temporary name, which goes with `finish` if it is never called."""
        super().complete()
        with ExitStack() as stack:
            [temporary] = stack.enter_context(atomic_write(self.path))
            self.convert(self.part, temporary)
            self.finish = stack.pop_all()

    def rename(self):
        """Give the file its name, and remove the lines; a device or a pipe gets what the file would hold."""
        with self.named():
            self.finish.close()
            self.file.close()  # not before: who reads a pipe would take that for its end
        if self.part:
            self.part.unlink()


class AstropyFile(WholeFile, CsvFile):
    """A FITS or ECSV table with the columns of a CsvFile, which FILE.part is."""

    def convert(self, part, temporary):
        """Write the table, by astropy. In FITS, which has ASCII alone, other characters are escaped."""
        from astropy.table import Table

        kind = table_format(self.path)

        def values(cells, name):
            cells = np.array(cells, str if name in TEXTS else int if name in INTEGERS else float)
            if kind == "fits" and name in TEXTS:  # numpy 1 makes floats of no texts at all
                return np.char.encode(cells, "ascii", "backslashreplace").astype(bytes)
            return cells

        columns = {name: [values([], name)] for name in self.columns}
        with open(part, newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            next(reader)
            while rows := list(islice(reader, BLOCK)):
                for name, cells in zip(self.columns, zip(*rows, strict=True), strict=True):
                    columns[name].append(values(cells, name))
        table = Table({name: np.concatenate(blocks) for name, blocks in columns.items()})
        table.write(temporary, format=kind, overwrite=True)  # what a killed process has left


class FeaturesFile(WholeFile):
    """A NumPy file, .npz: `features`, float32 (n, 64), and the texts `files` and `ids`, (n,) each."""

    def write(self, record, thumbnail, features=None):
        """Append a record's names and features, float32 (64,)."""
        self.put(json.dumps([record["file"], record["id"], base64.b64encode(features.tobytes()).decode()]) + "\n")
        self.rows += 1

    def convert(self, part, temporary):
        """Write the arrays."""
        files, ids, content = [], [], bytearray()
        with open(part, "rb") as lines:
            for file, id, features in map(json.loads, lines):
                files.append(file)
                ids.append(id)
                content += base64.b64decode(features)
        features = np.frombuffer(content, np.float32).reshape(len(files), -1 if files else 64)
        with open(temporary, "wb") as file:  # given a path, numpy would add a suffix
            np.savez(file, features=features, files=np.array(files, str), ids=np.array(ids, str))


def require_file(option, path):
    """Raise ValueError if what `option` writes as a whole is to go to a device or a pipe."""
    if output_file(path) is None:
        raise ValueError(f"{option} {path}: is a device or a pipe: name a file, which is written as a whole")


def table_format(path):
    """Return what astropy calls the form of a table, by the suffix of its name, or None for CSV.

    Raises ValueError if astropy is missing, and for a form that cannot be written there.
    """
    name = os.path.basename(path).lower()
    if name.endswith(tuple(f"{suffix}{packed}" for suffix in FORMATS for packed in (".gz", ".bz2"))):
        raise ValueError(f"--csv {path}: compressed tables are not written: leave out {os.path.splitext(name)[1]}")
    kind = FORMATS.get(os.path.splitext(name)[1])
    if kind is None:
        return None
    require_file("--csv", path)
    require(f"--csv {path}: writing it", "astropy")
    return kind


class JsonFile(GrowingFile):
    """A JSON file: a list of all records."""

    def text(self, record):
        """Return a record with what separates it from the one before."""
        return (",\n" if self.rows else "[\n") + json.dumps(record)

    def end(self):
        """Return what comes after the last record."""
        return "\n]\n" if self.rows else "[]\n"


class Sheet(WholeFile):
    """A contact sheet, HTML: pictures by predicted class, the least certain first, at most SHEET_CARDS of each class.

    FILE.part holds the cards that were among these at their time, as lines of JSON. views: crops behind each
    prediction; about: a sentence for the top of the page.
    """

    def __init__(self, path, class_names, views, about):
        super().__init__(path)
        self.cards, self.views, self.about = {name: [] for name in class_names}, views, [about]

    def summarise(self, counts, agreement):
        """Take note of what is known at the end: pictures per class, and what `describe_truth` says."""
        self.counts = dict(zip(self.cards, counts, strict=True))
        self.about += agreement.splitlines()[:1]

    def reopen(self, size, rows):
        """Continue the file of an interrupted run, with the cards in it."""
        with open(self.part, "rb") as file:
            for line in file.read(size).splitlines():
                self.show(tuple(json.loads(line)))
        super().reopen(size, rows)

    def write(self, record, thumbnail, features=None):
        """Append the card of a record, if it is one to show so far."""
        card = -record["probability"], -self.rows, record, thumbnail
        if self.show(card) and self.part:
            self.put(json.dumps(card) + "\n")
        self.rows += 1

    def show(self, card):
        """Add a card to those that are shown, in place of the most certain of its class; return whether it is added."""
        cards = self.cards[card[2]["class_name"]]
        if len(cards) < SHEET_CARDS:
            heapq.heappush(cards, card)
            return True
        return heapq.heappushpop(cards, card) is not card

    def convert(self, part, temporary):
        """Write the page, of the cards that are shown."""
        groups = {name: [card[2:] for card in sorted(cards, reverse=True)] for name, cards in self.cards.items()}
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        template = environment.get_template("sheet.html.j2")
        page = template.render(groups=groups, counts=self.counts, about=self.about, views=self.views)
        temporary.write_text(page, encoding="utf-8")


def thumbnail(pixels):
    """Return a picture, uint8 (h, w, 3), as a JPEG in a data: address."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
