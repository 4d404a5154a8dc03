"""Galaxy10: what its files hold, and how they are read without taking anything for granted.

Leung & Bovy's Galaxy10 SDSS, https://zenodo.org/records/10844811: SDSS pictures with Galaxy Zoo 2 labels;
and Galaxy10 DECaLS, https://zenodo.org/records/10845026: larger ones of the DESI Legacy Surveys.
"""

from pathlib import Path

import h5py
import numpy as np
import torch
from torch.nn.functional import interpolate

IMAGE_SIZE = 69  # pixels, of Galaxy10 SDSS
DECALS_SIZE = 256
CLASS_NAMES = (
    "Disk, Face-on, No Spiral",
    "Smooth, Completely round",
    "Smooth, in-between round",
    "Smooth, Cigar shaped",
    "Disk, Edge-on, Rounded Bulge",
    "Disk, Edge-on, Boxy Bulge",
    "Disk, Edge-on, No Bulge",
    "Disk, Face-on, Tight Spiral",
    "Disk, Face-on, Medium Spiral",
    "Disk, Face-on, Loose Spiral",
)
CLASS_COUNTS = (3461, 6997, 6292, 349, 1534, 17, 589, 1121, 906, 519)
MAIN_CLASSES = 8  # classes 0-7 are trained on from scratch, 8 and 9 kept for transfer
DECALS_CLASS_NAMES = (
    "Disturbed",
    "Merging",
    "Round Smooth",
    "In-between Round Smooth",
    "Cigar Shaped Smooth",
    "Barred Spiral",
    "Unbarred Tight Spiral",
    "Unbarred Loose Spiral",
    "Edge-on without Bulge",
    "Edge-on with Bulge",
)
BLOCK_BYTES = 16_000_000  # read at once


def open_galaxy10(path, size=IMAGE_SIZE):
    """Return the class names and labels, uint8 (n,), of an HDF5 file, and an iterator over its images.

    The images come in blocks, uint8 (m, size, size, 3), resized by area if the file's are of another size.
    The whole file's form is checked before anything is returned. Raises OSError or ValueError with a
    sentence that says what the file is instead.
    """
    path = Path(path)
    file = open_hdf5(path)
    try:
        for key in ("images", "ans"):
            if not isinstance(file.get(key), h5py.Dataset):
                there = ", ".join(sorted(file)) or "nothing"
                raise ValueError(f"{path} has no dataset '{key}': a Galaxy10 file has images and ans, this has {there}")
        images, ans = file["images"], file["ans"]
        check_images(path, images)
        names = DECALS_CLASS_NAMES if images.shape[1] == DECALS_SIZE else CLASS_NAMES
        labels = check_labels(path, ans, len(images), names)
    except BaseException:
        file.close()
        raise

    def blocks():
        with file:
            count = max(1, BLOCK_BYTES // (images.shape[1] * images.shape[2] * 3))
            for start in range(0, len(images), count):
                try:
                    yield resize(images[start : start + count], size)
                except OSError as error:
                    raise ValueError(
                        f"{path}: cannot read images {start:,} and on, is it cut short? ({error})"
                    ) from None

    return names, labels, blocks()


def resize(images, size):
    """Return pictures, uint8 (m, h, w, 3), as uint8 (m, size, size, 3): each pixel the mean of the area it covers."""
    if images.shape[1:3] == (size, size):
        return images
    channels_first = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    return interpolate(channels_first, (size, size), mode="area").round().byte().permute(0, 2, 3, 1).numpy()


def open_hdf5(path):
    """Return the open h5py.File at `path`."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give --data the HDF5 file itself")
    with open(path, "rb") as file:  # for the system's own words when it is missing or may not be read
        start = file.read(8)
    if not start:
        raise ValueError(f"{path} is empty: download it again")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if "truncated" in str(error):
            raise ValueError(f"{path} is cut short, the download may have broken off: download it again") from None
        if start == b"\x89HDF\r\n\x1a\n":
            raise ValueError(f"{path} begins like HDF5 but cannot be opened, it is damaged: fetch it again") from None
        kinds = {b"\x89PNG": "a PNG picture", b"PK\x03\x04": "a zip archive", b"SIMPLE": "a FITS file"}
        kinds |= {b"\x1f\x8b": "a gzip archive", b"<!DOCTYP": "a web page", b"<html": "a web page"}
        kind = next((f", it looks like {name}" for magic, name in kinds.items() if start.startswith(magic)), "")
        raise ValueError(f"{path} is no HDF5 file{kind}: --data takes a file such as Galaxy10.h5") from None


def check_images(path, images):
    """Raise ValueError unless the dataset is uint8 (n, 69, 69, 3), or of DECaLS's size."""
    shape = " x ".join(map(str, images.shape))
    if images.ndim != 4:
        raise ValueError(f"{path}: images have {images.ndim} axes ({shape}), not 4: (n, {IMAGE_SIZE}, {IMAGE_SIZE}, 3)")
    if images.dtype != np.uint8:
        raise ValueError(f"{path}: images are {images.dtype}, not uint8: store the pictures as whole numbers 0-255")
    if images.shape[1:] not in ((IMAGE_SIZE, IMAGE_SIZE, 3), (DECALS_SIZE, DECALS_SIZE, 3)):
        raise ValueError(
            f"{path}: images are {shape}, neither n x {IMAGE_SIZE} x {IMAGE_SIZE} x 3 (Galaxy10 SDSS) "
            f"nor n x {DECALS_SIZE} x {DECALS_SIZE} x 3 (DECaLS): colours last"
        )


def check_labels(path, ans, count, names):
    """Return the labels, uint8 (count,); raise ValueError unless they are one whole number 0-9 an image."""
    if ans.ndim != 1:
        raise ValueError(f"{path}: ans has {ans.ndim} axes, not 1: one label, 0-9, for each image")
    if len(ans) != count:
        raise ValueError(f"{path}: {count:,} images but {len(ans):,} labels: the file is not whole, download it again")
    if not np.issubdtype(ans.dtype, np.integer):
        raise ValueError(f"{path}: labels are {ans.dtype}, not whole numbers 0-9")
    if count == 0:
        raise ValueError(f"{path}: holds no images at all")
    labels = ans[:]
    if labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"{path}: labels run from {labels.min()} to {labels.max()}, outside the ten classes 0-9")
    counts = np.bincount(labels, minlength=10)
    if not counts[:MAIN_CLASSES].any():
        raise ValueError(f"{path}: no images of classes 0-7, on which Q2 and Q3 train")
    for label in range(MAIN_CLASSES, 10):
        if counts[label] == 0:
            raise ValueError(f"{path}: no images of class {label} ({names[label]}), which Q5 needs")
    return labels.astype(np.uint8)
