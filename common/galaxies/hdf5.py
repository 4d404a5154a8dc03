"""Read a Galaxy10 HDF5 file, after checking everything that it claims."""

import json
import math
import os
import re
import reprlib
from contextlib import contextmanager, suppress
from pathlib import Path

from common.galaxies.facts import CLASS_NAMES, DECALS_CLASS_NAMES, DECALS_KEYS, DECALS_SIZE, IMAGE_SIZE, in_words
from common.galaxies.split import hold_back
from common.storage.streams import one_line, printable, say

import h5py
import numpy as np
import torch
from torch.nn.functional import interpolate

BLOCK_BYTES = 16_000_000  # read in one call
MOST_CLASSES = 1000
SHORTEST = {h5py.h5z.FILTER_DEFLATE: 8, h5py.h5z.FILTER_FLETCHER32: 4}  # bytes of a chunk, which HDF5 does not check
READ_ERRORS = (OSError, RuntimeError, KeyError, TypeError, OverflowError)  # what h5py raises for damaged files


def check_galaxy10(path, held_back=None):
    """Return the names of the classes, a tuple, after checking the form of a whole HDF5 file.

    held_back: the classes for transfer, as `hold_back` takes them: they, and the others together, must have images. No
    memory is allocated for data that the file only declares. Raises OSError or ValueError with a sentence that says
    what is wrong.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        try:
            images, ans = (dataset(path, file, key) for key in ("images", "ans"))
            check_images(path, images, is_named=bool(name_holders(file)))
            check_storage(path, images, len(images) * IMAGE_SIZE**2 * 3)
            names = find_class_names(path, file, images.shape[1])
            check_labels(path, ans, len(images), names, held_back)
        except READ_ERRORS as error:
            raise ValueError(f"{path} is damaged: HDF5 cannot read its structure ({error})") from None
    return names


def name_holders(file):
    """Return what holds `class_names` in an open file: its attributes, those of `ans`, or the file for a dataset."""
    return [holder for holder in (file.attrs, file["ans"].attrs, file) if "class_names" in holder]


def find_class_names(path, file, size):
    """Return the names of the classes 0, 1, ... in an open file with images of `size` pixels, as a tuple of texts.

    They are the `class_names` of the file: its attribute, that of `ans`, or a dataset. Without them, a file in the form
    of a published set has that set's names. Raises ValueError when there are none, or not one for each class.
    """
    if holders := name_holders(file):
        given = dataset(path, file, "class_names") if holders[0] is file else holders[0]["class_names"]
        names = read_names(given[: MOST_CLASSES + 1] if isinstance(given, h5py.Dataset) and given.ndim == 1 else given)
        different = len(set(names)) == len(names) and all(name and name.isprintable() for name in names)
        if not different or not 2 <= len(names) <= MOST_CLASSES:
            found = f"{len(names)}, {reprlib.repr(names)}" if names else "none"
            raise ValueError(f"{path}: class_names must be different texts, one for each class: found {found}")
        return names
    is_decals = all(key in file for key in DECALS_KEYS)
    if size == (DECALS_SIZE if is_decals else IMAGE_SIZE):
        return DECALS_CLASS_NAMES if is_decals else CLASS_NAMES
    raise ValueError(
        f"{path} does not name its classes and is neither like Galaxy10 SDSS ({IMAGE_SIZE} pixels) nor like DECaLS "
        f"({DECALS_SIZE} pixels, with {', '.join(DECALS_KEYS)}): set file.attrs['class_names'] = [...] with h5py, "
        "a text for each class"
    )


def read_names(given):
    """Return names as a tuple: of an array of texts or bytes, or the JSON of a list; of anything else an empty one."""
    if isinstance(given, (str, bytes)):
        with suppress(ValueError, RecursionError):
            given = json.loads(given)
    given = given.tolist() if isinstance(given, np.ndarray) and given.ndim == 1 else given
    if not isinstance(given, list) or not all(isinstance(name, (str, bytes)) for name in given):
        return ()
    return tuple((name if isinstance(name, str) else name.decode(errors="surrogateescape")).strip() for name in given)


@contextmanager
def reading(path):
    """Raise ValueError, with a sentence, when the data read from a checked file inside the with block are damaged.

    Also when the file was changed meanwhile.
    """
    before = file_signature(path)
    try:
        yield
    except (OSError, RuntimeError) as error:
        if "allocate" in str(error):  # no fault of the file's
            raise
        raise ValueError(f"{path} is damaged: its data cannot be read ({error})") from None
    if file_signature(path) != before:
        raise ValueError(f"{path} was changed while it was read: rerun when it is complete")


def file_signature(path):
    """Return what changes when a file is written to or replaced."""
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns


def dataset(path, file, key):
    """Return the dataset `key` of an open file.

    Raises ValueError unless its data are stored in that file, in a form that can be decoded here.
    """
    link = file.get(key, getlink=True)
    if isinstance(link, (h5py.SoftLink, h5py.ExternalLink)):
        to = f"{link.filename}:{link.path}" if isinstance(link, h5py.ExternalLink) else link.path
        raise ValueError(
            f"{path}: '{key}' is only a link, to {to}: links are not followed; copy the data into the file"
        )
    found = file.get(key)
    if not isinstance(found, h5py.Dataset):
        there = ", ".join(sorted(file)) or "nothing"
        raise ValueError(f"{path} has no dataset '{key}': a Galaxy10 file has images and ans, this one has {there}")
    if found.external or found.is_virtual:
        raise ValueError(f"{path}: the data of '{key}' are in other files, which are not read: copy them into this one")
    if found.shape is None:
        raise ValueError(f"{path}: '{key}' is declared but has no data")
    for code, name in filters(found).items():
        if h5py.h5z.filter_avail(code):
            continue
        remedy = "" if register_filters() else "pip install hdf5plugin, or "
        if not h5py.h5z.filter_avail(code):
            sentence = f"{path}: '{key}' is stored with the filter {name}, which HDF5 does not have"
            raise ValueError(f"{sentence}: {remedy}store it with gzip")
    return found


def register_filters():
    """Register the filters of hdf5plugin; return whether it is installed."""
    try:
        import hdf5plugin  # noqa: F401 (which does it)
    except ImportError:
        return False
    return True


def filters(dataset):
    """Return the names of the filters that a dataset is stored with, as `bitshuffle`, by their registered numbers."""
    properties = dataset.id.get_create_plist()
    found = [properties.get_filter(index) for index in range(properties.get_nfilters())]
    # A name may have more words than that: "bitshuffle; see https://...", "HDF5 lz4 filter; see http://..."
    names = {
        code: re.sub("^HDF5 |( filter)?([;:].*)?$", "", name.decode(errors="replace")) for code, _, _, name in found
    }
    return {code: name if name.isprintable() and name else f"number {code}" for code, name in names.items()}


def row_blocks(images):
    """Return slices that cover an HDF5 dataset of images, (n, h, w, 3): of some BLOCK_BYTES, in whole chunks."""
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


def open_hdf5(path):
    """Return the open h5py.File at `path`."""
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder: give --data the HDF5 file itself, or --labels, the table of its pictures"
        )
    with open(path, "rb") as file:  # raises the system's own error when it is missing or unreadable
        start = file.read(8)
    if not start:
        raise ValueError(f"{path} is empty: download it again")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if "unable to lock" in str(error):
            raise ValueError(f"{path} is being written by another program: wait until it has finished") from None
        if "truncated" in str(error):
            raise ValueError(f"{path} is truncated, perhaps by an interrupted download: download it again") from None
        if start == b"\x89HDF\r\n\x1a\n":
            raise ValueError(
                f"{path} begins like HDF5 but cannot be opened: it is damaged, download it again"
            ) from None
        kinds = {b"\x89PNG": "a PNG image", b"PK\x03\x04": "a zip archive", b"SIMPLE": "a FITS file"}
        kinds |= {b"\x1f\x8b": "a gzip archive", b"<!DOCTYP": "a web page", b"<html": "a web page"}
        kind = next((f", it looks like {name}" for magic, name in kinds.items() if start.startswith(magic)), "")
        raise ValueError(f"{path} is not an HDF5 file{kind}: --data takes a file such as Galaxy10.h5") from None


def check_images(path, images, is_named):
    """Raise ValueError unless the dataset is uint8 (n, 69, 69, 3), of DECaLS's size, or with named classes of any."""
    shape = " x ".join(map(str, images.shape))
    if images.ndim == 4 and images.shape[1] == 3:
        raise ValueError(f"{path}: images are channels first ({shape}): store images.transpose(0, 2, 3, 1)")
    if images.ndim != 4:
        raise ValueError(f"{path}: images have {images.ndim} axes ({shape}), not 4: (n, {IMAGE_SIZE}, {IMAGE_SIZE}, 3)")
    if images.dtype != np.uint8:
        raise ValueError(f"{path}: images are {images.dtype}, not uint8: store them as integers 0-255")
    if is_named and images.shape[1] == images.shape[2] >= 48 and images.shape[3] == 3:
        return
    if images.shape[1:] not in ((IMAGE_SIZE, IMAGE_SIZE, 3), (DECALS_SIZE, DECALS_SIZE, 3)):
        raise ValueError(
            f"{path}: images are {shape}, neither n x {IMAGE_SIZE} x {IMAGE_SIZE} x 3 (Galaxy10 SDSS) "
            f"nor n x {DECALS_SIZE} x {DECALS_SIZE} x 3 (DECaLS)"
        )


def check_storage(path, dataset, needed):
    """Raise ValueError when the file has less of a dataset than it declares, or it would not fit into memory.

    needed: the bytes it takes in memory.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    name = dataset.name.strip("/")
    declared = f"{path} declares '{name}' of {len(dataset):,} rows"
    if dataset.chunks:
        chunks = []
        dataset.id.chunk_iter(chunks.append)
        shortest = max((SHORTEST.get(code, 1) for code in filters(dataset)), default=1)
        if any(chunk.size < shortest for chunk in chunks):
            raise ValueError(f"{path} is damaged: '{name}' has chunks of no size")
        held, whole = len(chunks), math.prod(map(math.ceil, np.divide(dataset.shape, dataset.chunks)))
        needed = max(needed, math.prod(dataset.chunks) * dataset.dtype.itemsize)
    else:
        held, whole = dataset.id.get_storage_size(), math.prod(dataset.shape) * dataset.dtype.itemsize
    if held < whole:
        raise ValueError(f"{declared} but holds {held / whole:.2%} of that: the file is incomplete, download it again")
    if needed > memory:
        raise ValueError(
            f"{declared}, {needed / 1e9:,.1f} GB, more than this machine's memory of {memory / 1e9:,.1f} GB"
        )


def check_labels(path, ans, count, names, held_back):
    """Raise ValueError unless there is one integer per image, a class of `names`, and those needed have images."""
    numbers = f"0-{len(names) - 1}"
    if ans.ndim == 2 and ans.shape[1] == len(names):
        shape = f"{len(ans):,} x {len(names)}"
        raise ValueError(f"{path}: labels are one-hot ({shape}): store the class numbers, ans.argmax(1)")
    if ans.ndim != 1:
        raise ValueError(f"{path}: ans has {ans.ndim} axes, not 1: one label, {numbers}, for each image")
    if len(ans) != count:
        raise ValueError(f"{path}: {count:,} images but {len(ans):,} labels: the file is incomplete, download it again")
    if not np.issubdtype(ans.dtype, np.integer):
        raise ValueError(f"{path}: labels are {ans.dtype}, not integers {numbers}: store ans.astype('uint8')")
    if count == 0:
        raise ValueError(f"{path}: has no images")
    check_storage(path, ans, count * ans.dtype.itemsize)
    labels = ans[:]
    if labels.min() < 0 or labels.max() >= len(names):
        raise ValueError(
            f"{path}: labels run from {labels.min()} to {labels.max()}, outside the {in_words(len(names))} classes "
            f"{numbers}: name all classes in file.attrs['class_names']"
        )
    classes = hold_back(names, held_back)
    has_images = np.bincount(classes.numbers[labels], minlength=len(names)) > 0  # the main classes first
    if not has_images[: classes.main].any():
        main = f"classes 0-{classes.main - 1}" if classes.names == names else "the main classes"
        raise ValueError(f"{path}: no images of {main}, on which Q2 and Q3 train")
    for place in range(classes.main, len(names)):
        if not has_images[place]:
            label = names.index(classes.names[place])
            raise ValueError(
                f"{path}: no images of class {label} ({names[label]}), which Q5 needs: --hold-back others, or none"
            )


def read_column(path, file, key, count, rows=...):
    """Return the values of a dataset of one axis as texts that can be printed: a list of `count`, or those of `rows`.

    Raises ValueError unless it holds `count` texts or whole numbers.
    """
    column = dataset(path, file, key)
    if column.ndim != 1 or len(column) != count or column.dtype.kind not in "SOUiub":
        raise ValueError(f"{path}: '{key}' is {column.dtype} {column.shape}, not one text or whole number per image")
    check_storage(path, column, column.nbytes)
    values = (value.decode(errors="surrogateescape") if isinstance(value, bytes) else value for value in column[rows])
    return [printable(value).strip() for value in values]


def catalogue_ids(path, file, count, rows):
    """Return the ids of `rows`, a slice, of an open file with `count` images, as texts: of `objid`, or else of `id`.

    An empty list if it has neither or, which a line on stderr says for the first rows, one that cannot be used.
    """
    try:
        key = next((key for key in ("objid", "id") if key in file), None)
        return read_column(path, file, key, count, rows) if key else []
    except (*READ_ERRORS, ValueError) as error:
        if rows.start == 0:
            say(path, f"its ids are not used: {one_line(error).removeprefix(f'{printable(path)}: ')}")
        return []


def read_ids_and_split(path, file, split_column, count):
    """Return the ids of the images of an open file, `count` texts, and which are for training, bool (count,).

    They are in the datasets `id` and `split_column`: None for ids that are not there, or without a column. Raises
    ValueError unless the values of the split are train and test.
    """
    ids = read_column(path, file, "id", count) if "id" in file else None
    if split_column is None:
        return ids, None
    values = [value.lower() for value in read_column(path, file, split_column, count)]
    if others := sorted(set(values) - {"train", "test"}):
        raise ValueError(f"{path}: '{split_column}' must be train or test for each image: found {reprlib.repr(others)}")
    return ids, np.array(values) == "train"
