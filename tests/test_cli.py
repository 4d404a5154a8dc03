"""What the command lines have in common: Ctrl-C, numbers, and options that name files."""

import importlib
import io
import sys
from pathlib import Path

from common import cli
from common.galaxies import download

import pytest
from conftest import error_of, run


@pytest.mark.parametrize(("arguments", "given", "command"), [
    ({}, ["q1_data.py"], None),
    ({"trains": True}, ["q2_fcn.py", "--lr", "1"], "q2_fcn.py --lr 1 --resume"),
    ({"trains": True}, ["q2_fcn.py", "--resume=if-same"], "q2_fcn.py --resume=if-same"),
    ({"resumes": "--resume"}, ["predict.py", "my a.png"], "predict.py 'my a.png' --resume"),
    ({"resumes": ""}, ["seeds.py"], "seeds.py"),
])  # fmt: skip
def test_ctrl_c_says_how_to_resume_where_that_is_possible(arguments, given, command, monkeypatch, capsys):
    def main():
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(sys, "argv", given)
    for level, same_make in ((None, ""), ("1", " (or rerun make)")):
        monkeypatch.delenv("MAKELEVEL", raising=False)
        if level:
            monkeypatch.setenv("MAKELEVEL", level)
        with pytest.raises(SystemExit) as status:
            cli.run(main, **arguments)
        assert status.value.code == 130
        resume = f"; to resume: python {command}{same_make}" if command else ""
        assert capsys.readouterr().err == f"interrupted{resume}\n"


@pytest.mark.parametrize(("kind", "valid", "invalid"), [
    (cli.positive_int, {"1": 1, "30": 30}, ["0", "-1", "1.5", "many"]),
    (cli.positive_float, {"1e-3": 0.001}, ["0", "-1", "inf", "nan", "x"]),
    (cli.fraction, {"0.1": 0.1, "1": 1}, ["0", "1.1", "nan"]),
    (cli.seed, {"0": 0, str(2**63 - 1): 2**63 - 1}, ["-1", str(2**63), "1.0"]),
])  # fmt: skip
def test_numbers_out_of_range_are_refused(kind, valid, invalid):
    parser = cli.Parser("", ())
    parser.add_argument("--number", type=kind)
    for text, value in valid.items():
        assert parser.parse_args([f"--number={text}"]).number == value
    for text in invalid:
        with pytest.raises(ValueError, match=f"--number: '{text}' is not a"):
            parser.parse_args([f"--number={text}"])


REQUIRED = {"predict": ["a.png"], "studies.encoder": ["--encoder", "none"], "course.build": ["submission"]}


@pytest.mark.parametrize(("module", "options"), [
    ("q1_data", ["--data", "--cache", "--out"]),
    ("q5_transfer", ["--backbone", "--out"]),
    ("summary", ["--out"]),
    ("predict", ["--model", "--csv", "--json", "--html", "--explain", "--truth"]),
    ("export", ["--model", "--to"]),
    ("course.build", ["--data", "--out"]),
    ("studies.encoder", ["--encoder-weights", "--out"]),
    ("studies.methods.page", ["--docs"]),
])  # fmt: skip
def test_the_home_folder_may_be_called_tilde_in_every_path(module, options, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    words = [word for option in options for word in (option, "~/a b")]
    given = vars(importlib.import_module(module).get_args([*REQUIRED.get(module, []), *words]))
    for option in options:
        assert given[option[2:].replace("-", "_")] == "/home/ada/a b"


def test_other_tildes_and_colons_stay_and_the_cache_of_the_environment_may_begin_with_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data:").mkdir()
    Path("data:", "a.h5").touch()
    for name in ("a/~/b~", "/a:b", "data://a.h5"):  # the last exists
        assert cli.path(name) == name
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("GALAXY10_CACHE", "~/cache")
    assert download.cache_folder() == Path("/home/ada/cache")


def test_an_address_is_refused_in_one_line_before_anything_is_written(tmp_path):
    for address in ("https://zenodo.org/records/1/files/a.h5", "FILE:///a/b.h5"):
        error = error_of(run("q1_data.py", "--data", address, "--out", tmp_path / "out"))
        assert f"argument --data: '{address}' is a URL, not a local file or folder" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_what_a_terminal_cannot_show_is_escaped(monkeypatch, encoding):
    def main():
        print("59.9% – 63.1% × …")
        print("error: … —", file=sys.stderr)

    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict"))
    cli.run(main)
    for stream, text in ((sys.stdout, "59.9% – 63.1% × …\n"), (sys.stderr, "error: … —\n")):
        assert stream.buffer.getvalue() == text.encode(encoding, "backslashreplace")
