import errno
import hashlib
import os

from common.galaxies import download
from common.galaxies.source import find_galaxies, galaxies_file, source_of

import h5py
import numpy as np
import pytest
from common.galaxies.cutouts import Cutouts
from conftest import error_of, run, write_galaxy10


@pytest.fixture
def find(tmp_path):
    """find_galaxies with options of its own to replace."""
    options = {"data": None, "source": "auto", "dataset": "sdss", "cache": tmp_path / "cache", "count": 60, "seed": 0,
               "out": tmp_path / "out", "cutouts": Cutouts(None)}  # fmt: skip
    return lambda **changes: find_galaxies(**options | changes)


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


@pytest.mark.parametrize("options", [{"source": "real"}, {"dataset": "decals"}])
def test_real_takes_no_substitute_and_decals_has_none(find, no_mirror, options):
    with pytest.raises(ConnectionError):
        find(**options)


def test_a_cache_that_cannot_be_written_falls_back_too_and_is_named(find, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    for cache, number in ((tmp_path / "file", errno.EEXIST), (tmp_path / "file" / "cache", errno.ENOTDIR)):
        assert find(cache=cache).source == "synthetic"
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
    assert find(source="synthetic").source == "synthetic"
    path = write_galaxy10(tmp_path / "my.h5")
    assert find(data=path) == (path, "file:my.h5")
    assert capsys.readouterr().err == ""


def test_a_synthetic_file_says_so_wherever_it_goes(find, tmp_path):
    moved = find(source="synthetic").path.rename(tmp_path / "Galaxy10.h5")
    assert find(data=moved) == (moved, "synthetic")
    with h5py.File(moved, "a") as file:
        del file.attrs["synthetic"]
    assert find(data=moved).source == "file:Galaxy10.h5"


@pytest.mark.parametrize(("source", "args", "name"), [
    ("file:pictures", {"data": "pictures", "labels": "table.csv"}, "out/cutouts.h5"),
    ("file:mine.h5", {"data": "mine.h5"}, "mine.h5"), ("galaxy10-decals", {"data": "any name.h5"}, "any name.h5"),
    ("synthetic", {"data": None}, "out/synthetic.h5"), ("synthetic", {"data": "moved.h5"}, "moved.h5"),
    ("galaxy10-sdss", {"data": None, "cache": "c"}, "c/Galaxy10.h5"),
    ("galaxy10-decals", {"data": None, "cache": "c"}, "c/Galaxy10_DECals.h5"),
])  # fmt: skip
def test_the_file_that_q1_has_read_is_found_by_its_record(source, args, name):
    assert str(galaxies_file({"source": source, "args": {"labels": None} | args}, "out")) == name
