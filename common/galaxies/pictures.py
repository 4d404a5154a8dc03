"""Pictures from anywhere: image files, folders of them, HDF5 and FITS files, all brought to one size.

The first bytes of a file say what it is. Nothing is decoded before its size is known, and only a few pictures are in
memory at a time.
"""

import bz2
import codecs
import gzip
import math
import os
import re
import stat
import threading
import warnings
import zlib
from collections import Counter, deque
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path

from common.galaxies.fits import read_cube
from common.galaxies.hdf5 import READ_ERRORS, catalogue_ids, dataset, open_hdf5, row_blocks
from common.hardware.parallel import in_order
from common.storage.streams import printable, say

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF")
STARTS = re.compile(  # of files; a BMP's first two bytes alone would be those of many a text
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<GIF>GIF8[79]a)|(?P<WEBP>RIFF.{4}WEBP)"
    rb"|(?P<TIFF>II[*+]\0|II\0[*]|MM\0[*+]|MM[*]\0)|(?P<BMP>BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0)"
    rb"|(?P<HDF5>\x89HDF\r\n\x1a\n)|(?P<FITS>SIMPLE  =)|(?P<gz>\x1f\x8b)|(?P<bz2>BZh[1-9])",
    re.DOTALL,
)
OPENERS = {"FITS": open, "FITS.gz": gzip.open, "FITS.bz2": bz2.open}
READ = {*FORMATS, "HDF5", *OPENERS}
WHY_NOT = {
    "folder": "is a folder without pictures",
    "special": "is neither a file nor a folder",
    "empty": "is empty",
    "gz": "is compressed by gzip and no FITS file, or damaged: decompress it first",
    "bz2": "is compressed by bzip2 and no FITS file, or damaged: decompress it first",
    "other": "is neither JPEG, PNG, TIFF, WebP, BMP, GIF, HDF5 nor FITS",
}
# Of files that are pictures by their names. In a folder these are not left out, whatever their first bytes are.
HDF5_SUFFIXES = (".h5", ".hdf5")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".fits", ".fit", ".fts")
SUFFIXES += HDF5_SUFFIXES
# Of the files that pictures are in, before the row of one in an HDF5 file.
SUFFIX = re.compile(
    rf"(?:(?P<hdf5>{'|'.join(map(re.escape, HDF5_SUFFIXES))})|{'|'.join(map(re.escape, SUFFIXES))})"
    r"(?:\.(?:gz|bz2|fz))?(?=(?:\[\d+\])?$)",
    re.IGNORECASE,
)
MAX_PIXELS = 100_000_000  # of one picture; more are refused unread
LARGE = 16_000_000  # pixels, above which pictures are decoded one at a time
MAX_ARRAY_PIXELS = 16_000_000  # of one in an HDF5 or FITS file, of which several copies are made
MAX_BLOCK_BYTES = 500_000_000  # that an HDF5 file makes its reader decode at once
ORIENTATION, BITS_PER_SAMPLE = 0x0112, 0x0102  # of EXIF, of TIFF
READ_AHEAD = 32  # pictures for each thread
one_large_picture = threading.Lock()
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS decides


def picture_id(name):
    """Return what identifies a picture to its catalogue: the name without folder and suffix.

    more/100008.jpg gives 100008, cutouts.h5[12] gives cutouts[12].
    """
    return SUFFIX.sub("", Path(name).name)


def listed_paths(content):
    """Return the paths in a list's bytes, one on each line or, as `find -print0` writes them, before each NUL.

    Blank lines, a byte order mark and the carriage returns of Windows are left out.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as PowerShell writes
        content = os.fsencode(content.decode("utf-16"))
    separator = b"\0" if b"\0" in content else b"\n"
    lines = [os.fsdecode(line) for line in content.removeprefix(codecs.BOM_UTF8).split(separator) if line.strip()]
    return [line if os.path.lexists(line) else line.removesuffix("\r") for line in lines]


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
            counts = (f"{n:,} {what}{'s' * (n > 1)} left out: {why}" for (what, why), n in left_out.items())
            say(path, "; ".join(counts))
    return found


def search(folder):
    """Return the pictures below a folder as Paths, and a Counter of what else there is by (what, why it is left out).

    Links are followed after all else, so that a file is found once, by its own name if that is below the folder. What
    cannot be opened is found too: who reads it gets the error.
    """
    found, left_out, seen, folders, links = [], Counter(), set(), [folder], deque()

    def look_into(path):
        try:
            is_picture = has_suffix(path.name) or kind_of(path) in READ
        except OSError:
            is_picture = True
        if is_picture:
            found.append(path)
        else:
            left_out["file", "no pictures"] += 1

    while folders or links:
        is_link = not folders
        path = links.popleft() if is_link else folders.pop()
        real = os.path.realpath(path)
        if real in seen or (is_link and leads_up(path, real)):
            left_out["link", "in a circle, or to what is read anyway"] += 1
            continue
        seen.add(real)
        if not os.path.isdir(path):
            look_into(path)
            continue
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError:
            found.append(path)
            continue
        for entry in entries:
            if entry.name.startswith("."):
                left_out["folder" if entry.is_dir(follow_symlinks=False) else "file", "hidden"] += 1
            elif entry.is_symlink():
                links.append(Path(entry))
            elif entry.is_dir():
                folders.append(Path(entry))
            else:
                seen.add(os.path.join(real, entry.name))
                look_into(Path(entry))
    return found, left_out


def leads_up(link, real):
    """Return whether a link leads to a folder that it is in itself."""
    return Path(real) in Path(os.path.realpath(link.parent), "_").parents


def has_suffix(name):
    """Return whether a file is a picture by its name."""
    return name.lower().removesuffix(".gz").removesuffix(".bz2").endswith((*SUFFIXES, ".fz"))


def kind_of(path):
    """Return what a file is by its first bytes: one of READ or a key of WHY_NOT. Raises OSError."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        os.scandir(path).close()  # raises the system's error if it cannot be listed
        return "folder"
    if not stat.S_ISREG(mode):
        return "special"
    with open(path, "rb") as file:
        start = file.read(18)
    match = STARTS.match(start)
    kind = match.lastgroup if match else "other" if start else "empty"
    compressed = f"FITS.{kind}"
    if compressed in OPENERS:
        with suppress(OSError, EOFError, zlib.error), OPENERS[compressed](path) as file:  # a damaged one holds none
            match = STARTS.match(file.read(18))
            kind = compressed if match and match.lastgroup == "FITS" else kind
    return kind


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
    except Image.DecompressionBombError:
        return name, ValueError(f"has more than {MAX_PIXELS:,} pixels, which are not decoded: make it smaller")
    except Exception as error:  # PIL raises a dozen types for a file it cannot read
        return name, error


def readers(paths, size, field, rows, ids):
    """Yield (name, function that reads it) for every picture in the files `paths`; the names can be printed.

    rows, ids: as of `read_pictures`.
    """
    for path in map(Path, paths):
        name = printable(path)
        try:
            kind = kind_of(path)
            if kind == "HDF5":
                yield from hdf5_readers(path, size, field, rows, ids)
            elif kind in OPENERS:
                yield name, partial(read_fits, path, OPENERS[kind], size, field)
            elif kind in FORMATS:
                yield name, partial(read_picture, path, size, field)
            else:
                raise ValueError(WHY_NOT[kind])
        except (OSError, ValueError) as error:
            yield name, partial(fail, error)


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
        if getattr(image, "is_animated", False):
            say(path, "holds several pictures, of which the first is read")
        with one_large_picture if width * height > LARGE else nullcontext():
            small = to_size(in_colour(path, image), size, field)
        # Turned when it is small. (A TIFF has been turned by PIL and has no orientation any more.)
        orientation = image.getexif().get(ORIENTATION, 1)
        if orientation != 1:
            small.getexif()[ORIENTATION] = orientation
            small = ImageOps.exif_transpose(small)
        return np.asarray(small)


def in_colour(path, image):
    """Decode a PIL image of any mode; return it as RGB, transparent parts over black, 16 bits scaled to 8."""
    sixteen_bits = ";16" in str(image.tile)
    if not sixteen_bits and max(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))) == 16:
        raise ValueError("stores 16-bit colours one after the other, which PIL cannot read: interleave them")
    image.load()
    if image.mode.startswith("I"):  # whole numbers, of 16 bits in all formats read here
        return Image.fromarray(to_eight_bits(path, np.asarray(image))).convert("RGB")
    if image.mode == "F":
        raise ValueError("has floating-point pixels: store it with 8 or 16 bits")
    if sixteen_bits and image.mode in ("RGB", "RGBA"):  # of which PIL has dropped the lower 8 bits
        highest = max(high for _, high in image.getextrema()[:3])
        if highest < 16:
            if image.format != "PNG" or image.mode != "RGB":
                raise ValueError(f"has 16-bit colours below {256 * (highest + 1)}, which PIL makes black: store 8 bits")
            return Image.fromarray(to_eight_bits(path, sixteen_bit_colours(path)))
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colour.size, "black"), colour).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def to_eight_bits(path, values):
    """Return 16-bit values as uint8; if they do not reach beyond 8, 10 or 12 bits, as of many cameras, from these."""
    highest = values.max()
    if values.min() < 0 or highest > 65535:
        raise ValueError("has pixels of more than 16 bits: store it with 8 or 16")
    bits = next((bits for bits in (8, 10, 12) if highest < 2**bits), 16)
    if bits < 16:
        say(path, f"16-bit pixels reach only {highest}: scaled from {bits} bits")
    return (values >> (bits - 8)).astype(np.uint8)


def sixteen_bit_colours(path):
    """Return the pixels of a PNG of 16-bit colours: uint16 (height, width, 3)."""
    upper_and_lower = []
    for mode in ("RGB;16B", "RGB;16L"):  # PIL keeps the upper bytes, which as little-endian numbers are the lower ones
        with Image.open(path, formats=["PNG"]) as image:
            image.tile = [(*tile[:3], mode) for tile in image.tile]
            image.load()
            upper_and_lower.append(np.asarray(image).astype(np.uint16))
    return upper_and_lower[0] << 8 | upper_and_lower[1]


def check_pixels(pixels, most):
    """Raise ValueError for a picture with too many pixels."""
    if pixels > most:
        raise ValueError(f"has {pixels:,} pixels, more than the {most:,} that are decoded: make it smaller")


def hdf5_readers(path, size, field, wanted, ids):
    """Yield (name, function that returns it) for every picture in the dataset `images` of an HDF5 file.

    wanted: a range of rows, or None for all; ids: the dict that gets the file's ids, by name.
    """
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
        wanted = wanted or range(len(images))
        for rows in blocks:
            rows = slice(max(rows.start, wanted.start), min(rows.stop, wanted.stop))
            if rows.start >= rows.stop:
                continue
            try:
                block = images[rows]
            except READ_ERRORS as error:
                raise ValueError(f"is damaged: cannot read images {rows.start:,} and on ({error})") from None
            names = [f"{printable(path)}[{row}]" for row in range(rows.start, rows.stop)]
            ids.update(zip(names, catalogue_ids(path, file, len(images), rows), strict=False))
            for name, pixels in zip(names, block, strict=True):
                small = np.asarray(to_size(Image.fromarray(pixels), size, field))
                yield name, partial(np.asarray, small)


def read_fits(path, opener, size, field):
    """Return the picture made of a FITS cube of three bands, the bluest first: uint8 (size, size, 3).

    By Lupton et al. (2004, PASP 116, 133), as SDSS makes its pictures: an asinh stretch that keeps the colours.
    Each band's median is taken as the sky; the stretch is half the light that 99% of the pixels stay below.
    """

    def window(width, height):
        check_pixels(width * height, MAX_ARRAY_PIXELS)
        return map(round, central_square(width, height, field))

    with one_large_picture:
        bands = read_cube(path, opener, window)
    from astropy.visualization import make_lupton_rgb

    bands[~np.isfinite(bands)] = 0
    bands -= np.median(bands, axis=(1, 2), keepdims=True)
    stretch = max(float(np.percentile(bands.mean(0), 99)) / 2, 1e-12)
    with np.errstate(invalid="ignore", divide="ignore"):  # of pixels without light
        pixels = make_lupton_rgb(bands[2], bands[1], bands[0], stretch=stretch, Q=8)
    upright = np.ascontiguousarray(pixels[::-1])  # the last row, north, on top
    return np.asarray(to_size(Image.fromarray(upright), size, 1.0))
