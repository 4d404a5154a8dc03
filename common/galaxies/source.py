"""Where the galaxies come from: a file, the mirrors of Galaxy10, or the synthetic renderer."""

import sys
from pathlib import Path
from typing import NamedTuple

from common.galaxies import download
from common.galaxies.cutouts import write_cutouts
from common.galaxies.facts import DECALS_CLASS_NAMES, branches_of, source_title
from common.galaxies.hdf5 import READ_ERRORS
from common.galaxies.synthetic import write_synthetic
from common.storage.atomic import exclusive_lock

import h5py

WARNING = """\
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!
!!  WARNING: Galaxy10 could not be downloaded.                      !!
!!  What follows are SYNTHETIC galaxies, made by this program.      !!
!!  Nothing measured on them says anything about the sky.           !!
!!  If you have the file, give its path with --data (make: DATA=).  !!
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!"""


class Galaxies(NamedTuple):
    """An HDF5 file in Galaxy10's form."""

    path: Path
    source: str  # what records call it: galaxy10-sdss, galaxy10-decals, synthetic or file:NAME


def find_galaxies(data, source, dataset, cache, count, seed, out, cutouts):
    """Return the file of galaxies that the options of q1_data.py ask for.

    Pictures in the folder `data`, with `cutouts` naming the table of their classes, become cutouts.h5 in `out`. A
    published set is downloaded into `cache` once. A synthetic one is written to synthetic.h5 in `out`: with source
    "auto" after a warning, when the real set cannot be downloaded; with "real" that raises OSError instead.
    """
    if cutouts.labels:
        path = Path(out) / "cutouts.h5"
        with exclusive_lock(out, "cutouts"):
            write_cutouts(path, data, cutouts)
        return Galaxies(path, f"file:{Path(data).resolve().name}")
    if cutouts.id_column or cutouts.class_column:
        raise ValueError("--id and --class are columns of the table that --labels names")
    if data:
        return Galaxies(Path(data), source_of(Path(data)))
    if source != "synthetic":
        try:
            published = download.PUBLISHED[dataset]
            return Galaxies(download.fetch(cache, published), f"galaxy10-{dataset}")
        except OSError as error:  # no mirror has it, or the cache cannot be written
            if source == "real" or dataset == "decals":  # of which there is no synthetic one
                raise
            if not isinstance(error, ConnectionError):  # the mirrors' failures have been printed
                print(f"{error.filename}: {error.strerror}", file=sys.stderr)
            print(WARNING, file=sys.stderr, flush=True)
    path = Path(out) / "synthetic.h5"
    with exclusive_lock(out, "synthetic"):  # which removes what a killed run left half written
        write_synthetic(path, count, seed)
    return Galaxies(path, "synthetic")


def galaxies_file(record, out):
    """Return the path of the file that Q1 has read, by its record in the folder `out`; the file may be gone since."""
    args = record["args"]
    if args.get("labels"):
        return Path(out) / "cutouts.h5"
    if args["data"]:
        return Path(args["data"])
    if record["source"] == "synthetic":
        return Path(out) / "synthetic.h5"
    return Path(args["cache"]) / download.PUBLISHED[record["source"].removeprefix("galaxy10-")].name


def say_whose_names(galaxies, class_names):
    """Print it if the classes of a file, neither published nor synthetic, are named as those of a published set."""
    if galaxies.source.startswith("file:") and branches_of(class_names):
        published = source_title(f"galaxy10-{'decals' if set(class_names) == set(DECALS_CLASS_NAMES) else 'sdss'}")
        print(f"{galaxies.path}: classes are named as those of {published}; the attribute class_names overrides that.")


def source_of(path):
    """Return what records call the data in a file: a published set by its checksum, or else by the file's name."""
    for name, published in download.PUBLISHED.items():
        if download.is_whole(path, published):
            return f"galaxy10-{name}"
    try:
        with h5py.File(path, "r") as file:
            is_synthetic = "synthetic" in file.attrs
    except READ_ERRORS:  # what is wrong with it, `check_galaxy10` says
        is_synthetic = False
    return "synthetic" if is_synthetic else f"file:{path.name}"
