"""Where the galaxies come from: a file, the mirrors of Galaxy10, or the synthetic renderer."""

import sys

from common.galaxies import download
from common.galaxies.facts import CLASS_NAMES
from common.galaxies.hdf5 import open_galaxy10, resize
from common.galaxies.synthetic import synthetic_galaxy10

WARNING = """\
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!
!!  WARNING: Galaxy10 could not be downloaded.                      !!
!!  What follows are SYNTHETIC galaxies, made by this program.      !!
!!  Nothing measured on them says anything about the sky.           !!
!!  If you have the file, give its path with --data (make: DATA=).  !!
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!"""


def open_source(data, source, dataset, cache, count, image_size, seed):
    """Return the data's name, the class names, the labels, uint8 (n,), and an iterator over blocks of images.

    The arguments are the options of q1_data.py. The blocks are numpy arrays, uint8 (m, image_size, image_size, 3). With
    source "auto" a warning is printed when the real set cannot be downloaded; with "real" that raises OSError.
    """
    if data:
        return download.source_of(data), *open_galaxy10(data, image_size)
    if source != "synthetic":
        try:
            path = download.fetch(cache, download.PUBLISHED[dataset])
        except OSError as error:  # no mirror has it, or the cache cannot be written
            if source == "real" or dataset == "decals":  # of which there is no synthetic one
                raise
            if not isinstance(error, ConnectionError):  # the mirrors' failures have been printed
                print(f"{error.filename}: {error.strerror}", file=sys.stderr)
            print(WARNING, file=sys.stderr, flush=True)
        else:
            return f"galaxy10-{dataset}", *open_galaxy10(path, image_size)
    labels, blocks = synthetic_galaxy10(count, seed)
    return "synthetic", CLASS_NAMES, labels, (resize(block, image_size) for block in blocks)
