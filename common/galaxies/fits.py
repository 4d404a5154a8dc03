"""Read a FITS cube of three bands: scaled integers and compressed files too, and no more of them than is needed."""

import tempfile
import warnings
import zlib
from contextlib import contextmanager

from common.storage.streams import say

import numpy as np

MAX_DECOMPRESSED = 500_000_000  # bytes of one file


def read_cube(path, opener, window):
    """Return a window of the first cube of three bands in a FITS file: float32 (3, h, w), NaN where undefined.

    opener: `open`, or a function such as gzip.open for a compressed file. window: a function that, given the width and
    height of the cube, returns the window's left, top, right and bottom. Raises ValueError with a sentence on what the
    file holds when that is no such cube.
    """
    try:
        from astropy.io import fits
        from astropy.utils.exceptions import AstropyUserWarning
    except ImportError:
        raise ValueError("is a FITS file, which astropy reads: pip install astropy") from None
    warnings.filterwarnings("ignore", category=AstropyUserWarning)  # what is wrong with a file, its error says
    with (
        decompressed(path, opener) as file,
        fits.open(file, memmap=False, do_not_scale_image_data=True) as hdus,
    ):
        images = [hdu for hdu in hdus if hdu.is_image and hdu.header["NAXIS"] > 0]
        cubes = [hdu for hdu in images if len(hdu.shape) == 3 and hdu.shape[0] == 3]
        if not cubes:
            raise ValueError(
                f"holds {describe(images)} but no cube of three bands, which is needed: "
                "width x height x 3, the bluest band first"
            )
        cube = cubes[0]
        if len(cubes) > 1:
            say(path, f"holds {len(cubes)} cubes of three bands, of which the first ({cube.name}) is read")
        _, height, width = cube.shape
        left, top, right, bottom = window(width, height)
        try:
            bands = [physical(cube.section[band, top:bottom, left:right], cube.header) for band in range(3)]
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"is damaged or truncated: its pixels cannot be read ({error})") from None
    return np.stack(bands)


def physical(stored, header):
    """Return what stored pixels stand for, as the FITS standard has it: float32, with NaN for undefined ones.

    By astropy's own arithmetic, so that integers give the bits of the floats that astropy makes of them.
    """
    scale, zero = header.get("BSCALE", 1), header.get("BZERO", 0)
    if (scale, zero) == (1, 2**63):  # unsigned integers, of which float64 would lose the last digits
        values = (stored.astype(np.uint64) + np.uint64(zero)).astype(np.float64)
    else:
        values = stored.astype(np.result_type(stored.dtype, np.float32)) * scale + zero  # float64 for 32 and 64 bits
    if stored.dtype.kind in "iu" and "BLANK" in header:
        values[stored == header["BLANK"]] = np.nan
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


@contextmanager
def decompressed(path, opener):
    """Give what `fits.open` takes: the path itself or, of a compressed file, a temporary file of what it holds.

    Raises ValueError for a damaged file, and for one that holds more than MAX_DECOMPRESSED bytes.
    """
    if opener is open:
        yield path
        return
    with tempfile.TemporaryFile() as file:
        try:
            with opener(path) as compressed:
                while block := compressed.read(1_000_000):
                    file.write(block)
                    if file.tell() > MAX_DECOMPRESSED:
                        raise ValueError(f"holds more than the {MAX_DECOMPRESSED:,} bytes that are decompressed")
        except (OSError, EOFError, zlib.error) as error:
            if getattr(error, "errno", None):  # the system's, no fault of the file's
                raise
            raise ValueError(f"is damaged: it cannot be decompressed ({error})") from None
        file.seek(0)
        with open(file.fileno(), "rb", closefd=False) as reading:  # fits.open refuses files that are open for writing
            yield reading


def describe(images):
    """Return what a FITS file with these image HDUs holds, in words."""
    sizes = {" x ".join(map(str, reversed(hdu.shape))) for hdu in images}
    size = sizes.pop() if len(sizes) == 1 else "different sizes"
    if len(images) > 1:
        names = [hdu.name or "-" for hdu in images[:5]] + ["…"] * (len(images) > 5)
        return f"{len(images)} images of {size} in its extensions ({', '.join(names)})"
    if images and len(images[0].shape) == 3:
        bands, height, width = images[0].shape
        return f"{bands} bands of {width} x {height}"
    return f"one image of {size}" if images else "headers or tables"
