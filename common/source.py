"""Where the galaxies come from: a file, the mirrors of Galaxy10, or the synthetic renderer."""

import sys

from common import download
from common.galaxy10 import open_galaxy10
from common.synthetic import synthetic_galaxy10

WARNING = """\
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!
!!  WARNING: Galaxy10 could not be downloaded.                      !!
!!  What follows are SYNTHETIC galaxies, drawn by this program.     !!
!!  Nothing measured on them says anything about the sky.           !!
!!  If you have the file, give its path with --data (make: DATA=).  !!
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!"""


def open_source(args):
    """Return the data's name, the labels, uint8 (n,), and an iterator over blocks of images, uint8 (m, h, w, 3).

    args: data, source, cache, count and seed, as q1_data.py takes them. With source "auto" a warning is
    printed when the real set cannot be had; with "real" that raises ConnectionError.
    """
    if args.data:
        return download.source_of(args.data), *open_galaxy10(args.data)
    if args.source != "synthetic":
        try:
            return "galaxy10-sdss", *open_galaxy10(download.fetch(args.cache))
        except ConnectionError:
            if args.source == "real":
                raise
            print(WARNING, file=sys.stderr, flush=True)
    return "synthetic", *synthetic_galaxy10(args.count, args.seed)
