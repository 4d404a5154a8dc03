"""Pictures from anywhere: image files, folders of them, HDF5 and FITS files, all brought to one size.

Pillow, h5py and astropy decide by its contents what a file is. Only a few pictures are in memory at a time.
"""

import codecs
import os
import re
import stat
import threading
import warnings
import zlib
from collections import Counter
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from common.galaxies.fits import read_cube
from common.galaxies.hdf5 import catalogue_ids, dataset, open_hdf5, row_blocks
from common.hardware.parallel import in_order
from common.storage.streams import printable, say

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF")
HDF5_SUFFIXES = (".h5", ".hdf5")
# Of the files that pictures are in, before the row of one in an HDF5 file.
SUFFIX = re.compile(
    r"(?:(?P<hdf5>\.h5|\.hdf5)|\.jpe?g|\.jpe|\.jfif|\.png|\.tiff?|\.webp|\.bmp|\.gif|\.fits?|\.fts)"
    r"(?:\.(?:gz|bz2|fz))?(?=(?:\[\d+\])?$)",
    re.IGNORECASE,
)
HDF5_START, FITS_START = b"\x89HDF\r\n\x1a\n", b"SIMPLE  "
LARGE = 16_000_000  # pixels, above which pictures are decoded one at a time
MAX_ARRAY_PIXELS = 16_000_000  # of one in an HDF5 or FITS file, of which several copies are made
ORIENTATION, BITS_PER_SAMPLE = 0x0112, 0x0102  # of EXIF, of TIFF
READ_AHEAD = 32  # pictures for each thread
Image.MAX_IMAGE_PIXELS = 50_000_000  # Pillow refuses pictures of more than twice as many ...
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # ... and warns of fewer
one_large_picture = threading.Lock()


def picture_id(name):
    """Return what identifies a picture to its catalogue: the name without folder and suffix.

    more/100008.jpg gives 100008, cutouts.h5[12] gives cutouts[12].
    """
    return SUFFIX.sub("", Path(name).name)


def listed_paths(content):
    """Return the paths in a list's bytes, one on each line or, as `find -print0` writes them, before each NUL.

    Blank lines, a byte order mark and the carriage returns of Windows are left out.
    """
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    text = content.decode(encoding, "surrogateescape")
    lines = text.split("\0") if "\0" in text else text.replace("\r\n", "\n").split("\n")
    return [line for line in lines if line.strip()]


def find_pictures(paths):
    """Return the files that `paths` name, as Paths: files as they are, for a folder the pictures below it.

    In the order given, within a folder sorted by name. A folder without any stands in the list itself. What is left
    out of a folder is counted in a line on stderr.
    """
    found = []
    for path in map(Path, paths):
        if not os.path.isdir(path):
            found.append(path)
            continue
        inside, left_out = search(path)
        found += sorted(inside) or [path]
        if left_out:
            say(path, f"left out: {', '.join(f'{count:,} {what}' for what, count in left_out.items())}")
    return found


def search(folder):
    """Return the pictures below a folder, a list of Paths, and a Counter of what is left out.

    Links are followed last, so that a file is found once, by its own name if that is below the folder. What cannot be
    opened is found too: who reads it gets the error.
    """
    found, left_out, seen, links = [], Counter(), set(), []

    def look_at(path, real, is_folder):
        if real in seen:
            left_out["links to what is read anyway"] += 1
            return
        seen.add(real)
        if is_folder:
            look_into(path, real)
        elif is_picture(path):
            found.append(path)
        else:
            left_out["no pictures"] += 1

    def look_into(path, real):
        try:
            entries = sorted(os.scandir(path), key=lambda entry: (entry.is_dir(follow_symlinks=False), entry.name))
        except OSError:
            found.append(path)
            return
        for entry in entries:
            if entry.name.startswith("."):
                left_out["hidden"] += 1
            elif entry.is_symlink():
                links.append(Path(entry))
            else:
                look_at(Path(entry), os.path.join(real, entry.name), entry.is_dir())

    look_at(folder, os.path.realpath(folder), True)
    for link in links:  # those in linked folders are appended meanwhile
        real = os.path.realpath(link)
        if Path(real) in Path(os.path.realpath(link.parent), link.name).parents:
            left_out["links to a folder above"] += 1
        else:
            look_at(link, real, os.path.isdir(link))
    return found, left_out


def is_picture(path):
    """Return whether a file holds pictures, by its name or else by its contents; True if it cannot be opened."""
    if SUFFIX.search(path.name):
        return True
    try:
        if start_of(path) not in (HDF5_START, FITS_START):
            Image.open(path, formats=FORMATS).close()
        return True
    except Image.DecompressionBombError:
        return True
    except (OSError, ValueError) as error:  # an errno is the system's: Pillow's have none
        return getattr(error, "errno", None) is not None


def start_of(path):
    """Return the first 8 bytes of a file. Raises OSError, and ValueError for what is no file, such as a pipe."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        os.scandir(path).close()  # raises the system's error if it cannot be listed
        raise ValueError("is a folder without pictures")
    if not stat.S_ISREG(mode):
        raise ValueError("is neither a file nor a folder")
    with open(path, "rb") as file:
        return file.read(8)


def read_pictures(paths, size, field=1.0, threads=2, rows=None, ids=None):
    """Yield (name, picture) for every picture in the files `paths`, in order; uint8 (size, size, 3).

    In place of the picture of a file that cannot be read stands the exception that says why. field: the part of the
    centred square that is kept, 0 to 1. A picture of an HDF5 file is named `cutouts.h5[12]`. At most
    READ_AHEAD * `threads` pictures are read ahead, so memory does not grow with their number. rows: the range of those
    that are read of each HDF5 file, if not all. ids: a dict, which gets the ids in HDF5 files by the pictures' names.
    """
    ids = {} if ids is None else ids
    yield from in_order(result_or_error, readers(paths, size, field, rows, ids), threads, READ_AHEAD * threads)


def result_or_error(reader):
    """Return (name, what was read), or (name, the exception) if it failed; reader: a pair of `readers`."""
    name, read = reader
    try:
        return name, read()
    except Exception as error:  # of a dozen types, for a file that cannot be read
        return name, error


def readers(paths, size, field, rows, ids):
    """Yield (name, function that reads it) for every picture in the files `paths`; the names can be printed.

    rows, ids: as of `read_pictures`.
    """
    for path in map(Path, paths):
        name = printable(path)
        try:
            if start_of(path) == HDF5_START or path.suffix.lower() in HDF5_SUFFIXES:
                yield from hdf5_readers(path, size, field, rows, ids)
            else:
                yield name, partial(read_file, path, size, field)
        except Exception as error:
            yield name, partial(fail, error)


def fail(error):
    raise error


def read_file(path, size, field):
    """Return the picture in an image or FITS file: uint8 (size, size, 3)."""
    try:
        image = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        try:
            return read_fits(path, size, field)
        except (OSError, TypeError, EOFError, zlib.error):  # astropy's and gzip's
            raise ValueError("is damaged, or none of JPEG, PNG, TIFF, WebP, BMP, GIF, HDF5 and FITS") from None
    with image:
        return read_image(path, image, size, field)


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


def read_image(path, image, size, field):
    """Return the picture in an open PIL image, the right way up: uint8 (size, size, 3)."""
    width, height = image.size
    # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size, which takes half the time. With 1.5 times the pixels needed
    # the result differs by 0.9 of 255 on average, less than JPEG's own error.
    enough = 1.5 * size / (min(width, height) * field)
    image.draft("RGB", (int(width * enough), int(height * enough)))
    if getattr(image, "is_animated", False):
        say(path, "holds several pictures, of which the first is read")
    with one_large_picture if width * height > LARGE else nullcontext():
        small = to_size(in_colour(path, image), size, field)
    orientation = image.getexif().get(ORIENTATION, 1)  # Pillow has turned a TIFF, which has none any more
    if orientation != 1:
        small.getexif()[ORIENTATION] = orientation
        small = ImageOps.exif_transpose(small)
    return np.asarray(small)


def in_colour(path, image):
    """Decode a PIL image of any mode; return it as RGB, transparent parts over black, 16 bits scaled to 8."""
    sixteen_bits = ";16" in str(image.tile)
    if not sixteen_bits and max(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))) == 16:
        raise ValueError("stores 16-bit colours one after the other, which Pillow cannot read: interleave them")
    image.load()
    if image.mode[0] in "IF":
        return Image.fromarray(to_eight_bits(path, np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        colour = Image.alpha_composite(Image.new("RGBA", colour.size, "black"), colour).convert("RGB")
    else:
        colour = image if image.mode == "RGB" else image.convert("RGB")
    if sixteen_bits and max(high for _, high in image.getextrema()[:3]) < 16:  # Pillow has dropped the lower 8 bits
        raise ValueError("has 16-bit colours below 4,096, which Pillow makes black: store 8 bits")
    return colour


def to_eight_bits(path, values):
    """Return 16-bit values as uint8; if they do not reach beyond 8, 10 or 12 bits, as of many cameras, from these."""
    highest = values.max()
    if values.dtype.kind == "f" or values.min() < 0 or highest > 65535:
        raise ValueError("has floating-point pixels, or more than 16 bits: store it with 8 or 16")
    bits = next((bits for bits in (8, 10, 12) if highest < 2**bits), 16)
    if bits < 16:
        say(path, f"16-bit pixels reach only {highest}: scaled from {bits} bits")
    return (values >> (bits - 8)).astype(np.uint8)


def check_pixels(width, height):
    """Raise ValueError for a picture in an HDF5 or FITS file with too many pixels."""
    if width * height > MAX_ARRAY_PIXELS:
        raise ValueError(f"has {width * height:,} pixels, more than the {MAX_ARRAY_PIXELS:,} that are decoded")


def hdf5_readers(path, size, field, wanted, ids):
    """Yield (name, function that returns it) for every picture in the dataset `images` of an HDF5 file.

    wanted: a range of rows, or None for all; ids: the dict that gets the file's ids, by name.
    """
    with open_hdf5(path) as file:
        images = dataset(path, file, "images")
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
            shape = " x ".join(map(str, images.shape))
            raise ValueError(f"images are {images.dtype} {shape}, not uint8 n x height x width x 3")
        check_pixels(*images.shape[1:3])
        wanted = wanted or range(len(images))
        for rows in row_blocks(images):
            rows = slice(max(rows.start, wanted.start), min(rows.stop, wanted.stop))
            if rows.start >= rows.stop:
                continue
            block = images[rows]
            names = [f"{printable(path)}[{row}]" for row in range(rows.start, rows.stop)]
            ids.update(zip(names, catalogue_ids(path, file, len(images), rows), strict=False))
            for name, pixels in zip(names, block, strict=True):
                small = np.asarray(to_size(Image.fromarray(pixels), size, field))
                yield name, partial(np.asarray, small)


def read_fits(path, size, field):
    """Return the picture made of a FITS cube of three bands, the bluest first: uint8 (size, size, 3).

    By Lupton et al. (2004, PASP 116, 133), as SDSS makes its pictures: an asinh stretch that keeps the colours.
    Each band's median is taken as the sky; the stretch is half the light that 99% of the pixels stay below.
    """

    def window(width, height):
        left, top, right, bottom = map(round, central_square(width, height, field))
        check_pixels(right - left, bottom - top)
        return left, top, right, bottom

    with one_large_picture:
        bands = read_cube(path, window)
    from astropy.visualization import make_lupton_rgb

    bands[~np.isfinite(bands)] = 0
    bands -= np.median(bands, axis=(1, 2), keepdims=True)
    stretch = max(float(np.percentile(bands.mean(0), 99)) / 2, 1e-12)
    with np.errstate(invalid="ignore", divide="ignore"):  # of pixels without light
        pixels = make_lupton_rgb(bands[2], bands[1], bands[0], stretch=stretch, Q=8)
    upright = np.ascontiguousarray(pixels[::-1])  # the last row, north, on top
    return np.asarray(to_size(Image.fromarray(upright), size, 1.0))
