"""Options that name files: ~ is the home folder in all of them, and an address is refused with a way to the file."""

import importlib
import os

import pytest
from conftest import error_of, run

POSITIONAL = {"predict": ["a.png"], "studies.encoder": ["--encoder", "none"], "notebook.build": ["submission"]}
PATHS = {
    "q1_data": ["--data", "--cache", "--out"],
    "q2_fcn": ["--out"],
    "q3_cnn": ["--out"],
    "q4_confusion": ["--out"],
    "q5_transfer": ["--backbone", "--out"],
    "summary": ["--out"],
    "predict": ["--model", "--csv", "--json", "--html", "--explain", "--truth"],
    "export": ["--model", "--to"],
    "use.playground": ["--out"],
    "notebook.build": ["--data", "--out"],
    "benchmarks.scale": ["--out"],
    "studies.encoder": ["--encoder-weights", "--out"],
    "studies.seeds": ["--out"],
    "studies.inside": ["--out"],
    "studies.methods.page": ["--docs"],
}
ADDRESSES = (
    "https://zenodo.org/records/1/files/a.h5",
    "http://a/b.pt",
    "ftp://a/b",
    "s3://bucket/key",
    "FILE:///a/b.h5",
)


def options(module, *args):
    return vars(importlib.import_module(module).get_args([*POSITIONAL.get(module, []), *args]))


@pytest.mark.parametrize(("module", "option"), [(module, each) for module, names in PATHS.items() for each in names])
def test_the_home_folder_and_addresses(module, option, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    key = option[2:].replace("-", "_")
    for given, expected in (("~/a b", "/home/ada/a b"), ("~", "/home/ada"), ("a/~/b~", "a/~/b~"), ("/a:b", "/a:b")):
        assert options(module, option, given)[key] == expected
    for address in ADDRESSES:
        with pytest.raises(ValueError, match=f"argument {option}: '{address}' is an address, .* download"):
            options(module, option, address)


def test_the_cache_of_the_environment_may_begin_with_the_home_folder_too(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("GALAXY10_CACHE", "~/cache")
    assert options("q1_data")["cache"] == "/home/ada/cache"


def test_a_file_whose_name_looks_like_an_address_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("data:")
    with open("data:/a.h5", "wb"):
        pass
    assert options("q1_data", "--data", "data://a.h5")["data"] == "data://a.h5"


def test_an_address_is_refused_in_one_line_before_anything_is_written(tmp_path):
    error = error_of(run("q1_data.py", "--data", ADDRESSES[0], "--out", tmp_path / "out"))
    assert "without --data (make: DATA) q1_data.py downloads Galaxy10 itself, from $GALAXY10_URL where that is" in error
    error = error_of(run("q5_transfer.py", "--backbone", ADDRESSES[1], "--out", tmp_path / "out"))
    assert "download it first, as with curl -LO, and give the file" in error
    assert not (tmp_path / "out").exists()
