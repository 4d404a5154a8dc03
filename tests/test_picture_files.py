"""Which files are pictures, by their contents, and what they are called."""

import gzip
import os
import tempfile
from pathlib import Path

from common.galaxies.pictures import find_pictures, listed_paths, read_pictures
from common.storage.streams import printable

import h5py
import numpy as np
import pytest
from networks import galaxies
from PIL import Image

LATIN = os.fsdecode(b"gal\xe9.png")  # a name in another encoding


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(galaxies(1)[0])


def found_in(folder, *paths):
    """The paths below a folder that are found in it, or in these paths below it."""
    return [str(path.relative_to(folder)) for path in find_pictures([folder / path for path in paths or ("",)])]


def test_every_picture_in_a_folder_is_found_by_its_contents_and_the_rest_counted(tmp_path, image, capsys):
    names = {"JPEG": "chrome.jfif", "PNG": "getjpeg?ra=184.9511&dec=-0.8754", "TIFF": "scan.dat"}
    names |= {"WEBP": "photo", "BMP": "old", "GIF": "b.txt"}
    for kind, name in names.items():
        image.save(tmp_path / name, kind)
    with h5py.File(tmp_path / "cutouts", "w") as file:
        file["images"] = np.asarray(image)[None]
    others = {"notes": b"BMW, II* and MM: text", "empty": b"", "a.gz": gzip.compress(b"no FITS")}
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe")  # that would wait for ever if it were opened
    (tmp_path / ".hidden").mkdir()
    image.save(tmp_path / ".hidden" / "a.png")
    (tmp_path / "._c.png").touch()
    (tmp_path / "cut.jpg").write_bytes(b"no picture")  # it should be one, so it is not left out
    Image.new("1", (12_000, 9_000)).save(tmp_path / "large", "PNG")  # which is not read, and named for that
    assert found_in(tmp_path) == sorted([*names.values(), "cutouts", "cut.jpg", "large"])
    counts = capsys.readouterr().err.strip().removeprefix(f"{tmp_path}: skipped: ").split(", ")
    assert sorted(counts) == ["2 hidden", "4 not pictures"]
    read = dict(read_pictures(find_pictures([tmp_path])))
    for name in (names["PNG"], names["TIFF"], names["BMP"], "cutouts[0]"):
        assert np.array_equal(read[f"{tmp_path}/{name}"], np.asarray(image))


@pytest.mark.parametrize("content", [b"", gzip.compress(b"<html>", mtime=0), b"BZh9 damaged"])
def test_a_named_file_that_is_no_picture_is_an_error(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    [(name, error)] = read_pictures([tmp_path / "a.jpg"])
    why = "is damaged, or not JPEG, PNG, TIFF, WebP, BMP, GIF, HDF5 or FITS"
    assert (name, str(error)) == (f"{tmp_path}/a.jpg", why)


def test_links_are_followed_and_each_folder_is_read_once(tmp_path, image, capsys):
    for name in ("in/deep/a.png", "in/b.png", "out/d.png", "store/f3a9"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / name, "PNG")
    links = {"outside": "../out", "again": "deep", "up": "..", "../out/back": "../in", "f": "../store/f3a9"}
    for link, target in (links | {"gone": "nowhere", "self": "self"}).items():
        (tmp_path / "in" / link).symlink_to(target)
    assert found_in(tmp_path / "in") == ["b.png", "deep/a.png", "f", "gone", "outside/d.png", "self"]
    counted = f"{tmp_path}/in: skipped: 3 duplicate links\n"
    assert capsys.readouterr().err == counted
    found = read_pictures(find_pictures([tmp_path / "in"]))
    assert [Path(name).name for name, error in found if isinstance(error, Exception)] == ["gone", "self"]
    assert "in/outside/d.png" in found_in(tmp_path, "in/outside")  # a link that is named itself


def test_what_may_not_be_read_below_a_folder_is_an_error_and_the_rest_goes_on(image):
    with tempfile.TemporaryDirectory() as base:  # others than root may not even look below tmp_path
        folder = Path(base) / "in"
        for name in ("closed/a.png", "open/b.png", "c", "d.png"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            image.save(folder / name, "PNG")
        for path, mode in ((folder / "c", 0), (folder / "closed", 0), (Path(base), 0o755)):
            path.chmod(mode)
        user = os.geteuid()
        if user == 0:  # who may read everything
            os.seteuid(65534)
        try:
            found = dict(read_pictures(find_pictures([folder])))
        finally:
            os.seteuid(user)
            (folder / "closed").chmod(0o755)
    kinds = {name.removeprefix(f"{folder}/"): type(picture) for name, picture in found.items()}
    refused, read = dict.fromkeys(("c", "closed"), PermissionError), dict.fromkeys(("d.png", "open/b.png"), np.ndarray)
    assert kinds == refused | read


@pytest.mark.parametrize(("name", "shown"), [
    ("Aufnahme–été 星系\u202fAM\xa0\u200d.png", "Aufnahme–été 星系\u202fAM\xa0\u200d.png"), (LATIN, r"gal\xe9.png"),
    ("two\nlines\r\x1b[31m\t\x9b.png", r"two\nlines\r\x1b[31m\t\x9b.png"), ("\u2028\x85\ud800", r"\u2028\x85\ud800"),
])  # fmt: skip
def test_names_are_printed_in_one_line_of_utf_8(name, shown):
    assert printable(name) == shown
    printable(name).encode()


@pytest.mark.parametrize(
    "content", [b"a.png\r\nb c.png\r\n", b"\xef\xbb\xbfa.png\n\n \r\n\nb c.png", b"a.png\0b c.png\0"]
)
def test_lists_of_paths_are_read_as_any_system_writes_them(content):
    assert listed_paths(content) == ["a.png", "b c.png"]
    assert listed_paths(b"two\nlines\0gal\xe9.png\0") == ["two\nlines", LATIN]
