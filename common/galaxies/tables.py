"""Tables of galaxies, as CSV, FITS or ECSV: find their columns, and match their rows to pictures by name."""

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

# The usual names of columns, in lower case: the first that the table has is used.
ID_COLUMNS = ("objid", "id", "name", "file")
CLASS_COLUMNS = ("class", "class_name", "label")
ASTROPY_FORMATS = {r"\.(fits?|fts)(\.gz|\.bz2)?": "fits", r"\.ecsv": "ascii.ecsv"}  # by suffix
DELIMITERS = "\t;,"  # the first that the header has
MISSING = {"", "nan", "na", "n/a", "<na>", "null"}  # classes, in lower case, that are none
WHOLE_FLOAT = re.compile(r"([+-]?\d+)\.0*")
FLOAT = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.IGNORECASE)


class Table(NamedTuple):
    """A table as texts; a missing value is an empty text."""

    header: list
    rows: list  # lists of texts, as long as the header
    lines: list  # of the header and of each row: its line in the file, or in a FITS or ECSV table its number, from 1
    rounded: set  # names of columns of floats that are too large for the precision of their type


class TableRow(NamedTuple):
    """The row of a galaxy."""

    id: str
    class_name: str  # empty when it is missing
    split: str  # empty without such a column
    line: int


def read_rows(path, id_column=None, class_column=None, split_column=None, class_names=None):
    """Return the rows of a table, a list of TableRow; a column that is None is found by its usual names.

    class_names: of a network. With them a table of two columns may have other names, or no header: its rows are name
    and class. Raises OSError, or ValueError naming the file, when the columns are not there, or hold no ids.
    """
    table = read_table(path)
    header, rows = table.header, table.rows
    usual = [any(name.lower() in columns for name in header) for columns in (ID_COLUMNS, CLASS_COLUMNS)]
    if class_names is not None and len(header) == 2 and not all(usual):
        id_place, class_place = 0, 1
        if not is_header(*header, class_names):
            rows = [header, *rows]
    else:
        id_place = find_column(path, header, "--id", id_column, ID_COLUMNS)
        class_place = find_column(path, header, "--class", class_column, CLASS_COLUMNS)
    split_place = find_column(path, header, "--split-column", split_column, ()) if split_column else None
    ids = check_ids(path, header[id_place], [row[id_place] for row in rows], table.rounded)
    classes = [without_point(row[class_place]) for row in rows]
    classes = ["" if name.lower() in MISSING else name for name in classes]
    splits = [row[split_place] for row in rows] if split_column else [""] * len(rows)
    return list(map(TableRow, ids, classes, splits, table.lines[-len(rows) :]))


def is_header(name, class_name, class_names):
    """Return whether a first row of two texts is a header, and not the name of a picture and its class."""
    is_row = class_number(class_names, class_name) is not None or FLOAT.fullmatch(class_name)
    return not (is_row or SUFFIX.search(name) or name.isdecimal())


def find_column(path, header, option, given, usual):
    """Return the place in the header of the column `given`, or else of the first of the `usual` names it has."""
    lower = [name.lower() for name in header]
    for name in (given,) if given else usual:
        if name in header:
            return header.index(name)
        if name.lower() in lower:
            return lower.index(name.lower())
    missing = f"column {given}" if given else f"column {' or '.join(usual)}"
    raise ValueError(f"{path} has no {missing}: name one with {option} ({', '.join(header) or 'the file is empty'})")


def check_ids(path, column, ids, rounded):
    """Return ids, texts, without the point of whole numbers. Raises ValueError for floats that are rounded."""
    numbers = [text for text in ids if text.lower() not in MISSING]
    if not all(map(FLOAT.fullmatch, numbers)):
        return ids
    if column in rounded or any(abs(float(text)) >= 2**53 for text in numbers if not text.lstrip("+-").isdecimal()):
        raise ValueError(
            f"{path}: column {column} holds ids as floating-point numbers, which are rounded at this size and may be "
            "those of other galaxies: store them as integers or texts"
        )
    return list(map(without_point, ids))


def without_point(text):
    """Return the text of a whole number that is written as a float, such as 1.0, as 1; any other text as it is."""
    match = WHOLE_FLOAT.fullmatch(text)
    return str(int(match[1])) if match else text


def read_table(path):
    """Return the Table in a CSV, FITS or ECSV file. Raises OSError or ValueError."""
    with open(path, "rb"):  # raises the system's own error when it is missing or unreadable
        pass
    for suffix, kind in ASTROPY_FORMATS.items():
        if re.search(f"{suffix}$", str(path), re.IGNORECASE):
            return read_astropy(path, kind)
    return read_csv(path)


def read_csv(path):
    """Return the Table in a CSV file, with commas, semicolons or tabs; the lines `#...` and `sep=;` above are skipped.

    Rows without any text are left out.
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
                    raise ValueError(f"{path}, line {lines[-1]}: has {len(row)} columns, the header {len(rows[0])}")
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a table that can be read: save it as .csv, .fits or .ecsv ({error})") from None
    return Table(rows[0] if rows else [], rows[1:], lines, set())


def read_astropy(path, kind):
    """Return the Table in a FITS or ECSV file."""
    require(f"{path}: reading it", "astropy")
    from astropy import table as astropy_table

    try:
        table = astropy_table.Table.read(path, format=kind)
        table.convert_bytestring_to_unicode()
    except Exception as error:  # of a dozen types
        raise ValueError(f"{path} is not a table that astropy can read ({error})") from None
    columns = [table[name] for name in table.colnames if table[name].ndim == 1]
    texts = [["" if value is None else str(value).strip() for value in column.tolist()] for column in columns]
    rows = list(map(list, zip(*texts, strict=True)))
    rounded = {column.name for column in columns if is_rounded(column)}
    return Table([column.name for column in columns], rows, list(range(len(rows) + 1)), rounded)


def is_rounded(column):
    """Return whether a column of astropy's holds floats beyond which its type cannot hold all whole numbers."""
    if column.dtype.kind != "f":
        return False
    values = np.nan_to_num(np.ma.filled(column.data, 0), nan=0)
    return bool(np.abs(values).max(initial=0) >= 2 ** (np.finfo(column.dtype).nmant + 1))


def clean(name):
    """Return a name as a path with slashes, without `./` in it, and with accents composed (NFC)."""
    return unicodedata.normalize("NFC", posixpath.normpath(name.strip().replace("\\", "/")))


def lower_suffix(name):
    """Return a clean name with its suffix in lower case."""
    return SUFFIX.sub(lambda match: match[0].lower(), clean(name))


def without_folder(name):
    """Return a clean name without its folder, with its suffix in lower case."""
    return posixpath.basename(lower_suffix(name))


def without_suffix(name):
    """Return a clean name without folder and suffix."""
    return picture_id(clean(name))


# The forms in which the names of rows and pictures are compared: a row or a picture that matched in one form takes no
# part in the next.
FORMS = (clean, lower_suffix, without_folder, without_suffix)


def match_rows(path, rows, pictures, ids=None, remedy=""):
    """Return the rows of each picture that has any: a dict of lists of TableRow, which agree, by the picture's name.

    path: of the table, for messages; pictures: names, in which the same file may occur twice; ids: of pictures in HDF5
    files, by name, which are compared after exact names; remedy: what may help where nothing matches. Raises
    ValueError, naming the row, when it could be that of two pictures, when the rows of a picture differ, and when no
    row matches.
    """
    matched, taken = {}, set()
    forms = [(form, form) for form in FORMS]
    if ids:
        forms.insert(1, (str.strip, lambda name: ids.get(name, "")))
    for row_form, picture_form in forms:
        by_name, owners, found = defaultdict(list), {}, {}
        for row in rows:
            if row.line not in taken:
                by_name[row_form(row.id)].append(row)
        for picture in pictures:
            name = picture not in matched and picture_form(picture)
            if not name or name not in by_name:
                continue
            found[picture] = by_name[name]
            check_agreement(path, found[picture], picture)
            owner = owners.setdefault(name, picture)
            if clean(owner) != clean(picture):
                row, names = by_name[name][0], f"{printable(owner)} or {printable(picture)}"
                raise ValueError(f"{path}, line {row.line}: {row.id} could be {names}: write its name in full")
        matched |= found
        taken |= {row.line for same in found.values() for row in same}
    if not matched:
        example = f", such as {printable(pictures[0])}" if pictures else ""
        has = f"the first row is that of {rows[0].id}" if rows else "it has no rows"
        raise ValueError(f"{path}: no row names one of the {len(pictures):,} pictures{example}: {has}{remedy}")
    return matched


def check_agreement(path, rows, picture):
    """Raise ValueError when rows of one picture differ in class or split."""
    first = rows[0]
    for row in rows[1:]:
        if row[1:3] != first[1:3]:
            values = " and ".join(f"{each.class_name} {each.split}".strip() for each in (first, row))
            raise ValueError(
                f"{path}, lines {first.line} ({first.id}) and {row.line} ({row.id}): {printable(picture)} is both "
                f"{values}: leave one row for it"
            )
