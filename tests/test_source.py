import errno
import os

import numpy as np
import pytest
from conftest import error_of, run, write_galaxy10

from common.galaxies import download
from common.galaxies.facts import CLASS_NAMES
from common.galaxies.source import open_source


def args(**changes):
    return {
        "data": None,
        "source": "auto",
        "cache": "unused",
        "count": 60,
        "seed": 0,
        "dataset": "sdss",
        "image_size": 69,
        **changes,
    }


def no_mirror(cache, published):
    raise ConnectionError("no mirror gave Galaxy10.h5")


def test_auto_falls_back_on_synthetic_galaxies_with_a_warning(monkeypatch, capsys):
    monkeypatch.setattr(download, "fetch", no_mirror)
    source, names, labels, blocks = open_source(**args())
    assert names == CLASS_NAMES
    assert source == "synthetic"
    assert len(labels) == len(np.concatenate(list(blocks))) == 60
    warning = capsys.readouterr().err
    assert "WARNING" in warning
    assert "SYNTHETIC" in warning
    assert len(warning.splitlines()) >= 6


def test_real_takes_no_substitute(monkeypatch):
    monkeypatch.setattr(download, "fetch", no_mirror)
    with pytest.raises(ConnectionError):
        open_source(**args(source="real"))


def test_a_cache_that_cannot_be_written_falls_back_too_and_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("no folder")
    for cache, number in ((tmp_path / "file", errno.EEXIST), (tmp_path / "file" / "cache", errno.ENOTDIR)):
        source, _, labels, _ = open_source(**args(cache=cache))
        assert (source, len(labels)) == ("synthetic", 60)
        error = capsys.readouterr().err
        assert "WARNING" in error
        assert error.startswith(f"{cache}: {os.strerror(number)}: Galaxy10.h5 cannot be stored there; choose another ")
        assert "--cache" in error.splitlines()[0]
        for strict in ({"source": "real"}, {"dataset": "decals"}):
            with pytest.raises(OSError, match="--cache"):
                open_source(**args(cache=cache, **strict))
    error = error_of(run("q1_data.py", "--source", "real", "--cache", tmp_path / "file", "--out", tmp_path / "out"))
    assert error == (
        f"error: {tmp_path / 'file'}: File exists: Galaxy10.h5 cannot be stored there; choose another --cache"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["auto", "real"])
def test_a_mirror_that_serves_is_used(monkeypatch, tmp_path, source):
    path = write_galaxy10(tmp_path / "Galaxy10.h5")
    monkeypatch.setattr(download, "fetch", lambda cache, published: path)
    name, _, labels, _ = open_source(**args(source=source))
    assert name == "galaxy10-sdss"
    assert len(labels) == 60


def test_synthetic_and_data_touch_no_network(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(download, "fetch", no_mirror)
    assert open_source(**args(source="synthetic"))[0] == "synthetic"
    assert open_source(**args(data=write_galaxy10(tmp_path / "my.h5")))[0] == "file:my.h5"
    assert capsys.readouterr().err == ""


def test_decals_has_no_substitute(monkeypatch):
    monkeypatch.setattr(download, "fetch", no_mirror)
    with pytest.raises(ConnectionError):
        open_source(**args(dataset="decals"))


def test_synthetic_images_can_be_resized_too():
    _, _, _, blocks = open_source(**args(source="synthetic", image_size=50))
    assert np.concatenate(list(blocks)).shape == (60, 50, 50, 3)
