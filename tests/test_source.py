import errno
import hashlib
import os
import subprocess
import sys

from common.galaxies import download
from common.galaxies.facts import CLASS_NAMES
from common.galaxies.source import find_file, find_galaxies, galaxies_file, source_of

import h5py
import numpy as np
import pytest
from conftest import ROOT, error_of, run, write_galaxy10


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
    assert "WARNING" in warning
    assert "SYNTHETIC" in warning
    assert len(warning.splitlines()) >= 6
    assert "To try the download again: --source real (make: SOURCE=real)." in warning


@pytest.mark.parametrize("options", [{"source": "real"}, {"dataset": "decals"}])
def test_real_takes_no_substitute_and_decals_has_none(find, no_mirror, options):
    with pytest.raises(ConnectionError):
        find(**options)


def test_a_cache_that_cannot_be_written_falls_back_too_and_is_named(find, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    for cache, number in ((tmp_path / "file", errno.EEXIST), (tmp_path / "file" / "cache", errno.ENOTDIR)):
        assert find(cache=cache)[1] == "synthetic"
        error = capsys.readouterr().err
        assert "WARNING" in error
        assert error.startswith(f"{cache}: {os.strerror(number)}: Galaxy10.h5 cannot be stored there; choose another ")
        assert "--cache" in error.splitlines()[0]
        for strict in ({"source": "real"}, {"dataset": "decals"}):
            with pytest.raises(OSError, match="--cache"):
                find(cache=cache, **strict)
    error = error_of(run("q1_data.py", "--source", "real", "--cache", tmp_path / "file", "--out", tmp_path / "new"))
    assert error == (
        f"error: {tmp_path / 'file'}: File exists: Galaxy10.h5 cannot be stored there; choose another --cache"
    )
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


def test_synthetic_and_data_touch_no_network(find, no_mirror, tmp_path, capsys):
    assert find(source="synthetic")[1] == "synthetic"
    path = write_galaxy10(tmp_path / "my.h5")
    assert find(data=path) == (path, "file:my.h5")
    assert capsys.readouterr().err == ""


def test_a_synthetic_file_says_so_wherever_it_goes(find, tmp_path):
    moved = find(source="synthetic")[0].rename(tmp_path / "Galaxy10.h5")
    assert find(data=moved) == (moved, "synthetic")
    with h5py.File(moved, "a") as file:
        del file.attrs["synthetic"]
    assert find(data=moved)[1] == "file:Galaxy10.h5"


@pytest.mark.parametrize(("source", "args", "name"), [
    ("file:mine.h5", {"data": "mine.h5"}, "mine.h5"), ("galaxy10-decals", {"data": "any name.h5"}, "any name.h5"),
    ("synthetic", {"data": None}, "out/synthetic.h5"), ("synthetic", {"data": "moved.h5"}, "moved.h5"),
    ("galaxy10-sdss", {"data": None, "cache": "c"}, "c/Galaxy10.h5"),
    ("galaxy10-decals", {"data": None, "cache": "c"}, "c/Galaxy10_DECals.h5"),
])  # fmt: skip
def test_the_file_that_q1_has_read_is_found_by_its_record(source, args, name):
    assert str(galaxies_file({"source": source, "args": args}, "out")) == name


def test_images_of_another_size_are_reduced_in_the_cache(find, tmp_path, capsys):
    names = {"class_names": list("abcdefghij")}
    for size in (69, 96):
        path = write_galaxy10(tmp_path / f"{size}.h5", images=np.zeros((60, size, size, 3), np.uint8), **names)
        found = find_galaxies(path, "auto", "sdss", tmp_path / "cache", 60, 0, tmp_path / "out")
        assert (found.source, found.class_names) == (f"file:{size}.h5", tuple(names["class_names"]))
        assert found.path == (path if size == 69 else next((tmp_path / "cache").glob("96-69-*.h5")))
    assert capsys.readouterr().out.count("reduced to 69 x 69 pixels in") == 1


def test_whose_names_the_classes_have_is_said_unless_they_are_the_files_own(tmp_path, capsys):
    for names in (None, CLASS_NAMES, list("abcdefghij")):
        path = write_galaxy10(tmp_path / "own.h5", class_names=names)
        find_galaxies(path, "auto", "sdss", tmp_path, 60, 0, tmp_path)
        assert ("named as those of Galaxy10 SDSS" in capsys.readouterr().out) == (names is None or names == CLASS_NAMES)


def test_without_a_home_folder_only_the_default_cache_is_refused(tmp_path):
    # As in a container with a user that has no entry in passwd: what Python then does, without being that user.
    code = f"""
import os, pwd, runpy, sys
os.environ.pop("HOME")
def no_entry(uid): raise KeyError(uid)
pwd.getpwuid = no_entry
sys.argv = sys.argv[1:]
sys.path.insert(0, {str(ROOT)!r})
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    environment = {key: value for key, value in os.environ.items() if key not in ("GALAXY10_CACHE", "XDG_CACHE_HOME")}
    command = [sys.executable, "-c", code, str(ROOT / "q1_data.py"), "--source", "real", "--out", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert error_of(done).startswith("error: there is no home folder for the cache: name a folder with --cache or")
    assert download.cache_folder(tmp_path) == tmp_path
