"""Pictures from anywhere: image files, folders of them, HDF5 and FITS files, all brought to one size.

Nothing is decoded before its size is known, and only a few pictures are in memory at a time.
"""

import math
import os
import threading
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from common.galaxies.hdf5 import READ_ERRORS, check_storage, dataset, open_hdf5, row_blocks

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF")
SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif"}
SUFFIXES |= {".h5", ".hdf5", ".fits", ".fit"}  # of the files that are looked for in folders
MAX_PIXELS = 100_000_000  # of one picture; more are refused unread
LARGE = 16_000_000  # pixels, above which pictures are decoded one at a time
MAX_ARRAY_PIXELS = 16_000_000  # of one in an HDF5 or FITS file, of which several copies are made
MAX_BLOCK_BYTES = 500_000_000  # that an HDF5 file makes its reader decode at once
ORIENTATION = 0x0112  # of EXIF
READ_AHEAD = 32  # pictures for each thread
HDF5, FITS = b"\x89HDF\r\n\x1a\n", b"SIMPLE"
one_large_picture = threading.Lock()
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS decides


def find_pictures(paths):
    """Return the files that `paths` name, as Paths: files as they are, for a folder those below it that have SUFFIXES.

    In the order given, within a folder sorted by name. A folder without any stands in the list itself.
    """
    found = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        inside = [
            Path(folder, name)
            for folder, _, names in os.walk(path)
            for name in names
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
        ]
        found += sorted(inside) or [path]
    return found


def read_pictures(paths, size, field=1.0, threads=2):
    """Yield (name, picture) for every picture in the files `paths`, in order; uint8 (size, size, 3).

    In place of the picture of a file that cannot be read stands the exception that says why. field: the part of the
    centred square that is kept, 0 to 1. A picture of an HDF5 file is named `cutouts.h5[12]`. At most
    READ_AHEAD * `threads` pictures are read ahead, so memory does not grow with their number.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque()
        for name, read in readers(paths, size, field):
            waiting.append((name, pool.submit(read)))
            if len(waiting) > READ_AHEAD * threads:
                yield result_or_error(*waiting.popleft())
        while waiting:
            yield result_or_error(*waiting.popleft())


def result_or_error(name, future):
    """Return (name, what was read), or (name, the exception) if it failed."""
    try:
        return name, future.result()
    except Image.DecompressionBombError:
        return name, ValueError(f"has more than {MAX_PIXELS:,} pixels, which are not decoded: make it smaller")
    except Exception as error:  # PIL raises a dozen types for a file it cannot read
        return name, error


def readers(paths, size, field):
    """Yield (name, function that reads it) for every picture in the files `paths`."""
    for path in paths:
        try:
            if path.is_dir():
                raise ValueError(f"is a folder without pictures ({', '.join(sorted(SUFFIXES))})")
            if path.exists() and not path.is_file():
                raise ValueError("is neither a file nor a folder")
            with open(path, "rb") as file:
                start = file.read(8)
            if start == HDF5:
                yield from hdf5_readers(path, size, field)
            else:
                yield str(path), partial(read_fits if start[:6] == FITS else read_picture, path, size, field)
        except (OSError, ValueError) as error:
            yield str(path), partial(fail, error)


def fail(error):
    raise error


def central_square(width, height, field):
    """Return the box (left, top, right, bottom) of the centred square, in pixels; field: the part of it that is kept.

    Its corners may lie between pixels, so that a picture turned or mirrored gives the same square.
    """
    side = max(1, min(width, height) * field)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def to_size(image, size, field):
    """Return a PIL image's central square, resized by area, or when it is smaller linearly: a PIL image."""
    box = central_square(*image.size, field)
    method = Image.Resampling.BOX if box[2] - box[0] >= size else Image.Resampling.BILINEAR
    return image.resize((size, size), method, box)


def read_picture(path, size, field):
    """Return the picture in an image file, the right way up: uint8 (size, size, 3)."""
    with Image.open(path, formats=FORMATS) as image:
        width, height = image.size
        check_pixels(width * height, MAX_PIXELS)
        # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size, which takes half the time. With 1.5 times the pixels
        # needed the result differs by 0.9 of 255 on average, less than JPEG's own error.
        enough = 1.5 * size / (min(width, height) * field)
        image.draft("RGB", (int(width * enough), int(height * enough)))
        with one_large_picture if width * height > LARGE else nullcontext():
            image.load()
            small = to_size(in_colour(image), size, field)
        # Turned when it is small. (A TIFF has been turned by PIL and has no orientation any more.)
        orientation = image.getexif().get(ORIENTATION, 1)
        if orientation != 1:
            small.getexif()[ORIENTATION] = orientation
            small = ImageOps.exif_transpose(small)
        return np.asarray(small)


def in_colour(image):
    """Return a PIL image of any mode as RGB, transparent parts over black, 16 bits scaled to 8."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # whole numbers, of 16 bits in all formats read here
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("has pixels of more than 16 bits: store it with 8 or 16")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("has floating-point pixels: store it with 8 or 16 bits")
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colour.size, "black"), colour).convert("RGB")
    return image.convert("RGB")


def check_pixels(pixels, most):
    """Raise ValueError for a picture with too many pixels."""
    if pixels > most:
        raise ValueError(f"has {pixels:,} pixels, more than the {most:,} that are decoded: make it smaller")


def hdf5_readers(path, size, field):
    """Yield (name, function that returns it) for every picture in the dataset `images` of an HDF5 file."""
    with open_hdf5(path) as file:
        images = dataset(path, file, "images")
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
            shape = " x ".join(map(str, images.shape))
            raise ValueError(f"images are {images.dtype} {shape}, not uint8 n x height x width x 3")
        check_pixels(images.shape[1] * images.shape[2], MAX_ARRAY_PIXELS)
        blocks = row_blocks(images)
        needed = max(blocks[0].stop * math.prod(images.shape[1:]), math.prod(images.chunks or ())) if blocks else 0
        if needed > MAX_BLOCK_BYTES:
            raise ValueError(f"is stored in chunks of {needed / 1e6:,.0f} MB, which are not decoded: use smaller ones")
        check_storage(path, images, needed)
        for rows in blocks:
            try:
                block = images[rows]
            except READ_ERRORS as error:
                raise ValueError(f"is damaged: cannot read images {rows.start:,} and on ({error})") from None
            for row, pixels in enumerate(block, rows.start):
                small = np.asarray(to_size(Image.fromarray(pixels), size, field))
                yield f"{path}[{row}]", partial(np.asarray, small)


def read_fits(path, size, field):
    """Return the picture made of a FITS cube of three bands, the bluest first: uint8 (size, size, 3).

    By Lupton et al. (2004, PASP 116, 133), as SDSS makes its pictures: an asinh stretch that keeps the colours.
    Each band's median is taken as the sky; the stretch is half the light that 99% of the pixels stay below.
    """
    try:
        from astropy.io import fits
        from astropy.utils.exceptions import AstropyUserWarning
        from astropy.visualization import make_lupton_rgb
    except ImportError:
        raise ValueError("is a FITS file, which astropy reads: pip install astropy") from None
    warnings.filterwarnings("ignore", category=AstropyUserWarning)  # what is wrong with a file, its error says
    with one_large_picture, fits.open(path, memmap=True) as file:
        cubes = [hdu for hdu in file if hdu.is_image and hdu.header["NAXIS"] == 3 and hdu.header["NAXIS3"] == 3]
        if not cubes:
            raise ValueError("holds no cube of three bands (3, height, width)")
        header = cubes[0].header
        width, height = header["NAXIS1"], header["NAXIS2"]
        check_pixels(width * height, MAX_ARRAY_PIXELS)
        left, top, right, bottom = (round(edge) for edge in central_square(width, height, field))
        bands = np.array(cubes[0].data[:, top:bottom, left:right], dtype=np.float32)
    bands[~np.isfinite(bands)] = 0
    bands -= np.median(bands, axis=(1, 2), keepdims=True)
    stretch = max(float(np.percentile(bands.mean(0), 99)) / 2, 1e-12)
    with np.errstate(invalid="ignore", divide="ignore"):  # of pixels without light
        pixels = make_lupton_rgb(bands[2], bands[1], bands[0], stretch=stretch, Q=8)
    upright = np.ascontiguousarray(pixels[::-1])  # the last row, north, on top
    return np.asarray(to_size(Image.fromarray(upright), size, 1.0))
