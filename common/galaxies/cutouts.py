"""A folder of pictures and the table of their classes, made one HDF5 file in Galaxy10's form."""

import csv
import reprlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from common.galaxies.facts import IMAGE_SIZE, plural
from common.galaxies.hdf5 import MOST_CLASSES
from common.galaxies.pictures import find_pictures, read_pictures
from common.galaxies.split import hold_back
from common.storage.atomic import atomic_write
from common.storage.packages import require
from common.storage.streams import one_line, printable

import h5py
import joblib
import numpy as np
from tqdm import tqdm

# The usual names of columns, in lower case: the first that the table has is taken.
ID_COLUMNS = ("objid", "id", "name", "file")
CLASS_COLUMNS = ("class", "class_name", "label")
FORMATS = {".fits": "fits", ".fit": "fits", ".fits.gz": "fits", ".ecsv": "ascii.ecsv"}  # by suffix, as astropy has them
DELIMITERS = ",;\t"
DATASETS = ("images", "ans", "id", "class_names")  # of the file that is written, beside the split's


class Cutouts(NamedTuple):
    """How a folder of pictures is read: the table of their classes, with its columns (None: by their usual names)."""

    labels: str | None  # path of the table; None: there is no such folder
    id_column: str | None = None
    class_column: str | None = None
    split_column: str | None = None  # None: there is none
    held_back: str | None = None  # as `hold_back` takes it
    size: int = IMAGE_SIZE


class Row(NamedTuple):
    """A row of the table, as texts."""

    id: str
    class_name: str
    split: str  # empty without a column of it


def write_cutouts(path, folder, cutouts):
    """Write an HDF5 file of the pictures in `folder` that the table of `cutouts` names, in its order.

    Its datasets are images, uint8 (n, size, size, 3), as predict.py decodes and resizes them; ans, int64 (n,), the
    class of each in class_names; id; and the split column, if there is one, by its own name. Rows without a picture,
    and pictures without a row, are counted in a line. Which classes are held back is checked before pictures are read.
    Raises OSError or ValueError, naming the file, when the two do not fit, or pictures cannot be read.
    """
    if folder is None or not Path(folder).is_dir():
        raise ValueError(f"--labels {cutouts.labels}: --data must be the folder of its pictures, not {folder}")
    table, *columns, held_back, size = cutouts
    split_column = cutouts.split_column
    if split_column in DATASETS:
        raise ValueError(f"--split-column {split_column}: cutouts.h5 has another dataset of that name: rename it")
    rows = match(table, folder, read_rows(table, *columns))
    splits = sorted({row.split for row in rows.values()})
    if split_column and not {split.lower() for split in splits} <= {"train", "test"}:
        found = reprlib.repr(splits)
        raise ValueError(f"{table}: {split_column} must be train or test for each picture: found {found}")
    class_names = sorted({row.class_name for row in rows.values()}, key=numbers_first)
    if not 2 <= len(class_names) <= min(MOST_CLASSES, len(rows) // 2):
        found = f"{len(class_names):,} different classes, such as {reprlib.repr(class_names)}"
        sentence = f"{table}: {found}, of {len(rows):,} pictures"
        raise ValueError(f"{sentence}: name the column of the classes with --class")
    hold_back(class_names, held_back)
    numbers = {name: number for number, name in enumerate(class_names)}
    with atomic_write(path) as [temporary], h5py.File(temporary, "w") as file:
        file["class_names"] = class_names
        file["ans"] = [numbers[row.class_name] for row in rows.values()]
        file["id"] = [row.id for row in rows.values()]
        if split_column:
            file[split_column] = [row.split for row in rows.values()]
        write_pictures(file.create_dataset("images", (len(rows), size, size, 3), np.uint8), list(rows), size)


def write_pictures(images, paths, size):
    """Read pictures into an HDF5 dataset, uint8 (n, size, size, 3). Raises ValueError if any cannot be read."""
    failures = []
    pictures = read_pictures(paths, size, threads=min(8, joblib.cpu_count()))
    pictures = tqdm(pictures, total=len(paths), disable=None, leave=False)
    for place, (path, (name, picture)) in enumerate(zip(paths, pictures, strict=False)):
        if name != printable(path):
            raise ValueError(f"{path}: holds no or several pictures: name files of one picture in the table")
        if isinstance(picture, Exception):
            failures.append(f"{name}: {one_line(picture).removeprefix(f'{name}: ')}")
        else:
            images[place] = picture
    if failures:
        others = f" ({len(failures):,} of {len(paths):,} pictures cannot be read)" if len(failures) > 1 else ""
        raise ValueError(f"{failures[0]}{others}: replace it, or take its row out of the table")


def read_rows(path, id_column, class_column, split_column):
    """Return the Rows of a table, a list; columns are found by their usual names where they are None.

    Raises OSError, or ValueError with a sentence when it is no table or has no such columns.
    """
    kind = next((kind for suffix, kind in FORMATS.items() if str(path).lower().endswith(suffix)), None)
    with open(path, "rb"):  # raises the system's own error when it is missing or unreadable
        rows = read_csv(path) if kind is None else read_astropy(path, kind)
    header = next(rows, [])
    wanted = [("--id", id_column, ID_COLUMNS), ("--class", class_column, CLASS_COLUMNS)]
    wanted += [("--split-column", split_column, ())] if split_column else []
    places = [find_column(path, header, *each) for each in wanted]
    return [Row(*(row[place] for place in places), *[""] * (3 - len(places))) for row in rows]


def read_csv(path):
    """Yield the header of a CSV file and its rows, lists of texts; between columns stand commas, semicolons or tabs."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            reader, width = csv.reader(file, delimiter=max(DELIMITERS, key=header.count)), None
            for row in filter(None, reader):
                width = width or len(row)
                if len(row) != width:
                    raise ValueError(f"{path}, line {reader.line_num}: has {len(row)} columns, the header {width}")
                yield [text.strip() for text in row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a table that can be read: save it as .csv, .fits or .ecsv ({error})") from None


def read_astropy(path, kind):
    """Yield the header of a FITS or ECSV table and its rows, lists of texts: empty where a value is masked."""
    require(f"{path}: reading it", "astropy")
    from astropy.table import Table

    try:
        table = Table.read(path, format=kind)
        table.convert_bytestring_to_unicode()
    except Exception as error:  # of a dozen types
        raise ValueError(f"{path} is not a table that astropy can read ({error})") from None
    names = [name for name in table.colnames if table[name].ndim == 1]
    yield names
    columns = [map(as_text, table[name].tolist()) for name in names]
    yield from zip(*columns, strict=True)


def as_text(value):
    """Return a value of a table as text: whole numbers without a point, and an empty text for None, which is masked."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()


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


def match(table, folder, rows):
    """Return the Rows that have a class and a picture in `folder`, a dict by the picture's path, in the table's order.

    An id is the path of a picture, within `folder` or not, or its name, with its suffix or without. Prints a line that
    counts what is left out. Raises ValueError for an id of two pictures, and for two classes of one picture.
    """
    wanted, by_id = {row.id for row in rows}, defaultdict(list)
    pictures = find_pictures([folder])
    for picture in pictures:
        plain = Path(picture.name.removesuffix(".gz").removesuffix(".bz2")).stem
        keys = (str(picture), picture.relative_to(folder).as_posix(), picture.name, plain)
        if key := next((key for key in keys if key in wanted), None):
            by_id[key].append(picture)
    matched, left_out = {}, Counter()
    for row in rows:
        found = by_id.get(row.id, [])
        if len(found) > 1:
            names = " and ".join(printable(each.relative_to(folder)) for each in found[:2])
            raise ValueError(f"{table}: {row.id} names {len(found)} pictures, {names}: give their paths as ids")
        if not row.class_name or not found:
            left_out["row", "without a picture" if not found else "without a class"] += 1
        elif found[0] not in matched:
            matched[found[0]] = row._replace(class_name=printable(row.class_name))
        elif (before := matched[found[0]])[1:] == row[1:]:
            left_out["row", "repeated"] += 1
        else:
            values = [f"{each.class_name} {each.split}".strip() for each in (before, row)]
            raise ValueError(f"{table}: the picture {row.id} is both {' and '.join(values)}: leave one row for it")
    if not matched:
        example = f"such as {reprlib.repr(rows[0].id)}" if rows else "there are none"
        raise ValueError(
            f"{table}: no row names one of the {len(pictures):,} pictures in {folder}, such as "
            f"{printable(pictures[0].name)}: name the column of ids with --id ({example} in the one found)"
        )
    left_out["picture", "without a row"] = len(pictures) - len(matched)
    counts = "; ".join(f"{plural(count, noun)} {why}" for (noun, why), count in left_out.items() if count)
    print(f"{table}: {len(matched):,} pictures of {folder}" + (f"; left out: {counts}" if counts else ""))
    return matched


def numbers_first(name):
    """Return the key by which class names are sorted: whole numbers by value, then texts by alphabet."""
    return (0, int(name), name) if name.isascii() and name.isdecimal() else (1, 0, name)
