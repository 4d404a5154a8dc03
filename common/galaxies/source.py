"""Find the file of galaxies: the user's own, a published set, or a synthetic one."""

import os
import sys
from pathlib import Path
from typing import NamedTuple

from common.galaxies import download
from common.galaxies.facts import DECALS_CLASS_NAMES, IMAGE_SIZE, branches_of, source_title
from common.galaxies.hdf5 import READ_ERRORS, check_galaxy10, open_hdf5, reduced
from common.galaxies.synthetic import write_synthetic
from common.storage.atomic import exclusive_lock

WARNING = """\
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!
!!  WARNING: Galaxy10 could not be downloaded.                      !!
!!  What follows are SYNTHETIC galaxies, made by this program.      !!
!!  Nothing measured on them says anything about the sky.           !!
!!  If you have the file, give its path with --data (make: DATA=).  !!
!!  To try the download again: --source real (make: SOURCE=real).   !!
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!"""


class Galaxies(NamedTuple):
    """An HDF5 file in Galaxy10's form, with images of IMAGE_SIZE."""

    path: Path
    source: str  # its name in records: galaxy10-sdss, galaxy10-decals, synthetic or file:NAME
    class_names: tuple


def find_galaxies(data, source, dataset, cache, count, seed, out):
    """Return the Galaxies that the options of q1_data.py ask for.

    A published set is downloaded into `cache` once. If that fails, source "real" raises OSError, and "auto" prints a
    warning and writes a synthetic set to synthetic.h5 in `out`. Images of another size are reduced once, in a file in
    `cache`. Raises OSError or ValueError for a file that is not in Galaxy10's form.
    """
    path, source = find_file(data, source, dataset, cache, count, seed, out)
    names, size = check_galaxy10(path)
    if source.startswith("file:") and branches_of(names):
        published = source_title(f"galaxy10-{'decals' if set(names) == set(DECALS_CLASS_NAMES) else 'sdss'}")
        print(f"{path}: class names are {published}'s; the attribute class_names overrides that.")
    return Galaxies(path if size == IMAGE_SIZE else reduced(path, names, download.cache_folder(cache)), source, names)


def find_file(data, source, dataset, cache, count, seed, out):
    """Return the path of the file, with images of any size, and its name in records; arguments as `find_galaxies`."""
    if data:
        return Path(data), source_of(Path(data))
    if source != "synthetic":
        try:
            return download.fetch(cache, download.PUBLISHED[dataset]), f"galaxy10-{dataset}"
        except OSError as error:  # no mirror has it, or the cache cannot be written
            if source == "real" or dataset == "decals":  # of which there is no synthetic one
                raise
            if not isinstance(error, ConnectionError):  # the mirrors' failures have been printed
                print(f"{error.filename}: {error.strerror}", file=sys.stderr)
            print(WARNING, file=sys.stderr, flush=True)
    path = Path(out) / "synthetic.h5"
    with exclusive_lock(out, "synthetic"):  # which removes what a killed run left half written
        write_synthetic(path, count, seed)
    return path, "synthetic"


def galaxies_file(record, out):
    """Return the path of the file that Q1 has read, with images of any size; record: q1_data.json of the folder `out`.

    The file may no longer exist.
    """
    args = record["args"]
    if args["data"]:
        return Path(args["data"])
    if record["source"] == "synthetic":
        return Path(out) / "synthetic.h5"
    return download.cache_folder(args["cache"]) / download.PUBLISHED[record["source"].removeprefix("galaxy10-")].name


def source_of(path):
    """Return the name of a file's data in records: a published set, known by its checksum, or else the file's name.

    Raises ValueError for a folder.
    """
    if os.path.isdir(path):
        first = f"python cutouts.py {path} TABLE --to own.h5"
        raise ValueError(f"{path} is a folder: make one file of its pictures and a table of their classes, {first}")
    for name, published in download.PUBLISHED.items():
        if download.is_whole(path, published):
            return f"galaxy10-{name}"
    try:
        with open_hdf5(path) as file:
            is_synthetic = "synthetic" in file.attrs
    except READ_ERRORS:  # `check_galaxy10` says what is wrong
        is_synthetic = False
    return "synthetic" if is_synthetic else f"file:{path.name}"
