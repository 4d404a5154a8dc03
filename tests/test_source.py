"""Which file the options of q1_data.py stand for, and what it is called in records."""

import hashlib
import pwd

from common.galaxies import download
from common.galaxies.facts import CLASS_NAMES
from common.galaxies.source import find_file, find_galaxies, galaxies_file, source_of

import h5py
import numpy as np
import pytest
from conftest import error_of, run, write_galaxy10


@pytest.fixture
def find(tmp_path):
    """find_file with options to replace."""
    options = {"data": None, "source": "auto", "dataset": "sdss", "cache": tmp_path / "cache", "count": 60, "seed": 0,
               "out": tmp_path / "out"}  # fmt: skip
    return lambda **changes: find_file(**options | changes)


@pytest.fixture
def no_mirror(monkeypatch):
    def fetch(cache, published):
        raise ConnectionError(f"{published.name} could not be downloaded")

    monkeypatch.setattr(download, "fetch", fetch)


def test_auto_falls_back_on_synthetic_galaxies_with_a_warning(find, no_mirror, tmp_path, capsys):
    path, source = find()
    assert (path, source) == (tmp_path / "out" / "synthetic.h5", "synthetic")
    with h5py.File(path) as file:
        assert file["images"].shape == (60, 69, 69, 3)
        assert len(np.unique(file["ans"])) == 10
    warning = capsys.readouterr().err
    assert "WARNING: Galaxy10 could not be downloaded." in warning
    assert "Using SYNTHETIC galaxies" in warning
    assert "To retry the download, use --source real (make: SOURCE=real)." in warning


@pytest.mark.parametrize("options", [{"source": "real"}, {"dataset": "decals"}])
def test_real_takes_no_substitute_and_decals_has_none(find, no_mirror, options):
    with pytest.raises(ConnectionError):
        find(**options)


def test_a_cache_that_cannot_be_written_falls_back_too_and_is_named(find, tmp_path, capsys):
    cache = tmp_path / "file"
    cache.write_text("no folder")
    assert find(cache=cache)[1] == "synthetic"
    reason = f"{cache}: File exists: Galaxy10.h5 cannot be stored there; choose another --cache"
    first, _, warning, *_ = capsys.readouterr().err.splitlines()
    assert first == reason
    assert "WARNING" in warning
    error = error_of(run("q1_data.py", "--source", "real", "--cache", cache, "--out", tmp_path / "new"))
    assert error == f"error: {reason}"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("dataset", ["sdss", "decals"])
def test_a_published_set_is_called_by_its_name_downloaded_or_given(find, monkeypatch, tmp_path, dataset):
    path = write_galaxy10(tmp_path / "mine.h5")
    assert source_of(path) == "file:mine.h5"
    monkeypatch.setattr(download, "fetch", lambda cache, published: tmp_path / published.name)
    name = download.PUBLISHED[dataset].name
    assert find(dataset=dataset) == (tmp_path / name, f"galaxy10-{dataset}")
    content = path.read_bytes()
    published = download.RemoteFile(name, len(content), hashlib.sha256(content).hexdigest(), ())
    monkeypatch.setattr(download, "PUBLISHED", {dataset: published})
    assert find(data=path) == (path, f"galaxy10-{dataset}")


def test_a_folder_of_pictures_is_refused_with_what_to_do(find, tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} is a folder: .* python cutouts.py {tmp_path} TABLE --to own.h5"):
        find(data=tmp_path)


def test_a_synthetic_file_needs_no_network_and_says_so_wherever_it_goes(find, no_mirror, tmp_path, capsys):
    moved = find(source="synthetic")[0].rename(tmp_path / "Galaxy10.h5")
    assert find(data=moved) == (moved, "synthetic")
    with h5py.File(moved, "a") as file:
        del file.attrs["synthetic"]
    assert find(data=moved) == (moved, "file:Galaxy10.h5")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("source", "args", "name"), [
    ("synthetic", {"data": None}, "out/synthetic.h5"), ("synthetic", {"data": "moved.h5"}, "moved.h5"),
    ("galaxy10-decals", {"data": None, "cache": "c"}, "c/Galaxy10_DECals.h5")])  # fmt: skip
def test_the_file_that_q1_has_read_is_found_by_its_record(source, args, name):
    assert str(galaxies_file({"source": source, "args": args}, "out")) == name


@pytest.mark.parametrize(("size", "names"), [(69, None), (69, CLASS_NAMES), (96, tuple("abcdefghij"))])
def test_images_of_another_size_are_reduced_and_names_of_a_published_set_said(size, names, tmp_path, capsys):
    path = write_galaxy10(tmp_path / "own.h5", images=np.zeros((60, size, size, 3), np.uint8), class_names=names)
    found = find_galaxies(path, "auto", "sdss", tmp_path / "cache", 60, 0, tmp_path / "out")
    assert (found.source, found.class_names) == ("file:own.h5", names or CLASS_NAMES)
    assert found.path == (path if size == 69 else next((tmp_path / "cache").glob("own-69-*.h5")))
    printed = capsys.readouterr().out
    assert ("class names are Galaxy10 SDSS's" in printed) == (size == 69)
    assert ("resized to 69 x 69 pixels in" in printed) == (size == 96)


def test_without_a_home_folder_only_the_default_cache_is_refused(tmp_path, monkeypatch):
    for name in ("HOME", "GALAXY10_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", dict().__getitem__)  # as of a user in a container without an entry in passwd
    with pytest.raises(ValueError, match=r"there is no home folder for the cache: set one with --cache or"):
        download.cache_folder()
    assert download.cache_folder(tmp_path) == tmp_path
