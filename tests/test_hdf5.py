import json
import math
import os
import re
import subprocess
import sys
import tracemalloc

from common.galaxies.facts import CLASS_NAMES, DECALS_CLASS_NAMES, DECALS_KEYS
from common.galaxies.hdf5 import check_galaxy10, reading, row_blocks
from common.galaxies.pictures import read_pictures

import h5py
import numpy as np
import pytest
from conftest import ROOT, error_of, run, run_well, write_galaxy10
from hypothesis import given, settings
from hypothesis import strategies as st

LABELS = np.arange(60, dtype=np.uint8) % 10
images = np.random.default_rng(0).integers(0, 256, (60, 69, 69, 3), dtype=np.uint8)

BAD_CONTENTS = {
    "no images": ({"images": None}, "no dataset 'images'.*this one has ans"),
    "no labels": ({"ans": None}, "no dataset 'ans'.*this one has images"),
    "neither": ({"images": None, "ans": None}, "this one has nothing"),
    "three axes": ({"images": np.zeros((60, 69, 69), np.uint8)}, r"3 axes \(60 x 69 x 69\), not 4"),
    "float images": ({"images": np.zeros((60, 69, 69, 3), np.float32)}, "float32, not uint8: store them as"),
    "channels first": ({"images": images.transpose(0, 3, 1, 2)}, r"channels first \(60 x 3 x 69 x 69\): .*transpose"),
    "null images": ({"images": h5py.Empty("uint8")}, "'images' is declared but has no data"),
    "other size": ({"images": np.zeros((60, 64, 64, 3), np.uint8)}, "60 x 64 x 64 x 3, neither n x 69 x 69 x 3"),
    "label 10": ({"ans": LABELS + np.uint8(1)}, "labels run from 1 to 10, outside"),
    "negative label": ({"ans": LABELS.astype(np.int64) - 1}, "labels run from -1 to 8, outside"),
    "lengths": ({"ans": LABELS[:59]}, "60 images but 59 labels"),
    "one-hot": (
        {"ans": np.eye(10, dtype=np.uint8)[LABELS]},
        r"one-hot \(60 x 10\): store the class numbers, ans.argmax\(1\)",
    ),
    "float labels": ({"ans": LABELS.astype(np.float64)}, "labels are float64, not integers"),
    "no class 8": ({"ans": np.where(LABELS == 8, 9, LABELS)}, r"no images of class 8 \(Disk, Face-on, Medium Spiral\)"),
    "no main": ({"ans": (8 + LABELS % 2).astype(np.uint8)}, "no images of classes 0-7"),
    "empty set": ({"images": np.zeros((0, 69, 69, 3), np.uint8), "ans": LABELS[:0]}, "has no images"),
}


@pytest.mark.parametrize("case", BAD_CONTENTS)
def test_what_is_wrong_with_the_contents_is_said(case, tmp_path):
    changes, sentence = BAD_CONTENTS[case]
    path = write_galaxy10(tmp_path / "galaxies.h5", **changes)
    with pytest.raises(ValueError, match=sentence) as error:
        check_galaxy10(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not an HDF5 file, it looks like a PNG image"),
        (b"PK\x03\x04" + bytes(100), "it looks like a zip archive"),
        (b"<!DOCTYPE html><html>", "it looks like a web page"),
        (b"a few words", "is not an HDF5 file: --data takes"),
        (b"\x89HDF\r\n\x1a\n" + bytes(500), "damaged"),
    ],
)
def test_files_that_are_no_hdf5_are_named_for_what_they_are(content, sentence, tmp_path):
    path = tmp_path / "file.h5"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        check_galaxy10(path)


def test_a_file_cut_short_is_called_so(tmp_path):
    path = write_galaxy10(tmp_path / "galaxies.h5")
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match="truncated"):
        check_galaxy10(path)


def test_folders_and_missing_files(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        check_galaxy10(tmp_path)
    with pytest.raises(FileNotFoundError):
        check_galaxy10(tmp_path / "none.h5")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Files with the same galaxies, each stored with another filter of hdf5plugin, by a pattern of its name."""
    hdf5plugin = pytest.importorskip("hdf5plugin")
    folder, paths = tmp_path_factory.mktemp("packed"), {}
    kinds = {"bitshuffle": "Bitshuffle", "blosc": "Blosc", "blosc2": "Blosc2", "[Zz]st(andar)?d.*": "Zstd"}
    kinds |= {"lz4": "LZ4", "bzip2": "BZip2"}
    for name, kind in kinds.items():
        paths[name] = folder / f"{kind}.h5"
        with h5py.File(paths[name], "w") as file:
            options = {"chunks": True, "compression": getattr(hdf5plugin, kind)()}
            file.create_dataset("images", data=images, **options)
            file.create_dataset("ans", data=LABELS, **options)
    return paths


def test_files_with_filters_of_hdf5plugin_are_read_where_it_is_installed(packed, tmp_path):
    for path in packed.values():
        assert check_galaxy10(path) == CLASS_NAMES
        assert all((found == image).all() for (_, found), image in zip(read_pictures([path], 69), images, strict=True))
    plain, fingerprints = write_galaxy10(tmp_path / "plain.h5", images=images), []
    for path in (plain, packed["bitshuffle"]):
        run_well("q1_data.py", "--data", path, "--out", tmp_path / "out")
        fingerprints.append(json.loads((tmp_path / "out" / "q1_data.json").read_text())["fingerprint"])
    assert fingerprints[0] == fingerprints[1]


def test_without_hdf5plugin_the_filter_is_named_and_what_to_install(packed, tmp_path):
    (tmp_path / "hdf5plugin.py").write_text("raise ImportError\n")  # as if it were not installed
    code = """
import sys
from common.galaxies.hdf5 import check_galaxy10
for path in sys.argv[1:]:
    try:
        check_galaxy10(path)
    except ValueError as error:
        print(error)
"""
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-c", code, *map(str, packed.values())]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    for sentence, (name, path) in zip(printed.splitlines(), packed.items(), strict=True):
        stored, _, remedy = sentence.partition(", ")
        assert re.fullmatch(f"{path}: 'images' is stored with the filter ({name})", stored)
        assert remedy == "which HDF5 does not have: pip install hdf5plugin, or store it with gzip"


def test_a_filter_that_nothing_has_is_given_by_its_number(tmp_path):
    path = write_galaxy10(tmp_path / "galaxies.h5", images=None)
    with h5py.File(path, "a") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((60, 69, 69, 3))
        properties.set_filter(65000, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((60, 69, 69, 3))
        h5py.h5d.create(file.id, b"images", h5py.h5t.NATIVE_UINT8, space, properties)
        file["images"].id.write_direct_chunk((0, 0, 0, 0), images.tobytes())
    with pytest.raises(ValueError, match="'images' is stored with the filter number 65000, which HDF5 does not have: "):
        check_galaxy10(path)


OWN = tuple(f"my class {label}, é" for label in range(10))


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
    assert check_galaxy10(path) == OWN
    with h5py.File(path, "a") as file:
        for key in DECALS_KEYS:
            file[key] = np.zeros(60)
    assert check_galaxy10(path) == OWN


@pytest.mark.parametrize(("size", "keys", "names"), [
    (69, (), CLASS_NAMES), (69, ("ra", "dec"), CLASS_NAMES), (256, DECALS_KEYS, DECALS_CLASS_NAMES),
    (256, (), None), (256, DECALS_KEYS[:2], None), (69, DECALS_KEYS, None)])  # fmt: skip
def test_without_names_only_the_form_of_a_published_set_has_its_names(size, keys, names, tmp_path):
    changes = {"images": np.zeros((60, size, size, 3), np.uint8)} | dict.fromkeys(keys, np.zeros(60))
    path = write_galaxy10(tmp_path / "own.h5", **changes)
    if names:
        assert check_galaxy10(path) == names
    else:
        with pytest.raises(ValueError, match=r"own.h5 does not name its classes .*file.attrs\['class_names'\] = "):
            check_galaxy10(path)


@pytest.mark.parametrize(("given", "found"), [
    (OWN[:1], r"1, \('my class 0, é',"), ([*OWN[:9], OWN[0]], "10, "), ([f"{n}" for n in range(1001)], "1001, "),
    ([*OWN[:9], ""], "10, "), ([*OWN[:9], "two\nlines"], "10, "),
    (np.arange(10), "none"), ("a name", "none"), ("[1, 2]", "none"), (0.5, "none"),
    (np.array([b"\xff", *b"abcdefghi"], dtype="S1"), "10, "), (h5py.Empty("S3"), "none"),
])  # fmt: skip
@pytest.mark.parametrize("holder", ["file", "dataset"])
def test_names_that_are_not_different_texts_are_refused(given, found, holder, tmp_path):
    path = write_galaxy10(tmp_path / "own.h5")
    with h5py.File(path, "a") as file:
        (file.attrs if holder == "file" else file)["class_names"] = given
    with pytest.raises(ValueError, match=r"own.h5: ") as error:
        check_galaxy10(path)
    sentence = f"class_names must be different texts, one for each class: found {found}"
    assert re.search(sentence, str(error.value)) or "'class_names' is declared but has no data" in str(error.value)


@pytest.mark.parametrize(("names", "outside"), [
    (OWN[:5], "0 to 9, outside the five classes 0-4"), (OWN[:9], "outside the nine classes 0-8"),
    (OWN, None), ([*OWN, "more"], None), ([f"kind {n}" for n in range(300)], None)])  # fmt: skip
def test_there_may_be_any_number_of_classes_with_a_name_for_each_label(names, outside, tmp_path):
    path = write_galaxy10(tmp_path / "own.h5")
    with h5py.File(path, "a") as file:
        file["class_names"] = list(names)
    if outside:
        with pytest.raises(ValueError, match=f"own.h5: labels run from .*{outside}: name all classes in"):
            check_galaxy10(path)
    else:
        assert check_galaxy10(path) == tuple(names)


@pytest.mark.parametrize(("size", "named", "taken"), [
    (64, True, True), (48, True, True), (256, True, True), (47, True, False), (64, False, False)])  # fmt: skip
def test_files_that_name_their_classes_may_have_images_of_any_size_that_can_be_cropped(size, named, taken, tmp_path):
    path = write_galaxy10(tmp_path / "own.h5", images=np.zeros((60, size, size, 3), np.uint8))
    if named:
        name_in_file(path, "attribute")
    if taken:
        assert check_galaxy10(path) == OWN
    else:
        with pytest.raises(ValueError, match=f"60 x {size} x {size} x 3, neither"):
            check_galaxy10(path)


def test_a_short_chunk_is_no_damage_where_no_filter_says_how_short_it_may_be(tmp_path):
    path = write_galaxy10(tmp_path / "galaxies.h5", ans=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("ans", data=LABELS, chunks=(5,))
    assert check_galaxy10(path) == CLASS_NAMES


def add_link(path, kind, tmp_path):
    """Put the images elsewhere and a link of some kind, or a dataset whose bytes are elsewhere, in their place."""
    elsewhere = tmp_path / "elsewhere.h5"
    with h5py.File(path, "a") as file:
        pixels = file["images"][:]
        del file["images"]
        if kind == "soft":
            file["a/secret"] = pixels
            file["images"] = h5py.SoftLink("/a/secret")
        elif kind == "dangling":
            file["images"] = h5py.SoftLink("/nowhere")
        elif kind == "external":
            write_galaxy10(elsewhere)
            file["images"] = h5py.ExternalLink(str(elsewhere), "/images")
        elif kind == "raw":
            raw = tmp_path / "secret.bin"
            raw.write_bytes(pixels.tobytes())
            file.create_dataset("images", pixels.shape, "uint8", external=[(str(raw), 0, pixels.nbytes)])
        else:
            write_galaxy10(elsewhere)
            layout = h5py.VirtualLayout(pixels.shape, "uint8")
            layout[:] = h5py.VirtualSource(str(elsewhere), "images", pixels.shape)
            file.create_virtual_dataset("images", layout)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("soft", "'images' is only a link, to /a/secret: links are not followed"),
        ("dangling", "'images' is only a link, to /nowhere"),
        ("external", "'images' is only a link, to .*elsewhere.h5:/images: links are not followed"),
        ("raw", "the data of 'images' are in other files, which are not read"),
        ("virtual", "the data of 'images' are in other files, which are not read"),
    ],
)
def test_links_and_data_elsewhere_are_not_followed(kind, sentence, tmp_path):
    path = write_galaxy10(tmp_path / "galaxies.h5")
    add_link(path, kind, tmp_path)
    with pytest.raises(ValueError, match=sentence):
        check_galaxy10(path)


def test_a_damaged_chunk_is_called_so(tmp_path):
    path = write_galaxy10(tmp_path / "galaxies.h5", images=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("images", data=images, compression="gzip", chunks=(7, 69, 69, 3))
        chunk = file["images"].id.get_chunk_info(4)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 1000 : chunk.byte_offset + 1400] = bytes(400)
    path.write_bytes(content)
    check_galaxy10(path)
    with (
        pytest.raises(ValueError, match=r"galaxies.h5 is damaged: its data cannot be read \("),
        reading(path),
        h5py.File(path) as file,
    ):
        file["images"][:]


def test_a_chunk_of_no_size_is_refused_before_hdf5_trips_over_it(tmp_path):
    path = write_galaxy10(tmp_path / "galaxies.h5", images=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("images", data=images, compression="gzip", fletcher32=True, chunks=(60, 69, 69, 3))
        size = file["images"].id.get_chunk_info(0).size
    content, entry = path.read_bytes(), size.to_bytes(4, "little") + bytes(4)  # its size and filter mask
    assert content.count(entry) == 1
    path.write_bytes(content.replace(entry, bytes(8)))
    done = run("q1_data.py", "--data", path, "--out", tmp_path / "out")  # a process of its own: it might crash
    assert "galaxies.h5 is damaged: 'images' has chunks of no size" in error_of(done)


@pytest.mark.parametrize("layout", [{}, {"chunks": (1000, 69, 69, 3)}])
def test_a_billion_images_in_a_tiny_file_are_not_believed(layout, tmp_path):
    path = tmp_path / "galaxies.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("images", (10**9, 69, 69, 3), "uint8", **layout)
        file.create_dataset("ans", (10**9,), "uint8", chunks=(10**6,))
    assert path.stat().st_size < 10_000
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"declares 'images' of 1,000,000,000 rows but holds 0.00% of that"):
        check_galaxy10(path)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000  # bytes, at most at any time
    tracemalloc.stop()


def test_labels_declared_but_never_written_are_not_believed(tmp_path):
    path = write_galaxy10(tmp_path / "galaxies.h5", ans=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("ans", (60,), "uint8", chunks=(10,))
    with pytest.raises(ValueError, match=r"declares 'ans' of 60 rows but holds 0.00%"):
        check_galaxy10(path)


def test_more_images_than_memory_are_refused(tmp_path, monkeypatch):
    path = write_galaxy10(tmp_path / "galaxies.h5")
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 200}.get)
    with pytest.raises(ValueError, match=r"of 60 rows, 0.0 GB, more than this machine's memory"):
        check_galaxy10(path)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 220}.get)
    check_galaxy10(path)


@pytest.mark.parametrize("change", ["replaced", "written to"])
def test_a_file_that_changes_while_it_is_read_is_not_taken(change, tmp_path):
    path = write_galaxy10(tmp_path / "galaxies.h5")
    other = write_galaxy10(tmp_path / "other.h5", ans=LABELS[::-1].copy())
    with pytest.raises(ValueError, match=r"galaxies.h5 was changed while it was read"), reading(path):
        os.replace(other, path) if change == "replaced" else os.truncate(path, path.stat().st_size + 1)


def test_a_file_that_is_being_written_is_called_so(tmp_path):
    path = write_galaxy10(tmp_path / "galaxies.h5")
    code = f"import h5py; f = h5py.File({str(path)!r}, 'a'); print('open', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        with pytest.raises(ValueError, match="is being written by another program"):
            check_galaxy10(path)
        writer.communicate(b"\n")
    check_galaxy10(path)


@pytest.mark.parametrize(("chunk", "rows"), [(7, 1120), (1000, 2000), (4000, 4000), (None, 1120)])
def test_blocks_cover_all_rows_and_read_each_chunk_once(chunk, rows, tmp_path):
    with h5py.File(tmp_path / "galaxies.h5", "w") as file:  # 1,120 images are 16 MB; nothing is stored
        layout = {"chunks": (chunk, 69, 69, 3)} if chunk else {}
        blocks = row_blocks(file.create_dataset("images", (9000, 69, 69, 3), "uint8", **layout))
    assert [row for block in blocks for row in range(9000)[block]] == list(range(9000))
    assert {block.stop - block.start for block in blocks[:-1]} == {rows}


# Up to five axes, but at most 8 MB: whether a shape is refused does not depend on its size.
shapes = st.lists(st.sampled_from([0, 1, 3, 10, 60, 69]), max_size=5).map(tuple).filter(lambda s: math.prod(s) < 1e6)
dtypes = st.sampled_from(["uint8", "int8", "int64", "uint64", "float32", "float64", "S3", "bool", "complex64"])
storages = st.sampled_from([{}, {"chunks": True}, {"chunks": True, "compression": "gzip"}])


@settings(max_examples=150)
@given(
    shape=st.one_of(shapes, st.just((60, 69, 69, 3))),
    ans_shape=st.one_of(shapes, st.just((60,))),
    dtype=st.one_of(dtypes, st.just("uint8")),
    ans_dtype=dtypes,
    labels=st.lists(st.integers(-3, 12), min_size=1, max_size=60),
    storage=storages,
)
def test_whatever_a_file_holds_it_is_read_or_refused_in_a_sentence(
    shape, ans_shape, dtype, ans_dtype, labels, storage, tmp_path_factory
):
    path = tmp_path_factory.getbasetemp() / "any.h5"
    with np.errstate(all="ignore"), h5py.File(path, "w") as file:
        file.create_dataset("images", data=np.zeros(shape, dtype), **(storage if 0 not in shape and shape else {}))
        file["ans"] = np.resize(np.array(labels), ans_shape).astype(ans_dtype)
    try:
        check_galaxy10(path)
    except ValueError as error:
        sentence = str(error)
    else:
        with h5py.File(path) as file:
            assert file["images"].shape == (len(file["ans"]), 69, 69, 3)
            assert file["images"].dtype == np.uint8
            assert set(file["ans"][:]) <= set(range(10))
        return
    assert "any.h5" in sentence
