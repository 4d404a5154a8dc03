"""HDF5 files in Galaxy10's form: what is refused, whose class names are used, ids, splits and other sizes."""

import json
import os
import re
import subprocess
import sys

from common.galaxies.facts import CLASS_NAMES, DECALS_CLASS_NAMES, DECALS_KEYS, IMAGE_SIZE
from common.galaxies.hdf5 import check_galaxy10, open_hdf5, read_split, reading, reduced, row_blocks
from common.galaxies.pictures import read_pictures
from common.galaxies.split import hold_back

import h5py
import numpy as np
import pytest
from conftest import ROOT, error_of, run, write_galaxy10

LABELS = np.arange(60, dtype=np.uint8) % 10
images = np.random.default_rng(0).integers(0, 256, (60, 69, 69, 3), dtype=np.uint8)
OWN = tuple(f"my class {label}, é" for label in range(10))

BAD_CONTENTS = {
    "no images": ({"images": None}, "no dataset 'images'.*this one has ans"),
    "no labels": ({"ans": None}, "no dataset 'ans'.*this one has images"),
    "neither": ({"images": None, "ans": None}, "this one has nothing"),
    "three axes": ({"images": np.zeros((60, 69, 69), np.uint8)}, "images are uint8 60 x 69 x 69, not uint8 n x size x"),
    "float images": ({"images": np.zeros((60, 69, 69, 3), np.float32)}, "images are float32 60 x 69 x 69 x 3, not"),
    "channels first": ({"images": images.transpose(0, 3, 1, 2)}, "images are uint8 60 x 3 x 69 x 69, not"),
    "null images": ({"images": h5py.Empty("uint8")}, "no dataset 'images'"),
    "small": ({"images": np.zeros((60, 47, 47, 3), np.uint8)}, "60 x 47 x 47 x 3, not .* of 48 pixels or more"),
    "oblong": ({"images": np.zeros((60, 69, 70, 3), np.uint8)}, "60 x 69 x 70 x 3, not"),
    "label 10": ({"ans": LABELS + np.uint8(1)}, "ans run from 1 to 10, but the 10 classes have the numbers 0-9"),
    "negative label": ({"ans": LABELS.astype(np.int64) - 1}, "ans run from -1 to 8"),
    "lengths": ({"ans": LABELS[:59]}, "ans are uint8 59, not a whole number for each of 60 images"),
    "one-hot": ({"ans": np.eye(10, dtype=np.uint8)[LABELS]}, "ans are uint8 60 x 10, not a whole number for each"),
    "float labels": ({"ans": LABELS.astype(np.float64)}, "ans are float64 60, not a whole number for each"),
    "empty set": ({"images": np.zeros((0, 69, 69, 3), np.uint8), "ans": LABELS[:0]}, "has no images"),
    "a split of others": ({"split": ["train"] * 59 + ["valid"]}, r"'split' must be train or test .* not \['valid'\]"),
    "a split of numbers": ({"split": np.zeros(60)}, "'split' is float64 .*, not one text or whole number per image"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_CONTENTS)
def test_what_is_wrong_with_the_contents_is_said(case, tmp_path):
    changes, sentence = BAD_CONTENTS[case]
    path = write_galaxy10(tmp_path / "galaxies.h5", **changes)
    with h5py.File(path) as file, pytest.raises(ValueError, match=sentence) as error:
        (check_galaxy10(path), read_split(path, file, 60))
    assert str(path) in str(error.value)


@pytest.mark.parametrize(("labels", "sentence"), [
    (np.where(LABELS == 8, 9, LABELS), r"no images of class 8 \(Disk, Face-on, Medium Spiral\), which Q5 needs"),
    (8 + LABELS % 2, "none are left for Q2 and Q3")])  # fmt: skip
def test_classes_that_are_needed_have_images(labels, sentence):
    with pytest.raises(ValueError, match=sentence):
        hold_back(CLASS_NAMES, None, labels)
    hold_back(CLASS_NAMES, "none", labels)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" + bytes(100), b"\x89HDF\r\n\x1a\n" + bytes(500)])
def test_what_hdf5_cannot_open_is_its_own_sentence_with_the_files_name(content, tmp_path):
    (tmp_path / "file.h5").write_bytes(content)
    error = error_of(run("q1_data.py", "--data", tmp_path / "file.h5", "--out", tmp_path / "out"))
    assert error.startswith(f"error: {tmp_path / 'file.h5'} cannot be read: Unable to")
    with pytest.raises(FileNotFoundError):
        check_galaxy10(tmp_path / "none.h5")


def test_files_cut_short_and_damaged_chunks_are_named(tmp_path):
    path = write_galaxy10(tmp_path / "galaxies.h5", images=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("images", data=images, compression="gzip", chunks=(7, 69, 69, 3))
        chunk = file["images"].id.get_chunk_info(4)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 1000 : chunk.byte_offset + 1400] = bytes(400)
    path.write_bytes(content)
    check_galaxy10(path)
    error = error_of(run("q1_data.py", "--data", path, "--out", tmp_path / "out"))
    assert re.search("galaxies.h5 cannot be read: Can't .*read data", error)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"galaxies.h5 cannot be read: .*truncated file"):
        check_galaxy10(path)


def test_a_user_block_is_skipped(tmp_path):
    with h5py.File(tmp_path / "matlab.h5", "w", userblock_size=512) as file:
        file["images"], file["ans"] = images, LABELS
    assert check_galaxy10(tmp_path / "matlab.h5") == (CLASS_NAMES, 69)


def test_without_locks_on_the_file_system_files_are_read_and_written_without(tmp_path, monkeypatch):
    path, opened = write_galaxy10(tmp_path / "galaxies.h5", images=np.zeros((60, 96, 96, 3), np.uint8)), h5py.File

    def lockless(*args, **options):
        if options.get("locking") is not False:
            raise OSError(37, "unable to lock file, errno = 37, error message = 'No locks available'")
        return opened(*args, **options)

    monkeypatch.setattr(h5py, "File", lockless)
    with open_hdf5(path) as file:
        assert (file["ans"][:] == LABELS).all()
    assert reduced(path, OWN, tmp_path).is_file()


def test_a_file_that_another_program_writes_is_not_read(tmp_path):
    path = write_galaxy10(tmp_path / "galaxies.h5")
    code = f"import h5py; file = h5py.File({str(path)!r}, 'a'); print('open', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        with pytest.raises(ValueError, match=r"galaxies.h5 cannot be read: .*unable to lock file"):
            check_galaxy10(path)
        writer.communicate(b"\n")
    check_galaxy10(path)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Files with the same galaxies, each stored with another filter of hdf5plugin."""
    hdf5plugin = pytest.importorskip("hdf5plugin")
    folder, paths = tmp_path_factory.mktemp("packed"), []
    for kind in ("Bitshuffle", "Blosc", "Blosc2", "Zstd", "LZ4", "BZip2"):
        paths.append(folder / f"{kind}.h5")
        with h5py.File(paths[-1], "w") as file:
            options = {"chunks": True, "compression": getattr(hdf5plugin, kind)()}
            file.create_dataset("images", data=images, **options)
            file.create_dataset("ans", data=LABELS, **options)
    return paths


def test_files_with_filters_of_hdf5plugin_are_read_where_it_is_installed(packed):
    for path in packed:
        assert check_galaxy10(path) == (CLASS_NAMES, 69)
        assert all((found == image).all() for (_, found), image in zip(read_pictures([path], 69), images, strict=True))


def test_without_hdf5plugin_what_to_install_is_said(packed, tmp_path):
    code = """
import sys
sys.modules["hdf5plugin"] = None
from common.galaxies.hdf5 import check_galaxy10
for path in sys.argv[1:]:
    try:
        check_galaxy10(path)
    except ValueError as error:
        print(error)
"""
    command = [sys.executable, "-c", code, *map(str, packed)]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    expected = [f"{path}: reading 'images' needs hdf5plugin: pip install hdf5plugin" for path in packed]
    assert printed.splitlines() == expected


def name_in_file(path, kind):
    with h5py.File(path, "a") as file:
        if kind == "attribute of ans":
            file["ans"].attrs["class_names"] = OWN
        elif kind == "dataset":
            file["class_names"] = OWN
        elif kind == "bytes":
            file.attrs["class_names"] = np.array([name.encode() for name in OWN])
        elif kind == "JSON":
            file.attrs["class_names"] = json.dumps(OWN)
        else:
            file.attrs["class_names"] = OWN


@pytest.mark.parametrize("size", [69, 256])
@pytest.mark.parametrize("kind", ["attribute", "attribute of ans", "dataset", "bytes", "JSON"])
def test_the_names_in_a_file_win_over_those_of_published_sets(kind, size, tmp_path):
    path = write_galaxy10(tmp_path / "own.h5", images=np.zeros((60, size, size, 3), np.uint8))
    name_in_file(path, kind)
    assert check_galaxy10(path) == (OWN, size)
    with h5py.File(path, "a") as file:
        for key in DECALS_KEYS:
            file[key] = np.zeros(60)
    assert check_galaxy10(path) == (OWN, size)


@pytest.mark.parametrize(("size", "keys", "names"), [
    (69, (), CLASS_NAMES), (69, ("ra", "dec"), CLASS_NAMES), (256, DECALS_KEYS, DECALS_CLASS_NAMES),
    (256, (), None), (256, DECALS_KEYS[:2], None), (69, DECALS_KEYS, None)])  # fmt: skip
def test_without_names_only_the_form_of_a_published_set_has_its_names(size, keys, names, tmp_path):
    changes = {"images": np.zeros((60, size, size, 3), np.uint8)} | dict.fromkeys(keys, np.zeros(60))
    path = write_galaxy10(tmp_path / "own.h5", **changes)
    if names:
        assert check_galaxy10(path) == (names, size)
    else:
        with pytest.raises(ValueError, match=r"own.h5 does not name its classes .*file.attrs\['class_names'\] = "):
            check_galaxy10(path)


@pytest.mark.parametrize(("given", "found"), [
    (OWN[:1], r"1, \('my class 0, é',"), ([*OWN[:9], OWN[0]], "10, "), ([f"{n}" for n in range(1001)], "1001, "),
    ([*OWN[:9], ""], "10, "), ([*OWN[:9], "two\nlines"], "10, "), (np.arange(10), "none"), ("a name", "none"),
    ("[1, 2]", "none"), (0.5, "none"), (np.array([b"\xff", *b"abcdefghi"], dtype="S1"), "10, "),
])  # fmt: skip
@pytest.mark.parametrize("holder", ["file", "dataset"])
def test_names_that_are_not_different_texts_are_refused(given, found, holder, tmp_path):
    path = write_galaxy10(tmp_path / "own.h5")
    with h5py.File(path, "a") as file:
        (file.attrs if holder == "file" else file)["class_names"] = given
    with pytest.raises(ValueError, match=f"class_names must be different texts, one for each class: found {found}"):
        check_galaxy10(path)


@pytest.mark.parametrize(("names", "outside"), [(OWN[:9], True), ([*OWN, "more"], False), (range(300), False)])
def test_there_may_be_any_number_of_classes_with_a_name_for_each_label(names, outside, tmp_path):
    path = write_galaxy10(tmp_path / "own.h5", class_names=list(map(str, names)))
    if outside:
        with pytest.raises(ValueError, match="ans run from 0 to 9, but the 9 classes have the numbers 0-8"):
            check_galaxy10(path)
    else:
        assert check_galaxy10(path) == (tuple(map(str, names)), 69)


@pytest.mark.parametrize("size", [48, 96, 138])
def test_a_file_of_another_size_is_reduced_once_and_again_when_it_has_changed(size, tmp_path, capsys):
    large = np.random.default_rng(1).integers(0, 256, (60, size, size, 3), dtype=np.uint8)
    path = write_galaxy10(tmp_path / "own.h5", images=large, id=np.arange(60))
    name_in_file(path, "dataset")
    copy = reduced(path, OWN, tmp_path / "cache")
    assert capsys.readouterr().out == f"{path}: reduced to 69 x 69 pixels in {copy}\n"
    assert check_galaxy10(copy) == (OWN, IMAGE_SIZE)
    with h5py.File(copy) as file:
        assert (file["ans"][:] == LABELS).all()
        assert (file["id"][:] == np.arange(60)).all()
        for row, column in ((0, 0), (5, 7), (33, 68)):  # of the area that a pixel covers, the mean
            top, left = row * size // 69, column * size // 69
            bottom, right = -(-(row + 1) * size // 69), -(-(column + 1) * size // 69)
            area = large[:, top:bottom, left:right].mean((1, 2))
            assert (file["images"][:, row, column] == area.round()).all()
    assert reduced(path, OWN, tmp_path / "cache") == copy
    assert capsys.readouterr().out == ""
    os.utime(path, (1, 1))
    assert reduced(path, OWN, tmp_path / "cache") != copy


@pytest.mark.parametrize(("chunk", "rows"), [(7, 1120), (1000, 2000), (4000, 4000), (None, 1120)])
def test_blocks_cover_all_rows_and_read_each_chunk_once(chunk, rows, tmp_path):
    with h5py.File(tmp_path / "galaxies.h5", "w") as file:  # 1,120 images are 16 MB; nothing is stored
        layout = {"chunks": (chunk, 69, 69, 3)} if chunk else {}
        blocks = row_blocks(file.create_dataset("images", (9000, 69, 69, 3), "uint8", **layout))
    assert [row for block in blocks for row in range(9000)[block]] == list(range(9000))
    assert {block.stop - block.start for block in blocks[:-1]} == {rows}


def test_errors_of_the_system_and_of_ours_are_left_as_they_are(tmp_path):
    for error in (FileNotFoundError(2, "No such file", "a.h5"), ValueError("a sentence")):
        with pytest.raises(type(error)) as raised, reading(tmp_path):
            raise error
        assert raised.value is error
