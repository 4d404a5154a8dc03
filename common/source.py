"""Where the galaxies come from: a file, the mirrors of Galaxy10, or the synthetic renderer."""

import sys

from common import download
from common.galaxy10 import CLASS_NAMES
from common.hdf5 import open_galaxy10, resize
from common.synthetic import synthetic_galaxy10

WARNING = """\
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!
!!  WARNING: Galaxy10 could not be downloaded.                      !!
!!  What follows are SYNTHETIC galaxies, drawn by this program.     !!
!!  Nothing measured on them says anything about the sky.           !!
!!  If you have the file, give its path with --data (make: DATA=).  !!
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!"""


def open_source(args):
    """Return the data's name, the class names, the labels, uint8 (n,), and an iterator over blocks of images.

    args: data, dataset, source, cache, count, image_size and seed, as q1_data.py takes them. With source
    "auto" a warning is printed when the real set cannot be had; with "real" that raises ConnectionError.
    """
    if args.data:
        return download.source_of(args.data), *open_galaxy10(args.data, args.image_size)
    if args.source != "synthetic":
        try:
            path = download.fetch(args.cache, download.PUBLISHED[args.dataset])
            return f"galaxy10-{args.dataset}", *open_galaxy10(path, args.image_size)
        except ConnectionError:
            if args.source == "real" or args.dataset == "decals":  # of which there is no synthetic one
                raise
            print(WARNING, file=sys.stderr, flush=True)
    labels, blocks = synthetic_galaxy10(args.count, args.seed)
    return "synthetic", CLASS_NAMES, labels, (resize(block, args.image_size) for block in blocks)
