"""Read tables of galaxies in CSV, FITS or ECSV, find their columns, and match their rows to pictures by name."""

import csv
import posixpath
import re
import unicodedata
from collections import defaultdict
from itertools import chain
from typing import NamedTuple

from common.galaxies.pictures import SUFFIX, picture_id
from common.galaxies.split import class_number
from common.storage.packages import require
from common.storage.streams import printable

import numpy as np

# Usual column names, in lower case; the first one that the table has is used.
ID_COLUMNS = ("objid", "id", "name", "file")
CLASS_COLUMNS = ("class", "class_name", "label")
ASTROPY_FORMATS = {r"\.(fits?|fts)(\.gz|\.bz2)?": "fits", r"\.ecsv": "ascii.ecsv"}  # by suffix
DELIMITERS = "\t;,"  # the first one that the header contains
MISSING = {"", "nan", "na", "n/a", "<na>", "null"}  # lower-case strings for a missing class
WHOLE_FLOAT = re.compile(r"([+-]?\d+)\.0*")
FLOAT = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.IGNORECASE)


class Table(NamedTuple):
    """A table of strings; a missing value is an empty string."""

    header: list
    rows: list  # lists of strings, as long as the header
    lines: list  # line numbers of the header and of each row in a CSV file; numbers from 0 in other tables
    rounded: set  # columns with floats too large for the precision of their type


class TableRow(NamedTuple):
    """A galaxy's row."""

    id: str
    class_name: str  # empty if it is missing
    split: str  # empty without such a column
    line: int


def read_rows(path, id_column=None, class_column=None, split_column=None, class_names=None):
    """Return the rows of a table as a list of TableRow; columns that are not given are found by their usual names.

    class_names: of a network; with them, a table of two columns, name and class, may have other column names or no
    header. Raises OSError, or ValueError, naming the file, if a column is missing or its ids are rounded.
    """
    table = read_table(path)
    header, rows = table.header, table.rows
    usual = [any(name.lower() in columns for name in header) for columns in (ID_COLUMNS, CLASS_COLUMNS)]
    if class_names is not None and len(header) == 2 and not all(usual):
        id_place, class_place = 0, 1
        if not is_header(*header, class_names):
            rows = [header, *rows]
    else:
        options = [f"name one with {option}" for option in ("--id", "--class")]
        remedies = options if class_names is None else ["rename one"] * 2
        id_place = find_column(path, header, remedies[0], [id_column] if id_column else ID_COLUMNS)
        class_place = find_column(path, header, remedies[1], [class_column] if class_column else CLASS_COLUMNS)
    ids = check_ids(path, header[id_place], [row[id_place] for row in rows], table.rounded)
    classes = [without_point(row[class_place]) for row in rows]
    classes = ["" if name.lower() in MISSING else name for name in classes]
    splits = [""] * len(rows)
    if split_column:
        split_place = find_column(path, header, "name one with --split-column", [split_column])
        splits = [row[split_place] for row in rows]
    return list(map(TableRow, ids, classes, splits, table.lines[-len(rows) :]))


def is_header(name, class_name, class_names):
    """Return whether the two strings of a first row are a header, not a picture's name and class."""
    is_row = class_number(class_names, class_name) is not None or FLOAT.fullmatch(class_name)
    return not (is_row or SUFFIX.search(name) or name.isdecimal())


def find_column(path, header, remedy, names):
    """Return the index in the header of the first of `names` that it contains, in the same case or else in any.

    Raises ValueError, with a `remedy`, if it contains none.
    """
    lower = [name.lower() for name in header]
    for name in names:
        if name.lower() in lower:
            return header.index(name) if name in header else lower.index(name.lower())
    columns = ", ".join(header) or "the file is empty"
    raise ValueError(f"{path} has no column {' or '.join(names)}: {remedy} ({columns})")


def check_ids(path, column, ids, rounded):
    """Return ids, strings, with integers written without a point. Raises ValueError for rounded floats."""
    numbers = [text for text in ids if text.lower() not in MISSING]
    if not all(map(FLOAT.fullmatch, numbers)):
        return ids
    if column in rounded or any(abs(float(text)) >= 2**53 for text in numbers if not text.lstrip("+-").isdecimal()):
        raise ValueError(
            f"{path}: column {column} holds ids as floating-point numbers, which are rounded at this size and may be "
            "another galaxy's id: store them as integers or strings"
        )
    return list(map(without_point, ids))


def without_point(text):
    """Return an integer that is written as a float, such as 1.0, without the point; return other strings unchanged."""
    match = WHOLE_FLOAT.fullmatch(text)
    return str(int(match[1])) if match else text


def read_table(path):
    """Return the Table in a CSV, FITS or ECSV file. Raises OSError or ValueError."""
    with open(path, "rb"):  # raises the system's error if it is missing or unreadable
        pass
    for suffix, kind in ASTROPY_FORMATS.items():
        if re.search(f"{suffix}$", str(path), re.IGNORECASE):
            return read_astropy(path, kind)
    return read_csv(path)


def read_csv(path):
    """Return the Table in a CSV file with commas, semicolons or tabs.

    Lines `#...` and `sep=;` above the header, and empty rows, are skipped.
    """
    rows, lines, skipped = [], [], 0
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            while re.match(r'#|"?sep=|\s+$', first, re.IGNORECASE):
                first, skipped = file.readline(), skipped + 1
            delimiter = next((each for each in DELIMITERS if each in first), ",")
            reader = csv.reader(chain([first], file), delimiter=delimiter, skipinitialspace=True)
            for row in reader:
                row = [text.strip() for text in row]
                if not any(row):
                    continue
                rows.append(row)
                lines.append(reader.line_num + skipped)
                if len(row) != len(rows[0]):
                    raise ValueError(f"{path}, line {lines[-1]}: has {len(row)} columns, not {len(rows[0])}")
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a table: save it as .csv, .fits or .ecsv ({error})") from None
    return Table(rows[0] if rows else [], rows[1:], lines, set())


def read_astropy(path, kind):
    """Return the Table in a FITS or ECSV file."""
    require(f"{path}: reading it", "astropy")
    from astropy import table as astropy_table

    try:
        table = astropy_table.Table.read(path, format=kind)
        table.convert_bytestring_to_unicode()
    except Exception as error:  # of a dozen types
        raise ValueError(f"{path} cannot be read by astropy as a table ({error})") from None
    columns = [table[name] for name in table.colnames if table[name].ndim == 1]
    texts = [["" if value is None else str(value).strip() for value in column.tolist()] for column in columns]
    rows = list(map(list, zip(*texts, strict=True)))
    rounded = {column.name for column in columns if is_rounded(column)}
    return Table([column.name for column in columns], rows, list(range(len(rows) + 1)), rounded)


def is_rounded(column):
    """Return whether an astropy column has floats so large that its type cannot represent all integers."""
    if column.dtype.kind != "f":
        return False
    values = np.nan_to_num(np.ma.filled(column.data, 0), nan=0)
    return bool(np.abs(values).max(initial=0) >= 2 ** (np.finfo(column.dtype).nmant + 1))


def name_forms(name, catalogue_id=None):
    """Return the forms of a name for comparing rows and pictures, the strictest first.

    The full name with slashes, without `./`, with composed accents (NFC) and a lower-case suffix; the id in an HDF5
    file, if there is one; the name without folder; the name without folder and suffix.
    """
    path = unicodedata.normalize("NFC", posixpath.normpath(name.strip().replace("\\", "/")))
    whole = SUFFIX.sub(lambda match: match[0].lower(), path)
    return whole, catalogue_id or None, posixpath.basename(whole), picture_id(path)


def match_rows(path, rows, pictures, ids=None, remedy=""):
    """Return the rows of each picture that has any: a dict of lists of agreeing TableRows, by picture name.

    Names are compared form by form; a row or picture that matched in one form is not compared in the next. path: of the
    table, for messages; pictures: names, which may repeat a file; ids: of pictures in HDF5 files, by name; remedy: for
    the message if nothing matches. Raises ValueError, naming the row, if it matches two pictures, if the rows of a
    picture differ, or if no row matches.
    """
    forms_of_rows = [name_forms(row.id, row.id.strip()) for row in rows]
    forms_of_pictures = {picture: name_forms(picture, (ids or {}).get(picture)) for picture in pictures}
    matched, taken = {}, set()
    for form in range(4):
        by_name, owners, found = defaultdict(list), {}, {}
        for row, forms in zip(rows, forms_of_rows, strict=True):
            if row.line not in taken:
                by_name[forms[form]].append(row)
        for picture, forms in forms_of_pictures.items():
            name = forms[form]
            if picture in matched or name is None or name not in by_name:
                continue
            found[picture] = by_name[name]
            check_agreement(path, found[picture], picture)
            owner = owners.setdefault(name, picture)
            if forms_of_pictures[owner][0] != forms[0]:
                row, names = by_name[name][0], f"{printable(owner)} or {printable(picture)}"
                raise ValueError(f"{path}, line {row.line}: {row.id} could be {names}: use its full name")
        matched |= found
        taken |= {row.line for same in found.values() for row in same}
    if not matched:
        example = f", such as {printable(pictures[0])}" if pictures else ""
        has = f"the first row is {rows[0].id}" if rows else "it has no rows"
        raise ValueError(f"{path}: no row matches any of the {len(pictures):,} pictures{example}: {has}{remedy}")
    return matched


def check_agreement(path, rows, picture):
    """Raise ValueError if rows of one picture differ in class or split."""
    first = rows[0]
    for row in rows[1:]:
        if row[1:3] != first[1:3]:
            values = " and ".join(f"{each.class_name} {each.split}".strip() for each in (first, row))
            raise ValueError(
                f"{path}, lines {first.line} ({first.id}) and {row.line} ({row.id}): {printable(picture)} is both "
                f"{values}: keep one of these rows"
            )
