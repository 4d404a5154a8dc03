"""The Makefile: what is redone when, and what it needs. Stand-ins for the scripts, which take no time, do for most."""

import importlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

from common.storage import packages, stale
from common.storage.stale import DEFAULTS, NO_SETTINGS

import pytest
from conftest import ROOT, heed_ctrl_c, run_well, write_galaxy10
from forked import start
from packaging.version import Version

QUESTIONS = ("q1_data", "q2_fcn", "q3_cnn", "q4_confusion", "q5_transfer")
EVERYTHING = [*QUESTIONS, "summary"]
TRAININGS = ["q2_fcn", "q3_cnn", "q4_confusion", "q5_transfer", "summary"]

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


# Stands in for a script: writes its files in no time, with the options that the real one would record.
STAND_IN = """\
import json, os, sys, time
from pathlib import Path
from common.storage.stale import DEFAULTS
name, given = Path(sys.argv[0]).stem, [a for a in sys.argv[1:] if a != "--resume=if-same"]
given = {key[2:].replace("-", "_"): value for key, value in zip(given[::2], given[1::2], strict=True)}
open("runs.log", "a").write(f"{name} begins\\n")
args = DEFAULTS[name] | {key: int(value) if value.isdecimal() else value for key, value in given.items()}
out = Path(args["out"])
out.mkdir(exist_ok=True)
if os.environ.get("FAILS") == name:
    sys.exit("error: another run is writing there")
for kind in ("png",) if name == "q4_confusion" else ("pt", "png"):
    (out / f"{name}.{kind}").write_text("x")
counts = {"transfer_train": [] if args.get("hold_back") == "none" else [9, 9]}
(out / f"{name}.json").write_text(json.dumps({"args": args, "counts": counts}))
time.sleep(0.05)
open("runs.log", "a").write(f"{name} ends\\n")
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A copy of the Makefile with stand-ins, in which everything has been made: only to be looked at."""
    folder = tmp_path_factory.mktemp("finished") / "project"
    (folder / "common" / "storage").mkdir(parents=True)
    modules = ("__init__", "storage/__init__", "storage/stale", "storage/packages")
    for name in ("Makefile", "requirements.txt", *(f"common/{module}.py" for module in modules)):
        shutil.copy(ROOT / name, folder / name)
    for name in QUESTIONS:
        (folder / f"{name}.py").write_text(STAND_IN)
    (folder / "summary.py").write_text("import sys; open(sys.argv[2] + '/summary.txt', 'w')")
    assert asked(make(folder, "all")) == EVERYTHING
    done = make(folder, "all")
    assert asked(done) == []
    assert "Nothing to be done for 'all'" in done.stdout
    return folder


@pytest.fixture
def stand_in(finished, tmp_path):
    """Such a folder for a test alone."""
    return shutil.copytree(finished, tmp_path / "project")


@pytest.mark.parametrize(("variable", "expected"), [
    ("SEED=1", EVERYTHING), ("MAIN_TRAIN=100", EVERYTHING), ("TRANSFER_TRAIN=9", EVERYTHING), ("COUNT=500", EVERYTHING),
    ("SOURCE=synthetic", EVERYTHING), ("DATASET=decals", EVERYTHING), ("SPLIT=file", EVERYTHING),
    ("DATA=some.h5", EVERYTHING), ("HOLD_BACK=none", EVERYTHING),
    ("EPOCHS=3", TRAININGS), ("DEVICE=cpu", TRAININGS),
    ("CALIBRATE=0.1", ["q3_cnn", "q4_confusion", "q5_transfer", "summary"]),
    ("PRECISION=bf16", TRAININGS), ("EPOCHS=", [])])  # fmt: skip
def test_each_variable_redoes_what_depends_on_it(finished, variable, expected):
    assert asked(make(finished, "-n", "all", variable)) == expected


@pytest.mark.parametrize(("path", "expected"), [
    ("q3_cnn.py", ["q3_cnn", "q4_confusion", "q5_transfer", "summary"]),
    ("q4_confusion.py", ["q4_confusion", "summary"]), ("q5_transfer.py", ["q5_transfer", "summary"]),
    ("summary.py", ["summary"]), ("common/storage/stale.py", EVERYTHING)])  # fmt: skip
def test_a_changed_script_or_module_redoes_what_depends_on_it(stand_in, path, expected):
    os.utime(stand_in / path)
    assert asked(make(stand_in, "-n", "all")) == expected


def test_what_has_been_redone_is_done(stand_in):
    assert asked(make(stand_in, "all", "SEED=1", "EPOCHS=3")) == EVERYTHING
    assert asked(make(stand_in, "all", "SEED=1", "EPOCHS=3")) == []
    assert asked(make(stand_in, "all", "SEED=1", "DEVICE=cpu")) == TRAININGS
    assert (
        asked(make(stand_in, "-n", "all", "SEED=1")) == []
    )  # what another device has computed is good enough for auto
    shutil.copytree(stand_in / "artifacts", stand_in / "copy")  # with the times of its files
    assert asked(make(stand_in, "-n", "all", "SEED=1", "OUT=copy")) == []  # where the files lie is no setting
    assert asked(make(stand_in, "all", "OUT=data")) == EVERYTHING  # a folder named like a target


def test_out_may_begin_with_the_home_folder(stand_in):
    home = stand_in / "home"
    home.mkdir()
    assert asked(make(stand_in, "data", "OUT=~/x", HOME=str(home))) == ["q1_data"]
    assert (home / "x" / "q1_data.json").is_file()
    assert asked(make(stand_in, "data", "OUT=~/x", HOME=str(home))) == []
    assert not (stand_in / "~").exists()
    make(stand_in, "data", "OUT=~", HOME=str(home))
    assert (home / "q1_data.json").is_file()
    for out in ("~bob/x", "~bob"):
        assert f"OUT='{out}' must name one folder" in make(stand_in, "data", f"OUT={out}").stderr


def test_data_and_python_may_begin_with_the_home_folder(stand_in):
    home = stand_in / "home"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (home / "bin" / "python").chmod(0o755)
    (home / "two  words.h5").write_text("x")
    variables = "DATA=~/two  words.h5", "PYTHON=~/bin/python", "SHELL=/bin/sh"
    done = make(stand_in, "-n", "data", *variables, HOME=str(home))
    [*_, (python, _, *args)] = [shlex.split(line) for line in done.stdout.splitlines() if " q1_data.py " in line]
    assert python == f"{home}/bin/python"
    out = stand_in / "artifacts"
    record = json.loads((out / "q1_data.json").read_text())
    script = importlib.import_module("q1_data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        record["args"]["data"] = script.get_args(args).data  # what the script records
    assert record["args"]["data"] == f"{home}/two  words.h5"
    (out / "q1_data.json").write_text(json.dumps(record))
    assert asked(make(stand_in, "-n", "data", *variables, HOME=str(home))) == []
    os.utime(home / "two  words.h5")
    assert asked(make(stand_in, "-n", "data", *variables, HOME=str(home))) == ["q1_data"]


def test_where_nothing_can_check_the_results_make_stops(stand_in, tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    for targets in (["all", "SEED=1"], ["all"], ["-n", "cnn"]):
        done = make(stand_in, *targets, f"PYTHON={broken}")
        assert done.returncode == 2
        assert done.stdout == ""
        assert "Cannot check whether artifacts is up to date" in done.stderr
    assert "make all" in make(stand_in, "help", f"PYTHON={broken}").stdout
    assert make(stand_in, "clean", f"PYTHON={broken}").returncode == 0
    assert not (stand_in / "artifacts").exists()


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
    assert asked(make(stand_in, "fcn", "EPOCHS=3")) == []


def test_a_lost_file_is_made_again(stand_in):
    out = stand_in / "artifacts"
    for path in sorted({*out.glob("q*.*")} - {*out.glob("*.json")}):
        path.unlink()
        assert stale.reasons(path.stem, out, {}) == [f"{path.name} is missing"]
        path.touch()
    (out / "q5_transfer.png").unlink()
    assert asked(make(stand_in, "all")) == ["q5_transfer", "summary"]
    (out / "q5_transfer.json").unlink()
    assert asked(make(stand_in, "all")) == ["q5_transfer", "summary"]
    assert asked(make(stand_in, "all")) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"args": 3}', '{"args": {}}', "[" * 100_000])
def test_a_record_that_does_not_tell_its_options_is_made_again(tmp_path, content):
    (tmp_path / "q4_confusion.png").touch()
    (tmp_path / "q4_confusion.json").write_text(content)
    assert stale.reasons("q4_confusion", tmp_path, {}) != []


@pytest.mark.parametrize("name", ["two  words/with space.h5", 'it\'s "one";touch harm.h5&b(c).h5'])
def test_data_of_any_name_is_handed_over_and_watched(stand_in, name):
    path = stand_in / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")
    assert asked(make(stand_in, "data", f"DATA={name}")) == ["q1_data"]
    assert json.loads((stand_in / "artifacts" / "q1_data.json").read_text())["args"]["data"] == name
    assert asked(make(stand_in, "data", f"DATA={name}")) == []
    os.utime(path)
    assert asked(make(stand_in, "data", f"DATA={name}")) == ["q1_data"]
    assert not (stand_in / "harm.h5").exists()


def test_without_classes_held_back_make_ends_after_q4_and_says_so(stand_in):
    without = [name for name in EVERYTHING if name != "q5_transfer"]
    done = make(stand_in, "all", "HOLD_BACK=none")
    assert asked(done) == without
    assert "No classes are held back (HOLD_BACK), so make ends after Q4.\n" in done.stdout
    assert "Nothing to be done for 'all'" in make(stand_in, "all", "HOLD_BACK=none").stdout
    done = make(stand_in, "all", "HOLD_BACK=none", "EPOCHS=3")
    assert asked(done) == ["q2_fcn", "q3_cnn", "q4_confusion", "summary"]
    assert asked(make(stand_in, "-n", "transfer", "HOLD_BACK=none", "EPOCHS=3")) == [
        "q5_transfer"
    ]  # which says why not
    assert asked(make(stand_in, "all", "HOLD_BACK=8,9", "EPOCHS=3")) == EVERYTHING
    assert asked(make(stand_in, "all", "HOLD_BACK=8,9", "EPOCHS=3")) == []


@pytest.mark.parametrize("out", ["", "two words", "it's"])
def test_an_out_that_is_no_name_of_a_folder_is_refused(finished, out):
    for target in ("clean", "all"):
        done = make(finished, target, f"OUT={out}")
        assert (done.returncode, done.stdout) == (2, "")
        assert f"OUT='{out}' must name one folder" in done.stderr


def test_an_interrupted_training_resumes_unless_something_is_newer(stand_in):
    out = stand_in / "artifacts"
    state, record = out / "q2_fcn.resume.pt", out / "q2_fcn.json"
    state.write_text("x")
    planned = lambda *args: make(stand_in, "-n", "fcn", *args).stdout  # noqa: E731
    assert "--resume=if-same" in planned("EPOCHS=3")
    os.utime(record)  # a run has finished since
    assert planned("EPOCHS=3")
    assert "--resume" not in planned("EPOCHS=3")
    record.unlink()
    assert "--resume=if-same" in planned()
    os.utime(stand_in / "common" / "storage" / "packages.py")
    assert planned()
    assert "--resume" not in planned()


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_defaults_looked_up_are_those_of_the_script(name):
    defaults = vars(importlib.import_module(name).get_args([]))
    assert {key: value for key, value in defaults.items() if key not in NO_SETTINGS} == DEFAULTS[name]


def test_the_scripts_take_what_make_gives_them(finished):
    galaxies = {"DATA": "my galaxies.h5", "SPLIT": "file", "MAIN_TRAIN": "200", "TRANSFER_TRAIN": "40",
                "HOLD_BACK": "a, b; c"}  # fmt: skip
    training = {"EPOCHS": "3", "PRECISION": "bf16", "CALIBRATE": "0.1"}
    synthetic = {"SOURCE": "synthetic", "DATASET": "decals", "COUNT": "500"}
    common = {"OUT": "other", "SEED": "5", "DEVICE": "cpu"}
    for variables in (common | galaxies | training, common | synthetic):
        done = make(finished, "-n", "all", *(f"{key}={value}" for key, value in variables.items()))
        commands = [shlex.split(line) for line in done.stdout.splitlines() if " q" in line]
        assert [script for _, script, *_ in commands] == [f"{name}.py" for name in QUESTIONS]
        options = {}
        for _, script, *args in commands:
            options |= vars(importlib.import_module(script.removesuffix(".py")).get_args(args))
        for key, value in variables.items():
            assert str(options[key.lower()]) == value


def test_values_are_compared_as_what_they_were_recorded():
    recorded = DEFAULTS["q2_fcn"] | {"epochs": 30, "seed": 2**63 - 1}
    given = {"epochs": "030", "seed": str(2**63 - 1), "lr": "1e-3"}
    assert stale.differences(recorded, "q2_fcn", given) == []
    assert stale.differences(recorded, "q2_fcn", given | {"seed": str(2**63 - 2)}) == [
        f"--seed was {2**63 - 1}, not {2**63 - 2}"]  # fmt: skip
    assert stale.differences(recorded | {"lr": 0.01}, "q2_fcn", given) == ["--lr was 0.01, not 1e-3"]
    assert stale.differences(recorded | {"device": "cpu"}, "q2_fcn", given) == []
    assert stale.differences(recorded | {"device": "cpu"}, "q2_fcn", given | {"device": "cuda"}) != []
    assert stale.differences(recorded, "q2_fcn", given | {"epochs": "many"}) == ["--epochs was 30, not many"]


def test_lint_checks_the_projects_own_files_and_not_what_a_run_wrote_beside_them(stand_in):
    (stand_in / "efigi").mkdir()  # by make notebook OUT=efigi
    check, layout = (line.split() for line in make(stand_in, "-n", "lint").stdout.splitlines())
    assert check[1:4] + layout[1:5] == ["-m", "ruff", "check", "-m", "ruff", "format", "--check"]
    assert sorted(check[4:]) == sorted(layout[5:]) == sorted(["common", *(f"{name}.py" for name in EVERYTHING)])


def test_the_notebook_runs_on_an_hdf5_file_or_on_what_q1_has_read(stand_in):
    def planned(*variables):
        done = make(stand_in, "-n", "notebook", *variables)
        return asked(done), shlex.split(done.stdout.splitlines()[-1])

    questions, command = planned("DATA=my own.h5")
    assert (questions, command[command.index("--data") + 1]) == ([], "my own.h5")
    questions, command = planned("SEED=1")
    assert (questions, command[1:4]) == (["q1_data"], ["-m", "notebook.build", "submission"])
    assert "--data" not in command


def test_every_requirement_has_a_lower_bound_which_test_oldest_installs():
    text = "".join(path.read_text() for path in ROOT.glob("requirements*.txt"))
    lines = [line for line in text.splitlines() if not line.startswith(("-r ", "#"))]
    assert all(re.fullmatch(r"[a-z0-9-]+>=[0-9.]+", line) for line in lines)


@pytest.mark.parametrize("text", ["2.6.0+cpu", "1.26", "3", "2.14.1", "0.29.1.post2"])
def test_release_numbers_are_those_of_the_packaging_library(text):
    assert packages.release(text)[: len(Version(text).release)] == list(Version(text).release)


@pytest.mark.parametrize(("requirement", "met"), [
    ("pytest>=8", True), ("pytest", True), ("pytest>=1000", False), ("no-such-package>=1", False)])  # fmt: skip
def test_a_requirement_is_met_by_a_version_that_is_new_enough(requirement, met):
    assert packages.is_met(requirement) == met


def test_make_names_what_is_missing_with_the_pip_command_and_runs_nothing(tmp_path):
    for name in ("Makefile", "common"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "requirements.txt").write_text("h5py>=3\nno-such-package>=1.5\npytest>=1000\n")
    done = make(tmp_path, "all")
    assert (done.returncode, done.stdout) == (2, "")
    install = f'{sys.executable} -m pip install "no-such-package>=1.5" "pytest>=1000"'
    assert len(done.stderr.splitlines()) == 1
    assert f"packages are missing or too old: {install}" in done.stderr
    assert make(tmp_path, "help").returncode == 0


def test_make_goes_on_after_ctrl_c_and_after_a_kill(tmp_path):
    data, out, log = write_galaxy10(tmp_path / "galaxies.h5", count=300), tmp_path / "artifacts", tmp_path / "log"
    run_well("q1_data.py", "--data", data, "--out", out)
    settings = ("fcn", f"DATA={data}", f"OUT={out}", "EPOCHS=10000", "DEVICE=cpu")
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    options = {"cwd": ROOT, "env": ALONE, "start_new_session": True, "preexec_fn": heed_ctrl_c}
    with subprocess.Popen([*MAKE, *settings], **pipe, **options) as process:
        while not (line := process.stdout.readline()).startswith("epoch   3"):
            assert line
        os.killpg(process.pid, signal.SIGINT)
        errors = process.communicate()[1]
    sentence = r"^interrupted; to resume: python q2_fcn.py .* --resume \(or the same make again\)$"
    assert re.search(sentence, errors, re.MULTILINE)
    for _ in range(2):  # after Ctrl-C, and after a kill
        _, script, *args = shlex.split(make(ROOT, "-n", *settings).stdout)
        resumed = start(script, *args, log=log)
        while not (log.exists() and "epoch" in log.read_text()):
            assert resumed.is_alive()
            time.sleep(0.05)
        resumed.kill()
        resumed.join()
        # The state is saved once a second: in the first run after its first epoch at least.
        assert re.search(r"^Resuming \S+/q2_fcn.resume.pt: [1-9]\d* of 10,?000 epochs", log.read_text(), re.MULTILINE)
        log.unlink()
    assert not (out / "q2_fcn.json").exists()


def test_help_lists_every_target_and_variable():
    text, makefile = make(ROOT, "help").stdout, (ROOT / "Makefile").read_text()
    targets = {target for line in re.findall(r"^\.PHONY:(.*)", makefile, re.MULTILINE) for target in line.split()}
    assert {"all", "smoke", "studies"} < targets
    for target in targets - {"FORCE"}:
        assert f"  make {target} " in text
    variables = re.findall(r"^([A-Z_]+) *=.*## ", makefile, re.MULTILINE)
    assert {"PYTHON", "PRECISION", "SEEDS"} < set(variables)
    for variable in variables:
        assert f"  {variable} = " in text


def test_without_venv_one_line_says_what_to_install(stand_in, tmp_path):
    fake = tmp_path / "bin" / "python3"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    fake.chmod(0o755)
    environment = ALONE | {"PATH": f"{fake.parent}:{os.environ['PATH']}"}
    command = ["make", "all", "SEED=1"]
    done = subprocess.run(command, cwd=stand_in, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "install the package python3-venv" in errors[0]
    assert not (stand_in / ".venv").exists()


def test_clean_removes_what_was_made_and_nothing_else(stand_in):
    out = stand_in / "artifacts"
    made = "q2_fcn.resume.pt .q2_fcn.lock synthetic.h5 .synthetic.lock playground.html"
    for name in [*made.split(), "notes.txt"]:
        (out / name).write_text("x")
    assert make(stand_in, "clean").returncode == 0
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    (out / "notes.txt").unlink()
    assert make(stand_in, "clean").returncode == 0
    assert not out.exists()
