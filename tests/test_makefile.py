"""The Makefile: what runs again when, and with which options. Scripts that take no time stand in for the real ones."""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

from common.storage import stale

import pytest
from conftest import ROOT

QUESTIONS = ["q1_data", "q2_fcn", "q3_cnn", "q4_confusion", "q5_transfer"]
EVERYTHING = [*QUESTIONS, "summary"]
TRAININGS = EVERYTHING[1:]

# Not a part of the make that may be running these tests.
ALONE = {key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key != "MFLAGS"}


def make(folder, *args, **environment):
    """Run make in a copy of the project, with the Python of the tests."""
    command, env = ["make", "--no-print-directory", f"PYTHON={sys.executable}", *args], ALONE | environment
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, env=env, check=False)


def scripts_of(done):
    """The scripts a make ran or, with -n, would run."""
    assert done.returncode == 0, done.stderr
    return [name for line in done.stdout.splitlines() for name in EVERYTHING if f" {name}.py " in line]


# Writes the files of a question with the options it is given, as the real scripts record them.
STAND_IN = """\
import json, os, sys, time
from pathlib import Path
name, given = Path(sys.argv[0]).stem, [word for word in sys.argv[1:] if word != "--resume=if-same"]
pairs = zip(given[::2], given[1::2], strict=True)
given = {key[2:].replace("-", "_"): os.path.expanduser(value) for key, value in pairs}
open("runs.log", "a").write(f"{name} begins\\n")
defaults = dict.fromkeys("data dataset count hold_back split main_train transfer_train".split()) | {"source": "auto"}
training = {"device": "auto"} | ({} if name == "q4_confusion" else {"epochs": 50})
defaults = {"seed": 0} | (defaults if name == "q1_data" else training)
out = Path(given["out"])
out.mkdir(exist_ok=True)
files = [f"{name}.png"] if name == "q4_confusion" else [f"{name}.pt", f"{name}.png"]
for file in files:
    (out / file).write_text("x")
record = {"args": defaults | given, "defaults": defaults, "files": files, "fallback": "FALLS_BACK" in os.environ}
record["counts"] = {"transfer_train": [] if given.get("hold_back") == "none" else [9, 9]}
lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in record.items())
(out / f"{name}.json").write_text("{" + ",\\n".join(lines) + "}")
time.sleep(0.05)
open("runs.log", "a").write(f"{name} ends\\n")
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A copy of the Makefile with stand-ins, in which everything has been made: only to be looked at."""
    folder = tmp_path_factory.mktemp("finished") / "project"
    (folder / "common" / "storage").mkdir(parents=True)
    modules = [f"common/{name}.py" for name in ("__init__", "storage/__init__", "storage/stale")]
    for name in ("Makefile", "requirements.txt", *modules):
        shutil.copy(ROOT / name, folder / name)
    for name in QUESTIONS:
        (folder / f"{name}.py").write_text(STAND_IN)
    (folder / "summary.py").write_text("import sys; open(sys.argv[2] + '/summary.txt', 'w')")
    assert scripts_of(make(folder, "-j8", "all")) == EVERYTHING
    assert make(folder, "all").stdout == "make: Nothing to be done for 'all'.\n"
    return folder


@pytest.fixture
def stand_in(finished, tmp_path):
    """Such a folder for a test alone."""
    return shutil.copytree(finished, tmp_path / "project")


def test_whatever_j_says_one_question_runs_at_a_time(finished):
    expected = [f"{name} {moment}" for name in QUESTIONS for moment in ("begins", "ends")]
    assert (finished / "runs.log").read_text().splitlines() == expected


def test_a_changed_script_or_module_redoes_what_depends_on_it(stand_in):
    for path, expected in (
        ("summary.py", ["summary"]),
        ("q5_transfer.py", ["q5_transfer", "summary"]),
        ("q3_cnn.py", ["q3_cnn", "q4_confusion", "q5_transfer", "summary"]),
        ("common/storage/stale.py", EVERYTHING),
    ):
        os.utime(stand_in / path)
        assert scripts_of(make(stand_in, "-n", "all")) == expected


def test_what_is_lost_or_was_made_with_other_options_is_redone_and_then_done(stand_in):
    for lost in ("q2_fcn.pt", "q5_transfer.png", "q5_transfer.json"):
        (stand_in / "artifacts" / lost).unlink()
        assert scripts_of(make(stand_in, "all"))[0] == lost.partition(".")[0]
    assert scripts_of(make(stand_in, "all", "SEED=1", "EPOCHS=3")) == EVERYTHING
    assert scripts_of(make(stand_in, "all", "SEED=1", "EPOCHS=3")) == []
    assert scripts_of(make(stand_in, "all", "SEED=1", "DEVICE=cpu")) == TRAININGS
    assert scripts_of(make(stand_in, "all", "SEED=1")) == []  # DEVICE=auto takes the results of any device
    assert scripts_of(make(stand_in, "all", "OUT=data")) == EVERYTHING  # a folder with the name of a target


def test_options_are_compared_with_those_given_and_else_with_the_defaults(tmp_path, capsys):
    def is_stale(args, *given):
        defaults = {"epochs": 50, "lr": 0.001, "dropout": 0.0, "device": "auto", "source": "auto", "symmetries": False}
        record = {"args": defaults | args, "defaults": defaults, "files": []}
        (tmp_path / "q2_fcn.json").write_text(json.dumps(record))
        stale.main(["--out", str(tmp_path), *given])
        return {"q2_fcn\n": True, "\n": False}[capsys.readouterr().out]

    assert not is_stale({}, "--epochs", "50", "--count", "7")  # --count is another script's
    assert not is_stale({"epochs": 30, "out": "elsewhere", "resume": "always"}, "--epochs", "30")
    assert is_stale({}, "--epochs", "30")
    assert is_stale({"epochs": 30})
    assert is_stale({}, "--symmetries")
    assert not is_stale({"symmetries": True}, "--symmetries")
    assert not is_stale({"device": "cpu"}, "--device", "auto")
    assert is_stale({"device": "cpu"}, "--device", "cuda")
    assert not is_stale({"source": "real"})  # after SOURCE=real, make all has nothing to do
    assert is_stale({"source": "synthetic"})
    for content in ("", "[]", "{}", '{"args": {}}', '{"args": 3, "defaults": {}, "files": []}'):
        (tmp_path / "q2_fcn.json").write_text(content)
        assert stale.is_stale(tmp_path / "q2_fcn.json", {})


def test_results_on_the_users_own_file_are_not_replaced_by_results_on_galaxy10(stand_in):
    (stand_in / "export.py").touch()
    own, message = ("DATA=own.h5", "EPOCHS=3"), "artifacts holds results on another file: repeat DATA=own.h5, or choose"
    assert scripts_of(make(stand_in, "all", *own)) == EVERYTHING
    assert message in make(stand_in, "all").stderr
    for target in ("playground", "export"):  # of the networks that are there
        assert scripts_of(make(stand_in, "-n", target)) == []
    os.utime(stand_in / "q1_data.py")
    assert message in make(stand_in, "export").stderr
    assert scripts_of(make(stand_in, "-n", "all", *own)) == EVERYTHING
    assert scripts_of(make(stand_in, "-n", "all", "SOURCE=synthetic")) == EVERYTHING


def test_where_nothing_can_check_the_results_make_stops(finished):
    done = make(finished, "all", "PYTHON=false")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Cannot check whether artifacts is up to date" in done.stderr


def test_data_and_out_may_have_odd_names_and_data_is_watched(stand_in):
    data = stand_in / 'it\'s "one";touch harm.h5'
    data.write_text("x")
    command = (stand_in, "data", f"DATA=~/{data.name}", "OUT=~/x")
    assert scripts_of(make(*command, HOME=str(stand_in))) == ["q1_data"]
    assert json.loads((stand_in / "x" / "q1_data.json").read_text())["args"]["data"] == str(data)
    assert scripts_of(make(*command, HOME=str(stand_in))) == []
    os.utime(data)
    assert scripts_of(make(*command, HOME=str(stand_in))) == ["q1_data"]
    assert not (stand_in / "harm.h5").exists()


def test_without_classes_held_back_make_ends_after_q4(stand_in):
    without = [name for name in EVERYTHING if name != "q5_transfer"]
    done = make(stand_in, "all", "HOLD_BACK=none")
    assert scripts_of(done) == without
    assert "No classes are held back (HOLD_BACK): there is no Q5." in done.stdout
    assert scripts_of(make(stand_in, "all", "HOLD_BACK=none")) == []
    assert scripts_of(make(stand_in, "all", "HOLD_BACK=8,9", "EPOCHS=3")) == EVERYTHING


def test_make_says_how_to_download_again_after_a_fallback(stand_in):
    words = "because the download failed: make all SOURCE=real tries again"
    assert words in make(stand_in, "all", "SEED=1", FALLS_BACK="1").stdout
    assert words in make(stand_in, "all", "SEED=1").stdout
    done = make(stand_in, "all", "SEED=1", "SOURCE=real")
    assert (scripts_of(done), words in done.stdout) == (EVERYTHING, False)
    assert scripts_of(make(stand_in, "all", "SEED=1")) == []


def test_an_interrupted_training_resumes_unless_something_is_newer(stand_in):
    state, record = (stand_in / "artifacts" / f"q2_fcn.{kind}" for kind in ("resume.pt", "json"))

    def resumes():
        return "--resume=if-same" in make(stand_in, "-n", "fcn", "EPOCHS=3").stdout

    assert not resumes()
    state.write_text("x")
    assert resumes()
    os.utime(record)  # a run has finished since
    assert not resumes()
    record.unlink()
    assert resumes()
    os.utime(stand_in / "common" / "__init__.py")
    assert not resumes()


def test_the_scripts_take_what_make_gives_them(finished):
    galaxies = {"DATA": "my galaxies.h5", "SPLIT": "file", "MAIN_TRAIN": "200", "TRANSFER_TRAIN": "40"}
    synthetic = {"SOURCE": "synthetic", "DATASET": "decals", "COUNT": "500"}
    common = {"OUT": "other", "SEED": "5", "DEVICE": "cpu", "EPOCHS": "3"}
    for variables in (common | galaxies | {"HOLD_BACK": "a, b; c"}, common | synthetic):
        done = make(finished, "-n", "all", *(f"{key}={value}" for key, value in variables.items()))
        commands = [shlex.split(line) for line in done.stdout.splitlines() if " q" in line]
        assert [script for _, script, *_ in commands] == [f"{name}.py" for name in QUESTIONS]
        options = {}
        for _, script, *args in commands:
            options |= vars(importlib.import_module(script.removesuffix(".py")).get_args(args))
        for key, value in variables.items():
            assert str(options[key.lower()]) == value


def test_the_notebook_runs_on_the_file_given_or_on_q1s(finished):
    assert "--data 'my own.h5'" in make(finished, "-n", "notebook", "DATA=my own.h5").stdout
    done = make(finished, "-n", "notebook", "SEED=1")
    assert scripts_of(done) == ["q1_data"]
    assert "--data" not in done.stdout


def test_every_requirement_has_a_lower_bound_which_test_oldest_installs():
    text = "".join(path.read_text() for path in ROOT.glob("requirements*.txt"))
    lines = [line for line in text.splitlines() if not line.startswith(("-r ", "#"))]
    assert all(re.fullmatch(r"[a-z0-9-]+>=[0-9.]+", line) for line in lines)


def test_help_lists_every_target_and_variable():
    text, makefile = make(ROOT, "help").stdout, (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY:(.*)", makefile, re.MULTILINE)[1].split())
    assert {"all", "smoke", "studies"} < targets
    assert all(f"  make {target} " in text for target in targets - {"FORCE"})
    variables = re.findall(r"^([A-Z_]+) *=.*## ", makefile, re.MULTILINE)
    assert {"PYTHON", "SEEDS"} < set(variables)
    assert all(f"  {variable} = " in text for variable in variables)


def test_clean_removes_what_was_made_and_nothing_else(stand_in):
    out = stand_in / "artifacts"
    for name in ["q2_fcn.resume.pt", ".q2_fcn.lock", "synthetic.h5", ".synthetic.lock", "playground.html", "notes.txt"]:
        (out / name).write_text("x")
    for refused in ("", "two words", "it's", "a:b", "~bob/x"):
        done = make(stand_in, "clean", f"OUT={refused}")
        assert (done.returncode, done.stdout) == (2, "")
        assert f"OUT='{refused}' must name one folder" in done.stderr
    assert make(stand_in, "clean").returncode == 0
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    (out / "notes.txt").unlink()
    assert make(stand_in, "clean").returncode == 0
    assert not out.exists()
