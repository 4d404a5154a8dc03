"""Create an HDF5 file in Galaxy10's format, for q1_data.py --data, from pictures and a table of their classes.

The central square of each picture is resized to 69 x 69 pixels, as in predict.py. The table is .csv, .fits or .ecsv,
with one row per picture: its name, with or without folder and suffix, and its class. Rows without a picture or a class,
and pictures without a row, are skipped and counted. The file contains the datasets images, ans (class numbers),
class_names, id and, with --split-column, split.
"""

import hashlib
import reprlib
from collections import Counter
from pathlib import Path

from common import cli
from common.galaxies.facts import IMAGE_SIZE, plural
from common.galaxies.hdf5 import create_hdf5
from common.galaxies.pictures import HDF5_SUFFIXES, SUFFIX, find_pictures, read_pictures
from common.galaxies.split import WHOLE_NUMBER
from common.galaxies.tables import match_rows, name_forms, read_rows
from common.storage.streams import one_line, printable, say

import joblib
import numpy as np
from tqdm import tqdm

EXAMPLES = (
    "python cutouts.py pictures/ table.csv --to own.h5",
    "python cutouts.py pictures/ table.fits --to own.h5 --id SPECOBJID --class MORPHOLOGY --field 0.5",
    "python cutouts.py pictures/ table.csv --to own.h5 --split-column subset  # train or test",
)
MOST_NAMED = 10  # unreadable pictures to list


def labelled_pictures(folder, table, id_column, class_column, split_column):
    """Return the (path, TableRow) pairs of the pictures in `folder` with a class in `table`, in the table's order.

    Prints a line that counts the skipped rows and pictures. Raises OSError or ValueError, naming the file.
    """
    paths = find_pictures([folder])
    if paths == [folder]:
        raise ValueError(f"{folder} is not a folder of pictures")
    all_rows = read_rows(table, id_column, class_column, split_column)
    rows = [row for row in all_rows if row.class_name]
    inside = f"{name_forms(str(folder))[0]}/"
    has_folder = any(name_forms(row.id)[0].startswith(inside) for row in rows)
    names = {str(path if has_folder else path.relative_to(folder)): path for path in paths}
    matched = match_rows(table, rows, list(names), remedy="; name another id column with --id")
    with_picture = sum(map(len, matched.values()))
    ids_without_class = {name_forms(row.id)[-1] for row in all_rows if not row.class_name}
    unmatched = [name for name in names if name not in matched]
    counts = {
        ("row", "without a class"): len(all_rows) - len(rows),
        ("row", "without a picture"): len(rows) - with_picture,
        ("row", "repeated"): with_picture - len(matched),
        ("picture", "without a row"): sum(name_forms(name)[-1] not in ids_without_class for name in unmatched),
    }
    left_out = "; ".join(f"{plural(count, noun)} {why}" for (noun, why), count in counts.items() if count)
    print(f"{table}: {len(matched):,} pictures of {folder}" + (f"; skipped: {left_out}" if left_out else ""))
    pairs = [(names[name], same[0]) for name, same in matched.items()]
    others = {row.split for _, row in pairs if row.split.lower() not in ("train", "test")}
    if split_column and others:
        found = reprlib.repr(sorted(others))
        raise ValueError(f"{table}: {split_column} must be train or test for each picture, not {found}")
    suffixes = [SUFFIX.search(path.name) for path, _ in pairs]
    fits = sum(bool(suffix and suffix["fits"]) for suffix in suffixes)
    if 0 < fits < len(pairs):
        reason = "their stretch and colours differ, so use one format for all pictures"
        say(folder, f"{fits:,} of {len(pairs):,} pictures are FITS, the others are not: {reason}")
    return sorted(pairs, key=lambda pair: pair[1].line)


def find_classes(table, rows):
    """Return the class names: integers in numerical order, then other names in alphabetical order.

    Raises ValueError if there are too few or too many.
    """
    names = {printable(row.class_name) for row in rows}
    if not 2 <= len(names) <= len(rows) // 2:
        found = f"{len(names):,} different classes, such as {reprlib.repr(sorted(names))}, of {len(rows):,} pictures"
        raise ValueError(f"{table}: {found}: name the class column with --class")
    return sorted(names, key=lambda name: (0, int(name), name) if WHOLE_NUMBER.fullmatch(name) else (1, 0, name))


def print_classes(table, class_names, rows):
    """Print the number of pictures of each class and, on stderr, class names that differ only in case."""
    counts = Counter(printable(row.class_name) for row in rows)
    print(f"Classes: {'; '.join(f'{name} ({counts[name]:,})' for name in class_names)}")
    same = Counter(name.lower() for name in class_names)
    alike = [name for name in class_names if same[name.lower()] > 1]
    if alike:
        say(table, f"classes whose names differ only in case are kept separate: {'; '.join(alike)}")


def write_pictures(images, pairs, field):
    """Read pictures into an HDF5 dataset, uint8 (n, 69, 69, 3); print how many are duplicates.

    Raises ValueError if any cannot be read, after listing the first ones on stderr.
    """
    paths = [path for path, _ in pairs]
    pictures = read_pictures(paths, field, threads=min(8, joblib.cpu_count()))
    pictures = tqdm(pictures, total=len(paths), disable=None, leave=False)
    failed, equal, contradicting, seen = 0, 0, 0, {}
    for place, ((path, row), (name, picture)) in enumerate(zip(pairs, pictures, strict=False)):
        if name != printable(path):
            raise ValueError(f"{path} does not contain exactly one picture: use one file per picture")
        if isinstance(picture, Exception):
            failed += 1
            if failed <= MOST_NAMED:
                say(path, one_line(picture).removeprefix(f"{name}: "))
            continue
        images[place] = picture
        first = seen.setdefault(hashlib.sha256(picture.tobytes()).digest(), row)
        equal += first is not row
        contradicting += first.class_name != row.class_name
    if failed:
        raise ValueError(f"{failed:,} of {len(paths):,} pictures cannot be read: replace them, or remove their rows")
    if equal:
        counted = f"{plural(equal, 'picture')} identical to an earlier one"
        print(f"{counted}, {contradicting:,} of them with a different class")


def main():
    args = get_args()
    folder = Path(args.pictures)
    pairs = labelled_pictures(folder, args.table, args.id, vars(args)["class"], args.split_column)
    rows = [row for _, row in pairs]
    class_names = find_classes(args.table, rows)
    print_classes(args.table, class_names, rows)
    with create_hdf5(args.to) as file:
        file["class_names"] = class_names
        file["ans"] = [class_names.index(printable(row.class_name)) for row in rows]
        file["id"] = [row.id for row in rows]
        if args.split_column:
            file["split"] = [row.split.lower() for row in rows]
        write_pictures(
            file.create_dataset("images", (len(rows), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8), pairs, args.field
        )
    print(f"{args.to}: {len(rows):,} pictures of {len(class_names)} classes; next: python q1_data.py --data {args.to}")


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("pictures", type=cli.path, metavar="PICTURES", help="folder of pictures, each with one galaxy at the centre")
    add("table", type=cli.path, metavar="TABLE", help="table of their classes: .csv, .fits or .ecsv")
    add("--to", type=cli.path, required=True, metavar="FILE", help="HDF5 file to write")
    add("--id", metavar="COLUMN", help="column with the picture names (default: objid, id, name or file)")
    add("--class", metavar="COLUMN", help="column with the classes (default: class, class_name or label)")
    add("--split-column", metavar="COLUMN", help="column with train or test in each row")
    add("--field", type=cli.fraction, default=1.0, metavar="FRACTION", help="fraction of the central square to use")
    args = parser.parse_args(argv)
    if not args.to.lower().endswith(HDF5_SUFFIXES):
        parser.error(f"--to {args.to}: the name of an HDF5 file must end in .h5")
    return args


if __name__ == "__main__":
    cli.run(main)
