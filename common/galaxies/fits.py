"""Read a window of a cube of three bands from a FITS file, with astropy."""

import gzip
import warnings

from common.storage.packages import require
from common.storage.streams import say

import numpy as np


def read_cube(path, window):
    """Return a window of the first cube of three bands in a FITS file: float32 (3, h, w), NaN where undefined.

    astropy scales integers and decompresses files and tiles. window: a function that returns the window's left, top,
    right and bottom, given the width and height of the cube. Raises ValueError if the file has no such cube or astropy
    is not installed, and the errors of `fits.open` and gzip.
    """
    require("reading a FITS file", "astropy")
    from astropy.io import fits
    from astropy.utils.exceptions import AstropyUserWarning

    warnings.filterwarnings("ignore", category=AstropyUserWarning)  # the errors say what is wrong with a file
    check_gzip(path)
    with fits.open(path, memmap=False) as hdus:
        images = [hdu for hdu in hdus if hdu.is_image and hdu.shape]
        cubes = [hdu for hdu in images if len(hdu.shape) == 3 and hdu.shape[0] == 3]
        if not cubes:
            found = [f"{hdu.name} {' x '.join(map(str, reversed(hdu.shape)))}".strip() for hdu in images]
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            raise ValueError(
                f"holds {', '.join(found[:5]) or 'no image'}{more}, but no cube of three bands "
                "(width x height x 3, the bluest band first)"
            )
        if len(cubes) > 1:
            say(path, f"holds {len(cubes)} cubes of three bands; only the first ({cubes[0].name}) is read")
        _, height, width = cubes[0].shape
        left, top, right, bottom = window(width, height)
        with np.errstate(over="ignore"):  # float64 values beyond float32's range
            # Whole rows of a band are one read; reading a compressed file decompresses it from the beginning.
            bands = [cubes[0].section[band, top:bottom][:, left:right].astype(np.float32) for band in range(3)]
    return np.stack(bands)


def check_gzip(path):
    """Read a gzip file to its end, where the checksum is; astropy does not. Raises the errors of gzip."""
    with open(path, "rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    if is_gzip:
        with gzip.open(path) as file:
            while file.read(1_000_000):
                pass
