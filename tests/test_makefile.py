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
MAKE = ["make", "--no-print-directory", f"PYTHON={sys.executable}"]


def make(folder, *args, **environment):
    """Run make in a copy of the project, with the Python of the tests."""
    env = ALONE | environment
    return subprocess.run([*MAKE, *args], cwd=folder, capture_output=True, text=True, timeout=300, env=env, check=False)


def asked(done):
    """The scripts a make ran or, with -n, would run."""
    assert done.returncode == 0, done.stderr
    return [name for line in done.stdout.splitlines() for name in EVERYTHING if f" {name}.py " in line]


# Writes the files of a question with the options it is given, as the real scripts record them.
STAND_IN = """\
import json, os, sys, time
from pathlib import Path
name, given = Path(sys.argv[0]).stem, [word for word in sys.argv[1:] if word != "--resume=if-same"]
given = {key[2:].replace("-", "_"): value for key, value in zip(given[::2], given[1::2], strict=True)}
open("runs.log", "a").write(f"{name} begins\\n")
defaults = dict.fromkeys("data dataset count hold_back split main_train transfer_train".split()) | {"source": "auto"}
training = {"device": "auto"} | ({} if name == "q4_confusion" else {"epochs": 50})
defaults = {"seed": 0} | (defaults if name == "q1_data" else training)
out = Path(given["out"])
out.mkdir(exist_ok=True)
if os.environ.get("FAILS") == name:
    sys.exit("error: another run is writing there")
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
    assert asked(make(folder, "all")) == EVERYTHING
    assert make(folder, "all").stdout == "make: Nothing to be done for 'all'.\n"
    return folder


@pytest.fixture
def stand_in(finished, tmp_path):
    """Such a folder for a test alone."""
    return shutil.copytree(finished, tmp_path / "project")


@pytest.mark.parametrize(("variable", "expected"), [
    ("SEED=1", EVERYTHING), ("MAIN_TRAIN=100", EVERYTHING), ("TRANSFER_TRAIN=9", EVERYTHING), ("COUNT=500", EVERYTHING),
    ("SOURCE=synthetic", EVERYTHING), ("DATASET=decals", EVERYTHING), ("SPLIT=file", EVERYTHING), ("SEED=0", []),
    ("DATA=some.h5", EVERYTHING), ("HOLD_BACK=none", EVERYTHING), ("EPOCHS=3", TRAININGS), ("EPOCHS=50", []),
    ("EPOCHS=", []), ("DEVICE=cpu", TRAININGS), ("SEEDS=3", [])])  # fmt: skip
def test_each_variable_redoes_what_depends_on_it(finished, variable, expected):
    assert asked(make(finished, "-n", "all", variable)) == expected


@pytest.mark.parametrize(("path", "expected"), [
    ("q3_cnn.py", ["q3_cnn", "q4_confusion", "q5_transfer", "summary"]), ("q5_transfer.py", ["q5_transfer", "summary"]),
    ("summary.py", ["summary"]), ("common/storage/stale.py", EVERYTHING)])  # fmt: skip
def test_a_changed_script_or_module_redoes_what_depends_on_it(stand_in, path, expected):
    os.utime(stand_in / path)
    assert asked(make(stand_in, "-n", "all")) == expected


def test_what_has_been_redone_is_done(stand_in):
    assert asked(make(stand_in, "all", "SEED=1", "EPOCHS=3")) == EVERYTHING
    assert asked(make(stand_in, "all", "SEED=1", "EPOCHS=3")) == []
    assert asked(make(stand_in, "all", "SEED=1", "DEVICE=cpu")) == TRAININGS
    assert asked(make(stand_in, "all", "SEED=1")) == []  # DEVICE=auto takes the results of any device
    shutil.copytree(stand_in / "artifacts", stand_in / "copy")  # with the times of its files
    assert asked(make(stand_in, "-n", "all", "SEED=1", "OUT=copy")) == []
    assert asked(make(stand_in, "all", "OUT=data")) == EVERYTHING  # a folder with the name of a target


def test_options_are_compared_with_those_given_and_else_with_the_defaults(tmp_path):
    def is_stale(args, *given):
        defaults = {"epochs": 50, "lr": 0.001, "dropout": 0.0, "device": "auto", "source": "auto", "symmetries": False}
        record = {"args": defaults | args, "defaults": defaults, "files": []}
        (tmp_path / "q2_fcn.json").write_text(json.dumps(record))
        words = ["-S", "-m", "common.storage.stale", "--out", str(tmp_path), *given]
        named = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return {"q2_fcn\n": True, "\n": False}[named]

    assert not is_stale({}, "--epochs", "50", "--count", "7")  # --count is another script's
    assert not is_stale({"epochs": 30, "out": "elsewhere", "resume": "always"}, "--epochs", "30")
    assert is_stale({}, "--epochs", "30")
    assert is_stale({"epochs": 30})
    assert is_stale({"dropout": 0.5})
    assert is_stale({}, "--symmetries")
    assert not is_stale({"symmetries": True}, "--symmetries")
    assert not is_stale({"device": "cpu"}, "--device", "auto")
    assert is_stale({"device": "cpu"}, "--device", "cuda")
    assert not is_stale({"source": "real"})  # after SOURCE=real, make all has nothing to do
    assert is_stale({"source": "synthetic"})


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"args": {}}', '{"args": 3, "defaults": {}, "files": []}'])
def test_a_record_that_does_not_tell_its_options_is_made_again(tmp_path, content):
    (tmp_path / "q2_fcn.json").write_text(content)
    assert stale.is_stale(tmp_path / "q2_fcn.json", {})


def test_a_lost_file_is_made_again(stand_in):
    for lost in ("q2_fcn.pt", "q5_transfer.png", "q5_transfer.json"):
        (stand_in / "artifacts" / lost).unlink()
        assert asked(make(stand_in, "all"))[0] == lost.partition(".")[0]
        assert asked(make(stand_in, "all")) == []


def test_where_nothing_can_check_the_results_make_stops(stand_in, tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    done = make(stand_in, "all", "SEED=1", f"PYTHON={broken}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Cannot check whether artifacts is up to date" in done.stderr
    assert "make all" in make(stand_in, "help", f"PYTHON={broken}").stdout


def test_data_of_any_name_is_handed_over_and_watched(stand_in):
    name = 'it\'s "one"  two;touch harm.h5&b(c).h5'
    data = stand_in / name
    data.write_text("x")
    assert asked(make(stand_in, "data", f"DATA={name}")) == ["q1_data"]
    assert json.loads((stand_in / "artifacts" / "q1_data.json").read_text())["args"]["data"] == name
    assert asked(make(stand_in, "data", f"DATA={name}")) == []
    os.utime(data)
    assert asked(make(stand_in, "data", f"DATA={name}")) == ["q1_data"]
    assert not (stand_in / "harm.h5").exists()


def test_out_and_data_may_begin_with_a_tilde(stand_in):
    home = stand_in / "home"
    home.mkdir()
    (home / "a.h5").touch()
    assert asked(make(stand_in, "data", "OUT=~/x", f"DATA={home}/a.h5", HOME=str(home))) == ["q1_data"]
    assert (home / "x" / "q1_data.json").is_file()
    assert asked(make(stand_in, "data", "OUT=~/x", "DATA=~/a.h5", HOME=str(home))) == []


@pytest.mark.parametrize("out", ["", "two words", "it's", "a:b", "~bob/x"])
def test_an_out_that_make_cannot_handle_is_refused(finished, out):
    done = make(finished, "clean", f"OUT={out}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"OUT='{out}' must name one folder" in done.stderr


def test_whatever_j_says_one_question_runs_at_a_time(stand_in):
    (stand_in / "runs.log").unlink()
    assert asked(make(stand_in, "-j8", "all", "SEED=1")) == EVERYTHING
    expected = [f"{name} {moment}" for name in QUESTIONS for moment in ("begins", "ends")]
    assert (stand_in / "runs.log").read_text().splitlines() == expected


def test_a_run_that_failed_counts_as_not_done_and_ends_make(stand_in):
    done = make(stand_in, "all", "EPOCHS=3", FAILS="q2_fcn")
    assert done.returncode == 2
    assert "q3_cnn.py" not in done.stdout
    assert asked(make(stand_in, "fcn", "EPOCHS=3")) == ["q2_fcn"]


def test_without_classes_held_back_make_ends_after_q4(stand_in):
    without = [name for name in EVERYTHING if name != "q5_transfer"]
    done = make(stand_in, "all", "HOLD_BACK=none")
    assert asked(done) == without
    assert "No classes are held back (HOLD_BACK): there is no Q5." in done.stdout
    assert asked(make(stand_in, "all", "HOLD_BACK=none")) == []
    assert asked(make(stand_in, "all", "HOLD_BACK=none", "EPOCHS=3")) == without[1:]
    assert asked(make(stand_in, "all", "HOLD_BACK=8,9", "EPOCHS=3")) == EVERYTHING


def test_make_says_how_to_download_again_after_a_fallback(stand_in):
    words = "because the download failed: make all SOURCE=real tries again"
    assert words in make(stand_in, "all", "SEED=1", FALLS_BACK="1").stdout
    done = make(stand_in, "all", "SEED=1")
    assert (asked(done), words in done.stdout) == ([], True)
    done = make(stand_in, "all", "SEED=1", "SOURCE=real")
    assert (asked(done), words in done.stdout) == (EVERYTHING, False)
    assert asked(make(stand_in, "all", "SEED=1")) == []


def test_an_interrupted_training_resumes_unless_something_is_newer(stand_in):
    out = stand_in / "artifacts"
    planned = lambda *args: make(stand_in, "-n", "fcn", *args).stdout  # noqa: E731
    assert "--resume" not in planned("EPOCHS=3")
    (out / "q2_fcn.resume.pt").write_text("x")
    assert "--resume=if-same" in planned("EPOCHS=3")
    os.utime(out / "q2_fcn.json")  # a run has finished since
    assert "--resume" not in planned("EPOCHS=3")
    (out / "q2_fcn.json").unlink()
    assert "--resume=if-same" in planned()
    os.utime(stand_in / "common" / "__init__.py")
    assert "--resume" not in planned()


def test_the_scripts_take_what_make_gives_them(finished):
    galaxies = {"DATA": "my galaxies.h5", "SPLIT": "file", "MAIN_TRAIN": "200", "TRANSFER_TRAIN": "40",
                "HOLD_BACK": "a, b; c"}  # fmt: skip
    synthetic = {"SOURCE": "synthetic", "DATASET": "decals", "COUNT": "500"}
    common = {"OUT": "other", "SEED": "5", "DEVICE": "cpu", "EPOCHS": "3"}
    for variables in (common | galaxies, common | synthetic):
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
    assert asked(done) == ["q1_data"]
    assert "--data" not in done.stdout


def test_a_venv_whose_python_is_gone_is_created_again(finished, tmp_path):
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(finished / name, tmp_path / name)
    link, fake = tmp_path / ".venv" / "bin" / "python", tmp_path / "bin" / "python3"
    for path in (link, fake):
        path.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "gone")
    (tmp_path / ".venv" / "requirements.installed").touch()
    fake.write_text(f'#!/bin/sh\necho "$PIP_USER $*" >> {tmp_path}/log\n'
                    f'case "$*" in *venv*) ln -sf {fake} {link}; exit $VENV_FAILS;; esac\n')  # fmt: skip
    fake.chmod(0o755)
    environment = ALONE | {"PATH": f"{fake.parent}:{os.environ['PATH']}"}
    run = lambda status: subprocess.run(["make", ".venv/requirements.installed"], cwd=tmp_path, check=False,  # noqa: E731
                                        capture_output=True, env=environment | {"VENV_FAILS": str(status)})  # fmt: skip
    for status in (1, 0, 0):  # it fails, it succeeds, and there is nothing to do
        assert (run(status).returncode == 0) == (status == 0)
    commands = [line for line in (tmp_path / "log").read_text().splitlines() if " -c " not in line]
    venv, pip = " -m venv --clear .venv", "0 -m pip install --quiet --requirement requirements.txt"
    assert commands == [venv, venv, pip]


def test_every_requirement_has_a_lower_bound_which_test_oldest_installs():
    text = "".join(path.read_text() for path in ROOT.glob("requirements*.txt"))
    lines = [line for line in text.splitlines() if not line.startswith(("-r ", "#"))]
    assert all(re.fullmatch(r"[a-z0-9-]+>=[0-9.]+", line) for line in lines)


def test_lint_leaves_out_the_notebooks_that_make_writes(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    cell = {"cell_type": "code", "source": "import os", "metadata": {}, "outputs": [], "execution_count": None}
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "efigi").mkdir()
    (tmp_path / "efigi" / "skeleton.ipynb").write_text(json.dumps(notebook))
    ruff = [sys.executable, "-m", "ruff", "check", "."]
    assert subprocess.run(ruff, cwd=tmp_path, capture_output=True, check=False).returncode == 0


def test_help_lists_every_target_and_variable():
    text, makefile = make(ROOT, "help").stdout, (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY:(.*)", makefile, re.MULTILINE)[1].split())
    assert {"all", "smoke", "studies"} < targets
    for target in targets - {"FORCE"}:
        assert f"  make {target} " in text
    variables = re.findall(r"^([A-Z_]+) *=.*## ", makefile, re.MULTILINE)
    assert {"PYTHON", "SEEDS"} < set(variables)
    for variable in variables:
        assert f"  {variable} = " in text


def test_clean_removes_what_was_made_and_nothing_else(stand_in):
    out = stand_in / "artifacts"
    for name in ["q2_fcn.resume.pt", ".q2_fcn.lock", "synthetic.h5", ".synthetic.lock", "playground.html", "notes.txt"]:
        (out / name).write_text("x")
    assert make(stand_in, "clean").returncode == 0
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    (out / "notes.txt").unlink()
    assert make(stand_in, "clean").returncode == 0
    assert not out.exists()
