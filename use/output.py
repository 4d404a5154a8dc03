"""What predict.py writes: a table, CSV and JSON record by record, and a contact sheet as one HTML file."""

import base64
import csv
import io
import json
from contextlib import contextmanager
from pathlib import Path

from common.storage.atomic import atomic_write

import jinja2
from PIL import Image

LONGEST_NAME = 44  # in the table


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


def csv_row(record):
    """Return a record as a row of the CSV file, a dict: names without spaces, and no cell is empty.

    So a column is read as the same type in every piece of a catalogue.
    """
    row = {key: record[key] for key in ("file", "id", "class", "class_name", "probability")}
    row |= {f"p_{label}": value for label, value in enumerate(record["probabilities"])}
    row |= {key: record[key] for key in ("second", "second_name", "disagreement")}
    row["out_of_range"] = "; ".join(record["out_of_range"]) or "none"
    if "truth" in record:
        known = record["truth"] is not None
        row |= {"truth": record["truth"] if known else -1, "truth_name": record["truth_name"] if known else "none"}
    return row


@contextmanager
def csv_writer(path):
    """Give a function that appends a record to a CSV file, which is complete when the block ends."""
    with atomic_write(path) as [temporary], open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = None

        def write(record):
            nonlocal writer
            row = csv_row(record)
            if writer is None:
                writer = csv.DictWriter(file, list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)

        yield write


@contextmanager
def json_writer(path):
    """Give a function that appends a record to a JSON file, a list, which is complete when the block ends."""
    with atomic_write(path) as [temporary], open(temporary, "w", encoding="utf-8") as file:
        separator = "[\n"

        def write(record):
            nonlocal separator
            file.write(separator + json.dumps(record))
            separator = ",\n"

        yield write
        file.write("\n]\n" if separator == ",\n" else "[]\n")


def thumbnail(pixels):
    """Return a picture, uint8 (h, w, 3), as a JPEG in a data: address."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def write_sheet(path, cards, class_names, about, views):
    """Write the contact sheet: pictures grouped by predicted class, the least certain first.

    cards: (record, thumbnail) pairs; about: sentences for the top of the page; views: crops behind each answer.
    """
    groups = {name: [] for name in class_names}
    for record, picture in cards:
        groups[record["class_name"]].append((record, picture))
    for group in groups.values():
        group.sort(key=lambda card: card[0]["probability"])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("sheet.html.j2").stream(groups=groups, about=about, views=views)
    with atomic_write(path) as [temporary], open(temporary, "w", encoding="utf-8") as file:
        page.dump(file)
