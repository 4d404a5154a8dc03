"""What the command lines have in common."""

import io
import sys

from common import cli

import pytest


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
    for level, same_make in ((None, ""), ("1", " (or the same make again)")):
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
