"""Where the galaxies come from: a file, the mirrors of Galaxy10, or the synthetic renderer."""

import sys
from pathlib import Path
from typing import NamedTuple

from common.galaxies import download
from common.galaxies.cutouts import Table, write_cutouts
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


def find_galaxies(args):
    """Return the file of galaxies that `args`, the options of q1_data.py, ask for.

    Pictures in a folder, with --labels, the table of their classes, become cutouts.h5 under --out. A published set is
    downloaded into --cache once. A synthetic one is written to synthetic.h5 under --out: with --source auto after a
    warning, when the real set cannot be downloaded; with --source real that raises OSError instead.
    """
    if args.labels:
        path = Path(args.out) / "cutouts.h5"
        with exclusive_lock(args.out, "cutouts"):
            table = Table(args.labels, args.id, vars(args)["class"], args.split_column)
            write_cutouts(path, args.data, table, args.hold_back, args.image_size)
        return Galaxies(path, f"file:{Path(args.data).resolve().name}")
    if args.id or vars(args)["class"]:
        raise ValueError("--id and --class are columns of the table that --labels names")
    if args.data:
        return Galaxies(Path(args.data), source_of(Path(args.data)))
    if args.source != "synthetic":
        try:
            published = download.PUBLISHED[args.dataset]
            return Galaxies(download.fetch(args.cache, published), f"galaxy10-{args.dataset}")
        except OSError as error:  # no mirror has it, or the cache cannot be written
            if args.source == "real" or args.dataset == "decals":  # of which there is no synthetic one
                raise
            if not isinstance(error, ConnectionError):  # the mirrors' failures have been printed
                print(f"{error.filename}: {error.strerror}", file=sys.stderr)
            print(WARNING, file=sys.stderr, flush=True)
    path = Path(args.out) / "synthetic.h5"
    with exclusive_lock(args.out, "synthetic"):  # which removes what a killed run left half written
        write_synthetic(path, args.count, args.seed)
    return Galaxies(path, "synthetic")


def say_whose_names(galaxies, class_names):
    """Print it if the classes of a file, neither published nor synthetic, are named as those of a published set."""
    if galaxies.source.startswith("file:") and branches_of(class_names):
        published = source_title(f"galaxy10-{'decals' if set(class_names) == set(DECALS_CLASS_NAMES) else 'sdss'}")
        print(f"{galaxies.path}: classes are named as those of {published}; the attribute class_names overrides that.")


def source_of(path):
    """Return what records call the data in a file: a published set by its checksum, or else by the file's name."""
    if published := download.published_as(path):
        return f"galaxy10-{published}"
    try:
        with h5py.File(path, "r") as file:
            is_synthetic = "synthetic" in file.attrs
    except READ_ERRORS:  # what is wrong with it, `check_galaxy10` says
        is_synthetic = False
    return "synthetic" if is_synthetic else f"file:{path.name}"
