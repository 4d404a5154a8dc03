"""The Makefile: what is redone when."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, heed_ctrl_c, run_well, write_galaxy10

from common.defaults import DEFAULTS, NO_SETTINGS
from common.storage import stale

QUESTIONS = ("q1_data", "q2_fcn", "q3_cnn", "q4_confusion", "q5_transfer")


# Not a part of the make that may be running these tests.
ALONE = {key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key != "MFLAGS"}


MAKE = ["make", "--no-print-directory", f"PYTHON={sys.executable}"]


def make(folder, *args):
    """Run make in a copy of the project, with the Python of the tests."""
    command = [*MAKE, *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, env=ALONE, check=False)


def asked(done):
    """The scripts a make ran or, with -n, would run."""
    assert done.returncode == 0, done.stderr
    return [name for line in done.stdout.splitlines() for name in (*QUESTIONS, "summary") if f" {name}.py " in line]


def copy_project(folder):
    for name in ("Makefile", "requirements.txt", "common", "summary.py", *(f"{name}.py" for name in QUESTIONS)):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    write_galaxy10(folder / "galaxies.h5", count=300)
    return folder


SETTINGS = ("DATA=galaxies.h5", "MAIN_TRAIN=200", "TRANSFER_TRAIN=40", "DEVICE=cpu", "EPOCHS=30")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project in which everything has been made."""
    folder = copy_project(tmp_path_factory.mktemp("project"))
    done = make(folder, "-j2", "all", *SETTINGS)
    assert asked(done)[:3] == ["q1_data", "q2_fcn", "q3_cnn"]
    assert (folder / "artifacts" / "summary.txt").read_text() in done.stdout
    return folder


def would_run(folder, *args):
    return asked(make(folder, "-n", "all", *SETTINGS, *args))


def touched(folder, name):
    """What make would run if the file were changed; and the file put back."""
    path = folder / name
    before = path.stat()
    os.utime(path)
    try:
        return would_run(folder)
    finally:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_second_make_does_nothing(project):
    done = make(project, "all", *SETTINGS)
    assert "Nothing to be done for 'all'" in done.stdout
    assert make(project, "-q", "all", *SETTINGS).returncode == 0


def test_a_changed_script_or_module_redoes_what_depends_on_it(project):
    assert touched(project, "q5_transfer.py") == ["q5_transfer", "summary"]
    assert sorted(touched(project, "q4_confusion.py")) == ["q4_confusion", "q5_transfer", "summary"]
    assert sorted(touched(project, "q3_cnn.py")) == ["q3_cnn", "q4_confusion", "q5_transfer", "summary"]
    assert touched(project, "summary.py") == ["summary"]
    assert sorted(touched(project, "common/galaxies/synthetic.py")) == sorted([*QUESTIONS, "summary"])
    assert sorted(touched(project, "galaxies.h5")) == sorted([*QUESTIONS, "summary"])


def test_a_changed_variable_redoes_what_depends_on_it(project):
    assert would_run(project) == []
    assert sorted(would_run(project, "SEED=1")) == sorted([*QUESTIONS, "summary"])
    assert "q1_data" not in would_run(project, "EPOCHS=2")
    assert {"q2_fcn", "q3_cnn", "q5_transfer"} <= set(would_run(project, "EPOCHS=2"))
    assert "q1_data" in would_run(project, "MAIN_TRAIN=150")


def test_a_lost_file_is_made_again(project):
    picture = project / "artifacts" / "q5_transfer.png"
    content = picture.read_bytes()
    picture.unlink()
    try:
        assert would_run(project) == ["q5_transfer", "summary"]
    finally:
        picture.write_bytes(content)
    assert would_run(project) == []


def test_a_run_by_hand_with_other_options_is_seen(project):
    out = shutil.copytree(project / "artifacts", project / "copy")  # with the times of its files
    assert would_run(project, "OUT=copy") == []  # where the files lie is no setting
    before = (out / "q2_fcn.pt").read_bytes()
    run_well("q2_fcn.py", "--epochs", 30, "--seed", 1, "--out", out)
    assert (out / "q2_fcn.pt").read_bytes() != before
    done = make(project, "fcn", *SETTINGS, "OUT=copy")
    assert asked(done) == ["q2_fcn"]
    assert "--resume" not in done.stdout
    assert json.loads((out / "q2_fcn.json").read_text())["args"]["seed"] == 0
    assert (out / "q2_fcn.pt").read_bytes() == before
    assert asked(make(project, "fcn", *SETTINGS, "OUT=copy")) == []


# Stands in for a script: writes its files in no time, with the options that the real one would record.
STAND_IN = """\
import json, os, sys, time
from pathlib import Path
from common.defaults import DEFAULTS
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
(out / f"{name}.json").write_text(json.dumps({"args": args}))
time.sleep(0.1)
open("runs.log", "a").write(f"{name} ends\\n")
"""


def copy_stand_ins(folder):
    (folder / "common" / "storage").mkdir(parents=True)
    modules = ("__init__", "storage/__init__", "storage/stale", "defaults", "packages")
    for name in ("Makefile", "requirements.txt", *(f"common/{module}.py" for module in modules)):
        shutil.copy(ROOT / name, folder / name)
    for name in QUESTIONS:
        (folder / f"{name}.py").write_text(STAND_IN)
    (folder / "summary.py").write_text("import sys; open(sys.argv[2] + '/summary.txt', 'w')")
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A copy of the Makefile with scripts that take no time, in which everything has been made."""
    folder = copy_stand_ins(tmp_path_factory.mktemp("finished") / "project")
    assert run_by_make(folder) == [*QUESTIONS, "summary"]
    assert run_by_make(folder) == []
    return folder


@pytest.fixture
def stand_in(finished, tmp_path):
    """Such a folder for a test alone."""
    return shutil.copytree(finished, tmp_path / "project")


def run_by_make(folder, *args, **environment):
    """Run make all; return the scripts that it ran."""
    env = {**ALONE, **environment}
    done = subprocess.run([*MAKE, "all", *args], cwd=folder, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return asked(done)


EVERYTHING = [*QUESTIONS, "summary"]
TRAININGS = ["q2_fcn", "q3_cnn", "q4_confusion", "q5_transfer", "summary"]


@pytest.mark.parametrize(("variable", "expected"), [
    ("SEED=1", EVERYTHING), ("MAIN_TRAIN=100", EVERYTHING), ("TRANSFER_TRAIN=9", EVERYTHING), ("COUNT=500", EVERYTHING),
    ("SOURCE=synthetic", EVERYTHING), ("DATASET=decals", EVERYTHING), ("SPLIT=file", EVERYTHING),
    ("IMAGE_SIZE=64", EVERYTHING), ("DATA=some.h5", EVERYTHING), ("EPOCHS=3", TRAININGS), ("DEVICE=cpu", TRAININGS),
    ("PRECISION=bf16", TRAININGS), ("IMAGE_SIZE=69", []), ("EPOCHS=", [])])  # fmt: skip
def test_each_variable_redoes_what_depends_on_it(finished, variable, expected):
    assert asked(make(finished, "-n", "all", variable)) == expected


def test_what_has_been_redone_is_done(stand_in):
    assert run_by_make(stand_in, "SEED=1", "EPOCHS=3") == EVERYTHING
    assert run_by_make(stand_in, "SEED=1", "EPOCHS=3") == []
    assert run_by_make(stand_in, "SEED=1") == TRAININGS
    assert run_by_make(stand_in, "SEED=1", "DEVICE=cpu") == TRAININGS
    assert run_by_make(stand_in, "SEED=1") == []  # what another device has computed is good enough for auto
    assert run_by_make(stand_in, "OUT=data") == EVERYTHING  # a folder named like a target


def test_whatever_j_says_one_question_runs_at_a_time(stand_in):
    (stand_in / "runs.log").unlink()
    assert run_by_make(stand_in, "-j8", "SEED=1") == EVERYTHING
    expected = [f"{name} {moment}" for name in QUESTIONS for moment in ("begins", "ends")]
    assert (stand_in / "runs.log").read_text().splitlines() == expected


def test_a_run_that_failed_counts_as_not_done(stand_in):
    done = subprocess.run([*MAKE, "fcn", "EPOCHS=3"], cwd=stand_in, capture_output=True, text=True, check=False,
                          env={**ALONE, "FAILS": "q2_fcn"})  # fmt: skip
    assert done.returncode == 2
    assert asked(make(stand_in, "fcn", "EPOCHS=3")) == ["q2_fcn"]
    assert asked(make(stand_in, "fcn", "EPOCHS=3")) == []


def test_each_lost_file_is_recreated(stand_in):
    for path in sorted((stand_in / "artifacts").glob("q*.*")):
        content = path.read_text(), path.stat()
        path.unlink()
        assert asked(make(stand_in, "-n", "all"))[0] == path.stem
        path.write_text(content[0])
        os.utime(path, ns=(content[1].st_atime_ns, content[1].st_mtime_ns))
    (stand_in / "artifacts" / "q5_transfer.png").unlink()
    assert run_by_make(stand_in) == ["q5_transfer", "summary"]
    assert run_by_make(stand_in) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"args": 3}', '{"args": {}}', "[" * 100_000])
def test_a_record_that_does_not_tell_its_options_is_made_again(stand_in, content):
    (stand_in / "artifacts" / "q4_confusion.json").write_text(content)
    assert asked(make(stand_in, "-n", "all")) == ["q4_confusion", "summary"]


@pytest.mark.parametrize("name", ["two  words/with space.h5", "it's.h5", "a;touch harm.h5", "a&b(c).h5", 'say "h".h5'])
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


@pytest.mark.parametrize("out", ["", "two words", "it's"])
@pytest.mark.parametrize("target", ["clean", "all"])
def test_an_out_that_is_no_name_of_a_folder_is_refused(stand_in, target, out):
    done = make(stand_in, target, f"OUT={out}")
    assert done.returncode == 2
    assert done.stdout == ""
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
    os.utime(stand_in / "common" / "defaults.py")
    assert planned()
    assert "--resume" not in planned()


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_defaults_looked_up_are_those_of_the_script(name):
    defaults = vars(importlib.import_module(name).get_args([]))
    assert {key: value for key, value in defaults.items() if key not in NO_SETTINGS} == DEFAULTS[name]


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


def test_the_oldest_versions_are_the_lower_bounds():
    lines = [
        line
        for name in ("requirements.txt", "requirements-dev.txt")
        for line in (ROOT / name).read_text().split("\n")
        if line and not line.startswith("-r ")
    ]
    assert all(re.fullmatch(r"[a-z0-9-]+>=[0-9.]+", line) for line in lines)
    pinned = (ROOT / "constraints-oldest.txt").read_text().split()
    assert pinned == [line.replace(">=", "==") for line in lines]


def broken_off(folder, number, epoch, *args):
    """Run make in `folder` until Q3 has finished an epoch, then send it and its children a signal."""
    pipe = subprocess.PIPE
    options = {"stdout": pipe, "stderr": pipe, "text": True, "env": ALONE, "start_new_session": True}
    with subprocess.Popen([*MAKE, *args], cwd=folder, preexec_fn=heed_ctrl_c, **options) as process:
        script = None
        for line in process.stdout:
            script = "q3_cnn.py" if " q3_cnn.py " in line else script
            if script and line.startswith(f"epoch {epoch:3}"):
                os.killpg(process.pid, number)
                break
        return process.communicate()[1]


def test_make_goes_on_after_ctrl_c_and_after_a_kill(project, tmp_path):
    folder = shutil.copytree(project, tmp_path / "project")  # with the times of its files
    out = folder / "artifacts"
    whole = (out / "q3_cnn.pt").read_bytes()
    for path in out.glob("q3_cnn.*"):
        path.unlink()
    errors = broken_off(folder, signal.SIGINT, 3, "cnn", *SETTINGS)
    sentence = r"^interrupted; to resume: python q3_cnn.py .* --resume \(or the same make again\)$"
    assert re.search(sentence, errors, re.MULTILINE)
    broken_off(folder, signal.SIGKILL, 9, "cnn", *SETTINGS)
    assert not (out / "q3_cnn.json").exists()

    train = folder / "common" / "train.py"
    before = train.stat()
    os.utime(train)  # with other code it would start from the beginning
    assert "--resume" not in make(folder, "-n", "all", *SETTINGS).stdout
    os.utime(train, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert would_run(folder) == ["q3_cnn", "q4_confusion", "q5_transfer", "summary"]
    done = make(folder, "cnn", *SETTINGS)
    assert asked(done) == ["q3_cnn"]
    assert int(re.search(r"Resuming artifacts/q3_cnn.resume.pt: (\d+) of 30 epochs", done.stdout)[1]) >= 9
    assert (out / "q3_cnn.pt").read_bytes() == whole


def test_an_error_ends_make_and_keeps_what_was_there(project):
    before = (project / "artifacts" / "q1_data.json").read_bytes()
    done = make(project, "all", "DATA=none.h5")
    assert done.returncode == 2
    assert "error: none.h5: No such file or directory" in done.stderr
    assert (project / "artifacts" / "q1_data.json").read_bytes() == before
    assert would_run(project) == []


def test_help_lists_every_target_and_variable():
    done = make(ROOT, "help")
    for word in (
        "all",
        "data",
        "fcn",
        "cnn",
        "confusion",
        "transfer",
        "test",
        "test-oldest",
        "lint",
        "smoke",
        "clean",
        "help",
    ):
        assert f"make {word} " in done.stdout
    for word in (
        "PYTHON",
        "OUT",
        "DATA",
        "SEED",
        "EPOCHS",
        "MAIN_TRAIN",
        "TRANSFER_TRAIN",
        "DEVICE",
        "SPLIT",
        "IMAGE_SIZE",
    ):
        assert f"  {word} = " in done.stdout


def test_without_venv_one_line_says_what_to_install(tmp_path):
    copy_project(tmp_path)
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    fake = tmp_path / "bin" / "python3"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    fake.chmod(0o755)
    environment = {**ALONE, "PATH": f"{fake.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["make", "all"], cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "install the package python3-venv" in errors[0]
    assert not (tmp_path / ".venv").exists()


def test_clean_removes_what_was_made_and_nothing_else(tmp_path):
    copy_project(tmp_path)
    (tmp_path / "artifacts").mkdir()
    for name in ("q2_fcn.pt", "q2_fcn.json", ".q2_fcn.args", "summary.txt", "notes.txt"):
        (tmp_path / "artifacts" / name).write_text("x")
    assert make(tmp_path, "clean").returncode == 0
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == ["notes.txt"]
