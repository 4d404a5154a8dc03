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
    "auto" a warning is printed when the real set cannot be downloaded; with "real" that raises OSError.
    """
    if args.data:
        return download.source_of(args.data), *open_galaxy10(args.data, args.image_size)
    if args.source != "synthetic":
        try:
            path = download.fetch(args.cache, download.PUBLISHED[args.dataset])
        except OSError as error:  # no mirror has it, or the cache cannot be written
            if args.source == "real" or args.dataset == "decals":  # of which there is no synthetic one
                raise
            if not isinstance(error, ConnectionError):  # the mirrors' failures have been printed
                print(f"{error.filename}: {error.strerror}", file=sys.stderr)
            print(WARNING, file=sys.stderr, flush=True)
        else:
            return f"galaxy10-{args.dataset}", *open_galaxy10(path, args.image_size)
    labels, blocks = synthetic_galaxy10(args.count, args.seed)
    return "synthetic", CLASS_NAMES, labels, (resize(block, args.image_size) for block in blocks)
