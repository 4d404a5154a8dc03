"""Options that name files: ~ is the home folder in all of them, and an address is refused."""

import importlib
from pathlib import Path

from common.galaxies import download

import pytest
from conftest import error_of, run

REQUIRED = {"predict": ["a.png"], "studies.encoder": ["--encoder", "none"], "course.build": ["submission"]}
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


@pytest.mark.parametrize("module", PATHS)
def test_the_home_folder_may_be_called_tilde_in_every_path(module, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    words = [word for option in PATHS[module] for word in (option, "~/a b")]
    given = vars(importlib.import_module(module).get_args([*REQUIRED.get(module, []), *words]))
    for option in PATHS[module]:
        assert given[option[2:].replace("-", "_")] == "/home/ada/a b"


def test_other_tildes_and_colons_stay_and_the_cache_of_the_environment_may_begin_with_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data:").mkdir()
    Path("data:", "a.h5").touch()
    for name in ("a/~/b~", "/a:b", "data://a.h5"):  # the last exists
        assert importlib.import_module("q1_data").get_args(["--data", name]).data == name
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("GALAXY10_CACHE", "~/cache")
    assert download.cache_folder() == Path("/home/ada/cache")


def test_an_address_is_refused_in_one_line_before_anything_is_written(tmp_path):
    for address in ("https://zenodo.org/records/1/files/a.h5", "FILE:///a/b.h5"):
        error = error_of(run("q1_data.py", "--data", address, "--out", tmp_path / "out"))
        assert f"argument --data: '{address}' is a URL, not a local file or folder" in error
    assert not (tmp_path / "out").exists()
