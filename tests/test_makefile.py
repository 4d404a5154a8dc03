"""The Makefile: what is redone when, and that what it lists is what the scripts use."""

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, run_well, write_galaxy10

from submission.source import needed

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
    for name in ("Makefile", "common", "summary.py", *(f"{name}.py" for name in QUESTIONS)):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    write_galaxy10(folder / "galaxies.h5", count=300)
    return folder


SETTINGS = ("DATA=galaxies.h5", "MAIN_TRAIN=200", "TRANSFER_TRAIN=40", "DEVICE=cpu", "EPOCHS=1")


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
    assert touched(project, "common/checkpoint.py") == ["q4_confusion", "q5_transfer", "summary"]
    assert sorted(touched(project, "common/synthetic.py")) == sorted([*QUESTIONS, "summary"])
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


def test_the_number_of_jobs_changes_no_result(project, tmp_path):
    copy_project(tmp_path)
    shutil.copy2(project / "galaxies.h5", tmp_path / "galaxies.h5")
    assert make(tmp_path, "all", *SETTINGS, "OUT=data").returncode == 0  # a folder named like a target is no trouble
    for name in ("q1_data", "q2_fcn", "q3_cnn", "q5_transfer"):
        first, second = project / "artifacts" / f"{name}.pt", tmp_path / "data" / f"{name}.pt"
        assert first.read_bytes() == second.read_bytes()


def broken_off(folder, number, epoch, *args):
    """Run make in `folder` until Q3 has finished an epoch, then send it and its children a signal."""
    pipe = subprocess.PIPE
    options = {"stdout": pipe, "stderr": pipe, "text": True, "env": ALONE, "start_new_session": True}
    with subprocess.Popen([*MAKE, *args], cwd=folder, **options) as process:
        script = None
        for line in process.stdout:
            script = "q3_cnn.py" if " q3_cnn.py " in line else script
            if script and line.startswith(f"epoch {epoch:3}"):
                os.killpg(process.pid, number)
                break
        return process.communicate()[1]


def test_make_goes_on_after_ctrl_c_and_after_a_kill(tmp_path):
    copy_project(tmp_path)
    whole = ("all", *SETTINGS[:-1], "EPOCHS=30")
    errors = broken_off(tmp_path, signal.SIGINT, 3, *whole)
    sentence = r"^interrupted; to go on: python q3_cnn.py .* --resume \(or the same make again\)$"
    assert re.search(sentence, errors, re.MULTILINE)
    broken_off(tmp_path, signal.SIGKILL, 9, *whole)
    assert not (tmp_path / "artifacts" / "q3_cnn.json").exists()

    train = tmp_path / "common" / "train.py"
    before = train.stat()
    os.utime(train)  # with other code it would start from the beginning
    assert "--resume" not in make(tmp_path, "-n", *whole).stdout
    os.utime(train, ns=(before.st_atime_ns, before.st_mtime_ns))

    done = make(tmp_path, *whole)
    assert asked(done) == ["q3_cnn", "q4_confusion", "q5_transfer", "summary"]
    assert int(re.search(r"Resuming artifacts/q3_cnn.resume.pt: (\d+) of 30 epochs", done.stdout)[1]) >= 9
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "q1_data.pt").symlink_to(tmp_path / "artifacts" / "q1_data.pt")
    run_well("q3_cnn.py", "--epochs", 30, "--device", "cpu", "--out", tmp_path / "alone")
    first, second = (tmp_path / folder / "q3_cnn.pt" for folder in ("artifacts", "alone"))
    assert first.read_bytes() == second.read_bytes()


def test_an_error_ends_make_and_keeps_what_was_there(project):
    before = (project / "artifacts" / "q1_data.json").read_bytes()
    done = make(project, "all", "DATA=none.h5")
    assert done.returncode == 2
    assert "error: none.h5: No such file or directory" in done.stderr
    assert (project / "artifacts" / "q1_data.json").read_bytes() == before
    assert would_run(project) != []  # the settings on record are of the call that failed


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_modules_listed_are_those_used(question):
    command = ["make", "-s", "-f", "Makefile", "-f", "-", "list"]
    ask = f"list:\n\t@echo $(USES_{question})\n"
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, input=ask, env=ALONE).stdout
    assert set(printed.split()) == set(needed(f"{question}.py"))


def test_help_lists_every_target_and_variable():
    done = make(ROOT, "help")
    for word in ("all", "data", "fcn", "cnn", "confusion", "transfer", "test", "lint", "smoke", "clean", "help"):
        assert f"make {word} " in done.stdout
    for word in ("PYTHON", "OUT", "DATA", "SEED", "EPOCHS", "MAIN_TRAIN", "TRANSFER_TRAIN", "DEVICE"):
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
