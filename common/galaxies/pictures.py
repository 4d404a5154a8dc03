"""Read pictures from image files, folders, HDF5 and FITS files, and resize them to IMAGE_SIZE.

Pillow, h5py and astropy recognize files by their contents. Only a few pictures are in memory at a time.
"""

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

from common.galaxies.facts import IMAGE_SIZE
from common.galaxies.fits import read_cube
from common.galaxies.hdf5 import catalogue_ids, dataset, open_hdf5, row_blocks
from common.hardware.parallel import in_order
from common.storage.streams import printable, say

import h5py
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF")
HDF5_SUFFIXES = (".h5", ".hdf5")
# The suffix of a file of pictures; the row of a picture in an HDF5 file may follow.
SUFFIX = re.compile(
    r"(?:(?P<hdf5>\.h5|\.hdf5)|\.jpe?g|\.jpe|\.jfif|\.png|\.tiff?|\.webp|\.bmp|\.gif|(?P<fits>\.fits?|\.fts))"
    r"(?:\.(?:gz|bz2|fz))?(?=(?:\[\d+\])?$)",
    re.IGNORECASE,
)
LARGE = 16_000_000  # pixels, above which pictures are decoded one at a time
MAX_ARRAY_PIXELS = 16_000_000  # per picture in an HDF5 or FITS file, because several copies are made
ORIENTATION, BITS_PER_SAMPLE = 0x0112, 0x0102  # tags of EXIF and TIFF
READ_AHEAD = 32  # pictures per thread
Image.MAX_IMAGE_PIXELS = 50_000_000  # Pillow refuses pictures of more than twice as many ...
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # ... and warns of fewer
one_large_picture = threading.Lock()


def picture_id(name):
    """Return the id of a picture: its name without folder and suffix.

    more/100008.jpg gives 100008, cutouts.h5[12] gives cutouts[12].
    """
    return SUFFIX.sub("", Path(name).name)


def listed_paths(content):
    """Return the paths in a list, given as bytes, separated by NUL (from `find -print0`) or else by line breaks.

    Blank lines, a byte order mark and Windows's carriage returns are removed.
    """
    text = content.decode("utf-8-sig", "surrogateescape")
    lines = text.split("\0") if "\0" in text else text.replace("\r\n", "\n").split("\n")
    return [line for line in lines if line.strip()]


def find_pictures(paths):
    """Return the files at `paths` as Paths, in this order; folders are replaced by the pictures below, sorted by name.

    A folder without pictures stays in the list. A line on stderr counts the skipped files of a folder.
    """
    found = []
    for path in map(Path, paths):
        if not os.path.isdir(path):
            found.append(path)
            continue
        inside, left_out = search(path)
        found += sorted(inside) or [path]
        if left_out:
            say(path, f"skipped: {', '.join(f'{count:,} {what}' for what, count in left_out.items())}")
    return found


def search(folder):
    """Return the pictures below a folder, a list of Paths, and a Counter of skipped files.

    Links to folders are followed, each folder once. Files that cannot be opened are in the list, too; reading them
    raises the error.
    """
    found, left_out = [], Counter()
    seen = set(map(str, Path(os.path.realpath(folder)).parents))

    def keep_unreadable(error):
        found.append(Path(error.filename))

    for parent, folders, files in os.walk(folder, onerror=keep_unreadable, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            left_out["duplicate links"] += 1
            folders.clear()
            continue
        seen.add(real)
        paths = [Path(parent, name) for name in files if not name.startswith(".")]
        pictures = list(filter(is_picture, paths))
        found += pictures
        left_out["not pictures"] += len(paths) - len(pictures)
        left_out["hidden"] += sum(name.startswith(".") for name in (*folders, *files))
        folders[:] = [name for name in folders if not name.startswith(".")]
        folders.sort(key=lambda name: os.path.islink(os.path.join(parent, name)))  # links last
    return found, +left_out  # without counts of 0


def is_picture(path):
    """Return whether a file holds pictures, by its name or else by its contents; True if it cannot be opened."""
    if SUFFIX.search(path.name):
        return True
    try:
        check_file(path)
        with open(path, "rb") as file:
            is_fits = file.read(9) == b"SIMPLE  ="
        if not is_fits and not is_hdf5(path):
            Image.open(path, formats=FORMATS).close()
    except Image.DecompressionBombError:
        pass
    except (OSError, ValueError) as error:  # the system's errors have an errno, Pillow's have none
        return getattr(error, "errno", None) is not None
    return True


def is_hdf5(path):
    """Return whether a file holds HDF5, by the suffix of its name or, without one of SUFFIX, by its contents."""
    suffix = SUFFIX.search(os.fspath(path))
    return bool(suffix["hdf5"]) if suffix else os.path.isfile(path) and h5py.is_hdf5(path)


def check_file(path):
    """Raise OSError, or ValueError unless `path` is a regular file: opening a pipe would block forever."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        os.scandir(path).close()  # raises the system's error if it cannot be listed
        raise ValueError("is a folder without pictures")
    if not stat.S_ISREG(mode):
        raise ValueError("is neither a file nor a folder")


def read_pictures(paths, field=1.0, threads=2, rows=None, ids=None):
    """Yield (name, picture) for every picture in the files `paths`, in order; uint8 (69, 69, 3).

    A file that cannot be read gives (name, exception). field: fraction of the central square to use, 0 to 1. A picture
    in an HDF5 file is named `cutouts.h5[12]`. At most READ_AHEAD * `threads` pictures are read ahead, so memory does
    not grow with their number. rows: a range, the rows of each HDF5 file to read (default: all). ids: a dict; the ids
    in HDF5 files are added to it, by picture name.
    """
    ids = {} if ids is None else ids
    yield from in_order(result_or_error, unread(paths, field, rows, ids), threads, READ_AHEAD * threads)


def result_or_error(item):
    """Return (name, picture), or (name, exception) if it cannot be read; item: a pair of `unread`."""
    name, picture = item
    try:
        return name, picture() if callable(picture) else picture
    except Exception as error:  # a dozen types, for files that cannot be read
        return name, error


def unread(paths, field, rows, ids):
    """Yield (printable name, picture) for every picture in the files `paths`.

    Instead of the picture there may be a function that returns it, or an exception.
    """
    for path in map(Path, paths):
        name = printable(path)
        try:
            check_file(path)
            if is_hdf5(path):
                yield from read_hdf5(path, field, rows, ids)
            else:
                yield name, partial(read_file, path, field)
        except Exception as error:
            yield name, error


def read_file(path, field):
    """Return the picture in an image or FITS file: uint8 (69, 69, 3)."""
    try:
        image = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        try:
            return read_fits(path, field)
        except (OSError, TypeError, EOFError, zlib.error):  # astropy's and gzip's
            raise ValueError("is damaged, or not JPEG, PNG, TIFF, WebP, BMP, GIF, HDF5 or FITS") from None
    with image:
        return read_image(path, image, field)


def central_square(width, height, field):
    """Return the box (left, top, right, bottom) of the central square, in pixels; field: the fraction of it to use.

    Its corners may lie between pixels, so a rotated or mirrored picture has the same square.
    """
    side = max(1, min(width, height) * field)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def to_size(image, field):
    """Return the central square of a PIL image, resized by area, or linearly if it is smaller than IMAGE_SIZE."""
    box = central_square(*image.size, field)
    method = Image.Resampling.BOX if box[2] - box[0] >= IMAGE_SIZE else Image.Resampling.BILINEAR
    return image.resize((IMAGE_SIZE, IMAGE_SIZE), method, box)


def read_image(path, image, field):
    """Return the picture in an open PIL image, the right way up: uint8 (69, 69, 3)."""
    width, height = image.size
    # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size, which halves the time. With 1.5 times the pixels needed,
    # the result differs by 0.9 of 255 on average, less than JPEG's own error.
    enough = 1.5 * IMAGE_SIZE / (min(width, height) * field)
    image.draft("RGB", (int(width * enough), int(height * enough)))
    if getattr(image, "is_animated", False):
        say(path, "holds several pictures; only the first is read")
    with one_large_picture if width * height > LARGE else nullcontext():
        small = to_size(in_colour(path, image), field)
    orientation = image.getexif().get(ORIENTATION, 1)  # Pillow has turned a TIFF, which has none any more
    if orientation != 1:
        small.getexif()[ORIENTATION] = orientation
        small = ImageOps.exif_transpose(small)
    return np.asarray(small)


def in_colour(path, image):
    """Decode a PIL image of any mode to RGB, with transparent parts over black and 16 bits scaled to 8."""
    sixteen_bits = ";16" in str(image.tile)
    if not sixteen_bits and max(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))) == 16:
        raise ValueError("stores 16-bit colours in separate planes, which Pillow cannot read: interleave them")
    image.load()
    if image.mode[0] in "IF":
        return Image.fromarray(to_eight_bits(path, np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        colour = Image.alpha_composite(Image.new("RGBA", colour.size, "black"), colour).convert("RGB")
    else:
        colour = image if image.mode == "RGB" else image.convert("RGB")
    if sixteen_bits and max(high for _, high in image.getextrema()[:3]) < 16:  # Pillow dropped the lower 8 bits
        raise ValueError("has 16-bit colours below 4,096, which Pillow reads as black: save it with 8 bits")
    return colour


def to_eight_bits(path, values):
    """Scale 16-bit values to uint8; values that fit into 8, 10 or 12 bits, as from many cameras, from these bits."""
    highest = values.max()
    if values.dtype.kind == "f" or values.min() < 0 or highest > 65535:
        raise ValueError("has floating-point pixels, or more than 16 bits: save it with 8 or 16 bits")
    bits = next((bits for bits in (8, 10, 12) if highest < 2**bits), 16)
    if bits < 16:
        say(path, f"16-bit pixels reach only {highest}: scaled from {bits} bits")
    return (values >> (bits - 8)).astype(np.uint8)


def check_pixels(width, height):
    """Raise ValueError for a picture in an HDF5 or FITS file with too many pixels."""
    if width * height > MAX_ARRAY_PIXELS:
        raise ValueError(f"has {width * height:,} pixels, more than the limit of {MAX_ARRAY_PIXELS:,}")


def read_hdf5(path, field, wanted, ids):
    """Yield (name, picture) for every picture in an HDF5 file, or for the rows `wanted`, a range."""
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
            names = [f"{printable(path)}[{row}]" for row in range(rows.start, rows.stop)]
            ids.update(zip(names, catalogue_ids(path, file, len(images), rows), strict=False))
            for name, pixels in zip(names, images[rows], strict=True):
                yield name, np.asarray(to_size(Image.fromarray(pixels), field))


def read_fits(path, field):
    """Return the picture made of a FITS cube of three bands, the bluest first: uint8 (69, 69, 3).

    As for SDSS's pictures, with the asinh stretch of Lupton et al. (2004, PASP 116, 133), which preserves colours. The
    sky is each band's median; the stretch is half of the 99th percentile of the mean band.
    """

    def window(width, height):
        left, top, right, bottom = map(round, central_square(width, height, field))
        check_pixels(right - left, bottom - top)
        return left, top, right, bottom

    with one_large_picture:
        bands = read_cube(path, window)
    from astropy.visualization import make_lupton_rgb

    undefined = ~np.isfinite(bands)
    if undefined.all():
        raise ValueError("has only NaN or infinite pixels")
    if undefined.any():
        share = f"{undefined.sum():,} of {undefined.size:,} pixel values ({undefined.mean():.1%})"
        say(path, f"{share} are NaN or infinite, set to 0")
        bands[undefined] = 0
    bands -= np.median(bands, axis=(1, 2), keepdims=True)
    stretch = max(float(np.percentile(bands.mean(0), 99)) / 2, 1e-12)
    with np.errstate(invalid="ignore", divide="ignore"):  # for pixels without light
        pixels = make_lupton_rgb(bands[2], bands[1], bands[0], stretch=stretch, Q=8)
    upright = np.ascontiguousarray(pixels[::-1])  # the last row, north, on top
    return np.asarray(to_size(Image.fromarray(upright), 1.0))
