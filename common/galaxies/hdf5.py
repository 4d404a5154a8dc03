"""HDF5 files in Galaxy10's format: check the format, read them in blocks, and resize them to Galaxy10's size."""

import hashlib
import math
import os
import reprlib
from contextlib import contextmanager
from pathlib import Path

from common.galaxies.facts import CLASS_NAMES, DECALS_CLASS_NAMES, DECALS_KEYS, DECALS_SIZE, IMAGE_SIZE
from common.storage.atomic import NO_LOCKS, atomic_write, exclusive_lock
from common.storage.packages import require
from common.storage.streams import one_line, printable, say

import h5py
import numpy as np
import torch
from torch.nn.functional import interpolate
from tqdm import tqdm

BLOCK_BYTES = 16_000_000  # read in one call
READ_ERRORS = (OSError, RuntimeError, KeyError, TypeError, OverflowError)  # what h5py raises for damaged files


def open_hdf5(path):
    """Return the open h5py.File at `path`, read without a lock if the file system has none. Raises OSError."""
    with open(path, "rb"):  # for a missing or unreadable file, the system's error is shorter
        pass
    try:
        return h5py.File(path)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    # (h5py's locking="best-effort" does not help: HDF5 ignores only ENOSYS.)
    return h5py.File(path, locking=False)


@contextmanager
def reading(path):
    """Convert h5py's errors in the with block to a ValueError that names the file."""
    try:
        yield
    except READ_ERRORS as error:
        if getattr(error, "filename", None):  # the system's
            raise
        raise ValueError(f"{path} cannot be read: {one_line(error)}") from None


def dataset(path, file, key):
    """Return the dataset `key` of an open file. Raises ValueError if it is missing or needs hdf5plugin."""
    found = file.get(key)
    if not isinstance(found, h5py.Dataset):
        there = ", ".join(sorted(file)) or "nothing"
        raise ValueError(f"{path} has no dataset '{key}': a Galaxy10 file has images and ans, this one has {there}")
    properties = found.id.get_create_plist()
    filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    if not all(map(h5py.h5z.filter_avail, filters)):
        require(f"{path}: reading '{key}'", "hdf5plugin")
        import hdf5plugin  # noqa: F401 (which registers its filters)
    return found


def check_galaxy10(path):
    """Check a file's format; return the class names, a tuple, and the size of the images in pixels.

    Raises OSError or ValueError, naming the file.
    """
    with reading(path), open_hdf5(path) as file:
        images, ans = (dataset(path, file, key) for key in ("images", "ans"))
        is_square = images.ndim == 4 and images.shape[1] == images.shape[2] >= 48 and images.shape[3] == 3
        if images.dtype != np.uint8 or not is_square:
            form = "uint8 n x size x size x 3 with a size of at least 48"
            raise ValueError(f"{path}: images are {images.dtype} {' x '.join(map(str, images.shape))}, not {form}")
        if ans.shape != images.shape[:1] or ans.dtype.kind not in "iu":
            form = f"one integer for each of {len(images):,} images"
            raise ValueError(f"{path}: ans is {ans.dtype} {' x '.join(map(str, ans.shape))}, not {form}")
        size = images.shape[1]
        names, labels = find_class_names(path, file, size), ans[:]
    if not len(labels):
        raise ValueError(f"{path} has no images")
    if labels.min() < 0 or labels.max() >= len(names):
        raise ValueError(
            f"{path}: ans ranges from {labels.min()} to {labels.max()}, but the {len(names)} classes are numbered 0-"
            f"{len(names) - 1}: name all classes in file.attrs['class_names']"
        )
    return names, size


def find_class_names(path, file, size):
    """Return the names of the classes 0, 1, ... in an open file with images of `size` pixels: a tuple.

    They are in its attribute or dataset `class_names`. Without it, a file in the format of a published set has the
    names of that set. Raises ValueError if there are none, or if they are not distinct strings.
    """
    if "class_names" in file.attrs or "class_names" in file:
        given = file.attrs.get("class_names")
        given = np.asarray(dataset(path, file, "class_names") if given is None else given)
        names = tuple(map(as_text, given.flat)) if given.dtype.kind in "OSU" else ()
        different = len(set(names)) == len(names) and all(name and name.isprintable() for name in names)
        if not different or len(names) < 2:
            found = f"{len(names)}, {reprlib.repr(names)}" if names else "none"
            raise ValueError(f"{path}: class_names must be distinct strings, one per class: found {found}")
        return names
    is_decals = all(key in file for key in DECALS_KEYS)
    if size == (DECALS_SIZE if is_decals else IMAGE_SIZE):
        return DECALS_CLASS_NAMES if is_decals else CLASS_NAMES
    raise ValueError(
        f"{path} does not name its classes and matches neither Galaxy10 SDSS ({IMAGE_SIZE} pixels) nor DECaLS "
        f"({DECALS_SIZE} pixels, with {', '.join(DECALS_KEYS)}): set file.attrs['class_names'] = [...] with h5py, "
        "one string per class"
    )


def as_text(value):
    """Return a value of an HDF5 file as a stripped string."""
    return (value.decode(errors="surrogateescape") if isinstance(value, bytes) else str(value)).strip()


def read_column(path, file, key, count, rows=...):
    """Return the values of a one-dimensional dataset as printable strings: a list of `count`, or only `rows`, a slice.

    Raises ValueError unless it holds `count` strings or integers.
    """
    column = dataset(path, file, key)
    if column.shape != (count,) or column.dtype.kind not in "SOUiub":
        raise ValueError(f"{path}: '{key}' is {column.dtype} {column.shape}, not one string or integer per image")
    return [printable(as_text(value)) for value in column[rows]]


def catalogue_ids(path, file, count, rows=slice(None)):
    """Return the ids of `rows`, a slice, of an open file with `count` images: strings from `objid` or else from `id`.

    The list is empty without these datasets, or if they hold no ids; in that case a line on stderr says so once.
    """
    try:
        key = next((key for key in ("objid", "id") if key in file), None)
        return read_column(path, file, key, count, rows) if key else []
    except (*READ_ERRORS, ValueError) as error:
        if not rows.start:
            say(path, f"ignoring its ids: {one_line(error).removeprefix(f'{printable(path)}: ')}")
        return []


def read_split(path, file, count):
    """Return which images are for training, bool (count,), from the dataset `split` of an open file; None without it.

    Raises ValueError unless its values are train and test.
    """
    if "split" not in file:
        return None
    values = [value.lower() for value in read_column(path, file, "split", count)]
    if others := sorted(set(values) - {"train", "test"}):
        raise ValueError(
            f"{path}: 'split' must be train or test for each image, not {reprlib.repr(others)}: use --split stratified"
        )
    return np.array(values) == "train"


def row_blocks(images):
    """Return slices of whole chunks, about BLOCK_BYTES each, that cover an HDF5 dataset of images, (n, h, w, 3)."""
    rows = max(1, BLOCK_BYTES // (images.shape[1] * images.shape[2] * 3))
    chunk = images.chunks[0] if images.chunks else 1
    rows = math.ceil(rows / chunk) * chunk
    return [slice(start, min(start + rows, len(images))) for start in range(0, len(images), rows)]


def resize(images, size):
    """Resize images, uint8 (m, h, w, 3), to uint8 (m, size, size, 3): each pixel is the mean of the area it covers."""
    if images.shape[1:3] == (size, size):
        return images
    channels_first = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    return interpolate(channels_first, (size, size), mode="area").round().byte().permute(0, 2, 3, 1).numpy()


def reduced(path, names, folder):
    """Return the path of a copy of the file at `path` with images of IMAGE_SIZE pixels, in `folder`.

    The copy is written once, and again when the original changes. names: class names.
    """
    status = os.stat(path)
    version = repr((os.path.realpath(path), status.st_size, status.st_mtime_ns)).encode()
    copy = Path(folder) / f"{Path(path).stem}-{IMAGE_SIZE}-{hashlib.sha256(version).hexdigest()[:8]}.h5"
    with exclusive_lock(folder, copy.stem, timeout=-1):
        if copy.is_file():
            return copy
        print(f"{path}: resized to {IMAGE_SIZE} x {IMAGE_SIZE} pixels in {copy}", flush=True)
        with reading(path), open_hdf5(path) as source, create_hdf5(copy) as file:
            for key in set(source) - {"images", "class_names"}:
                source.copy(key, file)
            for key, value in source.attrs.items():
                file.attrs[key] = value
            file.attrs["class_names"] = names
            shape = (len(source["images"]), IMAGE_SIZE, IMAGE_SIZE, 3)
            images = file.create_dataset("images", shape, np.uint8)
            for rows in tqdm(row_blocks(source["images"]), disable=None, leave=False):
                images[rows] = resize(source["images"][rows], IMAGE_SIZE)
    return copy


@contextmanager
def create_hdf5(path):
    """Yield an h5py.File to write; it replaces `path` when it is complete."""
    with atomic_write(path) as [temporary], h5py.File(temporary, "w", locking=False) as file:
        yield file
