"""HDF5 files in Galaxy10's form: what is refused, class names, ids, splits and images of other sizes."""

import fcntl
import os
import sys
import tracemalloc

from common.galaxies.facts import CLASS_NAMES, DECALS_CLASS_NAMES, DECALS_KEYS
from common.galaxies.hdf5 import (
    BLOCK_BYTES,
    catalogue_ids,
    check_galaxy10,
    open_hdf5,
    read_split,
    reduced,
    row_blocks,
)
from common.galaxies.pictures import read_pictures

import h5py
import numpy as np
import pytest
from conftest import error_of, run, write_galaxy10

LABELS = np.arange(60, dtype=np.uint8) % 10
OWN = tuple(f"my class {label}, é" for label in range(10))
NOT_NAMES = "class_names must be distinct strings, one per class: found"


def empty(*shape, dtype=np.uint8):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"ans": None, "images": None}, "no dataset 'images': a Galaxy10 file has images and ans, this one has nothing"),
    ({"ans": None}, "no dataset 'ans': .*, this one has images"),
    ({"images": empty(60, 69, 69)}, "images are uint8 60 x 69 x 69, not uint8 n x size x size x 3"),
    ({"images": empty(60, 69, 69, 3, dtype=np.float32)}, "images are float32 60 x 69 x 69 x 3, not"),
    ({"images": empty(60, 3, 69, 69)}, "images are uint8 60 x 3 x 69 x 69, not"),
    ({"images": empty(60, 69, 70, 3)}, "images are uint8 60 x 69 x 70 x 3, not"),
    ({"images": empty(60, 69, 69, 4)}, "images are uint8 60 x 69 x 69 x 4, not"),
    ({"images": empty(60, 47, 47, 3)}, "60 x 47 x 47 x 3, not .* with a size of at least 48"),
    ({"images": empty(0, 69, 69, 3), "ans": LABELS[:0]}, "has no images"),
    ({"ans": LABELS[:59]}, "ans is uint8 59, not one integer for each of 60 images"),
    ({"ans": LABELS.astype(float)}, "ans is float64 60, not one integer for each"),
    ({"ans": LABELS + np.uint8(1)}, "ans ranges from 1 to 10, but the 10 classes are numbered 0-9"),
    ({"ans": LABELS.astype(int) - 1}, "ans ranges from -1 to 8"),
    ({"class_names": OWN[:1]}, f"{NOT_NAMES} 1, "),
    ({"class_names": [*OWN[:9], OWN[0]]}, f"{NOT_NAMES} 10, "),
    ({"class_names": [*OWN[:9], ""]}, f"{NOT_NAMES} 10, "),
    ({"class_names": [*OWN[:9], "two\nlines"]}, f"{NOT_NAMES} 10, "),
    ({"class_names": np.arange(10)}, f"{NOT_NAMES} none"),
    ({"split": ["train"] * 59 + ["valid"]}, r"'split' must be train or test .* not \['valid'\]: use --split strat"),
    ({"split": np.zeros(60)}, "'split' is float64 .*, not one string or integer per image"),
])  # fmt: skip
def test_what_is_wrong_with_the_contents_is_said(changes, sentence, tmp_path):
    path = write_galaxy10(tmp_path / "galaxies.h5", **changes)
    with h5py.File(path) as file, pytest.raises(ValueError, match=f"galaxies.h5.*{sentence}"):
        (check_galaxy10(path), read_split(path, file, 60))


def test_truncated_files_and_damaged_chunks_are_named(tmp_path):
    path = write_galaxy10(tmp_path / "galaxies.h5", images=None)
    with h5py.File(path, "a") as file:
        noise = np.random.default_rng(0).integers(0, 256, (60, 69, 69, 3), np.uint8)
        file.create_dataset("images", data=noise, compression="gzip", chunks=(7, 69, 69, 3))
        chunk = file["images"].id.get_chunk_info(4)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 1000 : chunk.byte_offset + 1400] = bytes(400)
    path.write_bytes(content)
    check_galaxy10(path)
    error = error_of(run("q1_data.py", "--data", path, "--out", tmp_path / "out"))
    assert error.startswith(f"error: {path} cannot be read: Can't ")
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"galaxies.h5 cannot be read: Unable to "):
        check_galaxy10(path)


def test_a_file_that_another_program_writes_is_not_read(tmp_path):
    path = write_galaxy10(tmp_path / "galaxies.h5")
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"galaxies.h5 cannot be read: .*unable to lock file"):
            check_galaxy10(path)


def test_files_are_read_and_written_on_a_file_system_without_locks(tmp_path, monkeypatch):
    path, opened = write_galaxy10(tmp_path / "galaxies.h5", images=empty(60, 96, 96, 3)), h5py.File

    def without_locks(*args, **options):
        if options.get("locking") is not False:
            raise OSError(37, "unable to lock file, errno = 37, error message = 'No locks available'")
        return opened(*args, **options)

    monkeypatch.setattr(h5py, "File", without_locks)
    with open_hdf5(path) as file:
        assert (file["ans"][:] == LABELS).all()
    assert reduced(path, OWN, tmp_path).is_file()


def test_without_hdf5plugin_what_to_install_is_said(tmp_path, monkeypatch):
    hdf5plugin = pytest.importorskip("hdf5plugin")
    path, images = tmp_path / "packed.h5", np.random.default_rng(0).integers(0, 256, (60, 69, 69, 3), np.uint8)
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=images, chunks=True, compression=hdf5plugin.Bitshuffle())
        file["ans"] = LABELS
    assert check_galaxy10(path) == (CLASS_NAMES, 69)
    assert all((found == image).all() for (_, found), image in zip(read_pictures([path]), images, strict=True))
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda number: False)  # as in a process without it
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(ValueError, match=r"packed.h5: reading 'images' needs hdf5plugin: pip install hdf5plugin"):
        check_galaxy10(path)


@pytest.mark.parametrize("names", [OWN, [name.encode() for name in OWN]])
@pytest.mark.parametrize("holder", ["attribute", "dataset"])
def test_names_in_the_file_take_precedence(holder, names, tmp_path):
    path = write_galaxy10(tmp_path / "own.h5", images=empty(60, 256, 256, 3), **dict.fromkeys(DECALS_KEYS, empty(60)))
    with h5py.File(path, "a") as file:
        (file.attrs if holder == "attribute" else file)["class_names"] = names
    assert check_galaxy10(path) == (OWN, 256)


@pytest.mark.parametrize(("size", "keys", "names"), [
    (69, ("ra", "dec"), CLASS_NAMES), (256, DECALS_KEYS, DECALS_CLASS_NAMES),
    (256, DECALS_KEYS[:2], None), (69, DECALS_KEYS, None)])  # fmt: skip
def test_without_names_only_the_form_of_a_published_set_has_its_names(size, keys, names, tmp_path):
    path = write_galaxy10(tmp_path / "own.h5", images=empty(60, size, size, 3), **dict.fromkeys(keys, empty(60)))
    if names:
        assert check_galaxy10(path) == (names, size)
    else:
        with pytest.raises(ValueError, match=r"own.h5 does not name its classes .*file.attrs\['class_names'\] = "):
            check_galaxy10(path)


def test_ids_are_objid_or_else_id_and_others_are_not_used(tmp_path, capsys):
    path = write_galaxy10(tmp_path / "own.h5", objid=np.arange(60) + 2**60, id=[f" M{n}\n" for n in range(60)])
    with h5py.File(path, "a") as file:
        assert catalogue_ids(path, file, 60, slice(5, 7)) == [str(2**60 + 5), str(2**60 + 6)]
        del file["objid"]
        assert catalogue_ids(path, file, 60)[1] == "M1"
        del file["id"]
        file["id"] = np.arange(60) / 2
        assert catalogue_ids(path, file, 60) == []
    sentence = "ignoring its ids: 'id' is float64 (60,), not one string or integer per image"
    assert capsys.readouterr().err == f"{path}: {sentence}\n"


def test_images_of_another_size_are_reduced_once_and_again_after_a_change(tmp_path, capsys):
    large = np.random.default_rng(1).integers(0, 256, (60, 96, 96, 3), dtype=np.uint8)
    path = write_galaxy10(tmp_path / "own.h5", images=large, id=np.arange(60), class_names=OWN)
    copy = reduced(path, OWN, tmp_path / "cache")
    assert capsys.readouterr().out == f"{path}: resized to 69 x 69 pixels in {copy}\n"
    assert check_galaxy10(copy) == (OWN, 69)
    with h5py.File(copy) as file:
        assert (file["ans"][:] == LABELS).all()
        assert (file["id"][:] == np.arange(60)).all()
        for row, column in ((0, 0), (5, 7), (33, 68)):  # the mean of the area that a pixel covers
            top, left = row * 96 // 69, column * 96 // 69
            bottom, right = -(-(row + 1) * 96 // 69), -(-(column + 1) * 96 // 69)
            area = large[:, top:bottom, left:right].mean((1, 2))
            assert (file["images"][:, row, column] == area.round()).all()
    assert reduced(path, OWN, tmp_path / "cache") == copy
    assert capsys.readouterr().out == ""
    os.utime(path, (1, 1))
    assert reduced(path, OWN, tmp_path / "cache") != copy


def test_files_are_reduced_in_blocks_of_whole_chunks(tmp_path):
    for chunk, rows in ((7, 1120), (1000, 2000), (4000, 4000), (None, 1120)):
        with h5py.File(tmp_path / "galaxies.h5", "w") as file:  # 1,120 images are 16 MB; nothing is stored
            layout = {"chunks": (chunk, 69, 69, 3)} if chunk else {}
            blocks = row_blocks(file.create_dataset("images", (9000, 69, 69, 3), "uint8", **layout))
        assert [row for block in blocks for row in range(9000)[block]] == list(range(9000))
        assert {block.stop - block.start for block in blocks[:-1]} == {rows}
    with h5py.File(tmp_path / "decals.h5", "w") as file:  # 79 MB
        file.create_dataset("images", (400, 256, 256, 3), "uint8", chunks=(10, 256, 256, 3))
        file["ans"] = empty(400)
    tracemalloc.start()
    reduced(tmp_path / "decals.h5", OWN, tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 3 * BLOCK_BYTES
    tracemalloc.stop()
