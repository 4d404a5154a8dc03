"""Options that name files: ~ is the home folder in all of them, and an address is refused."""

import importlib
from pathlib import Path

from common.galaxies import download

import pytest
from conftest import error_of, run

OTHERS = {"predict": ["a.png"], "studies.encoder": ["--encoder", "none"], "course.build": ["submission"]}
PATHS = {
    "q1_data": ["--data", "--cache", "--out"],
    "q5_transfer": ["--backbone", "--out"],
    "summary": ["--out"],
    "predict": ["--model", "--csv", "--json", "--html", "--explain", "--truth"],
    "export": ["--model", "--to"],
    "course.build": ["--data", "--out"],
    "studies.encoder": ["--encoder-weights", "--out"],
    "studies.methods.page": ["--docs"],
}


def options(module, *args):
    return vars(importlib.import_module(module).get_args([*OTHERS.get(module, []), *args]))


@pytest.mark.parametrize(("module", "option"), [(module, each) for module, names in PATHS.items() for each in names])
def test_the_home_folder_may_be_called_tilde_in_every_path(module, option, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert options(module, option, "~/a b")[option[2:].replace("-", "_")] == "/home/ada/a b"


def test_other_tildes_and_colons_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data:").mkdir()
    (tmp_path / "data:" / "a.h5").touch()
    for name in ("a/~/b~", "/a:b", "data://a.h5"):  # the last exists
        assert options("q1_data", "--data", name)["data"] == name


def test_the_cache_of_the_environment_may_begin_with_the_home_folder_too(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("GALAXY10_CACHE", "~/cache")
    assert download.cache_folder() == Path("/home/ada/cache")


@pytest.mark.parametrize("address", ["https://zenodo.org/records/1/files/a.h5", "s3://bucket/key", "FILE:///a/b.h5"])
def test_an_address_is_refused_in_one_line_before_anything_is_written(tmp_path, address):
    error = error_of(run("q1_data.py", "--data", address, "--out", tmp_path / "out"))
    assert f"argument --data: '{address}' is an address, not a file or folder of this machine" in error
    assert not (tmp_path / "out").exists()
