import os

import h5py
import numpy as np
import pytest
from conftest import write_galaxy10

from common import hdf5
from common.galaxy10 import CLASS_COUNTS, CLASS_NAMES, DECALS_CLASS_NAMES
from common.hdf5 import open_galaxy10, resize

LABELS = np.arange(60, dtype=np.uint8) % 10


def test_the_ten_classes():
    assert len(CLASS_NAMES) == len(CLASS_COUNTS) == 10
    assert sum(CLASS_COUNTS) == 21785


def test_images_and_labels_come_back_as_they_are_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "BLOCK_BYTES", 100 * 69 * 69 * 3)
    path = write_galaxy10(tmp_path / "galaxies.h5", count=160)
    names, labels, blocks = open_galaxy10(path)
    assert names == CLASS_NAMES
    blocks = list(blocks)
    assert [len(block) for block in blocks] == [100, 60]
    with h5py.File(path) as file:
        assert (np.concatenate(blocks) == file["images"][:]).all()
        assert (labels == file["ans"][:]).all()


def test_compressed_files_and_wider_integer_labels_are_read_too(tmp_path):
    path = write_galaxy10(tmp_path / "galaxies.h5", ans=LABELS.astype(np.int32), images=None)
    images = np.random.default_rng(0).integers(0, 256, (60, 69, 69, 3), dtype=np.uint8)
    with h5py.File(path, "a") as file:
        file.create_dataset("images", data=images, compression="gzip", chunks=(7, 69, 69, 3))
    _, labels, blocks = open_galaxy10(path)
    assert (np.concatenate(list(blocks)) == images).all()
    assert (labels == LABELS).all()


BAD_CONTENTS = {
    "no images": ({"images": None}, "no dataset 'images'.*this has ans"),
    "no labels": ({"ans": None}, "no dataset 'ans'.*this has images"),
    "neither": ({"images": None, "ans": None}, "this has nothing"),
    "three axes": ({"images": np.zeros((60, 69, 69), np.uint8)}, r"3 axes \(60 x 69 x 69\), not 4"),
    "float images": ({"images": np.zeros((60, 69, 69, 3), np.float32)}, "float32, not uint8"),
    "other size": ({"images": np.zeros((60, 64, 64, 3), np.uint8)}, "60 x 64 x 64 x 3, neither n x 69 x 69 x 3"),
    "label 10": ({"ans": LABELS + np.uint8(1)}, "labels run from 1 to 10, outside"),
    "negative label": ({"ans": LABELS.astype(np.int64) - 1}, "labels run from -1 to 8, outside"),
    "lengths": ({"ans": LABELS[:59]}, "60 images but 59 labels"),
    "one-hot": (
        {"ans": np.eye(10, dtype=np.uint8)[LABELS]},
        r"one-hot \(60 x 10\): store the classes. numbers, ans.argmax\(1\)",
    ),
    "float labels": ({"ans": LABELS.astype(np.float64)}, "labels are float64, not whole numbers"),
    "no class 8": ({"ans": np.where(LABELS == 8, 9, LABELS)}, r"no images of class 8 \(Disk, Face-on, Medium Spiral\)"),
    "no class 9": ({"ans": np.where(LABELS == 9, 8, LABELS)}, r"no images of class 9 \(Disk, Face-on, Loose Spiral\)"),
    "no main": ({"ans": (8 + LABELS % 2).astype(np.uint8)}, "no images of classes 0-7"),
    "empty set": ({"images": np.zeros((0, 69, 69, 3), np.uint8), "ans": LABELS[:0]}, "no images at all"),
}


@pytest.mark.parametrize("case", BAD_CONTENTS)
def test_what_is_wrong_with_the_contents_is_said(case, tmp_path):
    changes, sentence = BAD_CONTENTS[case]
    path = write_galaxy10(tmp_path / "galaxies.h5", **changes)
    with pytest.raises(ValueError, match=sentence) as error:
        open_galaxy10(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "no HDF5 file, it looks like a PNG picture"),
        (b"PK\x03\x04" + bytes(100), "it looks like a zip archive"),
        (b"<!DOCTYPE html><html>", "it looks like a web page"),
        (b"a few words", "is no HDF5 file: --data takes"),
        (b"\x89HDF\r\n\x1a\n" + bytes(500), "damaged"),
    ],
)
def test_files_that_are_no_hdf5_are_named_for_what_they_are(content, sentence, tmp_path):
    path = tmp_path / "file.h5"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        open_galaxy10(path)


def test_a_file_cut_short_is_called_so(tmp_path):
    path = write_galaxy10(tmp_path / "galaxies.h5")
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match="cut short"):
        open_galaxy10(path)


def test_folders_and_missing_files(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        open_galaxy10(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_galaxy10(tmp_path / "none.h5")


def test_a_file_without_permission(tmp_path, monkeypatch):
    path = write_galaxy10(tmp_path / "galaxies.h5")
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read everything: let the system's refusal be played

        def refuse(*args, **kwargs):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(PermissionError):
        open_galaxy10(path)


def test_decals_has_its_own_names_and_is_resized_by_area(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 256, 256, 3), dtype=np.uint8)
    path = write_galaxy10(tmp_path / "decals.h5", images=images)
    names, _, blocks = open_galaxy10(path, size=64)
    assert names == DECALS_CLASS_NAMES
    small = np.concatenate(list(blocks))
    means = images.reshape(60, 64, 4, 64, 4, 3).mean((2, 4))  # 4 x 4 pixels make one
    assert small.shape == (60, 64, 64, 3)
    assert np.abs(small - means).max() <= 0.5 + 1e-4
    for size in (69, 48):
        assert resize(images, size).shape == (60, size, size, 3)
        assert np.abs(resize(images, size).mean((1, 2)) - images.mean((1, 2))).max() < 3
    assert resize(images, 256) is images
