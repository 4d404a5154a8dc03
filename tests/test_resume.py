"""Runs that are interrupted and resume."""

import json
import random
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, error_of, heed_ctrl_c, run, run_well
from forked import start

from common.storage.resume import TrainingCheckpoint

CHAIN = {
    "q1_data": ("--source", "synthetic", "--count", 400),
    "q2_fcn": ("--epochs", 40, "--resume", "--device", "cpu"),
    "q3_cnn": ("--epochs", 15, "--resume", "--device", "cpu"),
    "q4_confusion": ("--device", "cpu"),
    "q5_transfer": ("--epochs", 60, "--resume", "--device", "cpu"),
}
KILLS = 6  # of each script


def record(out, name):
    """A question's record without what differs from run to run: times, and the folder and the options of the call."""
    content = json.loads((out / f"{name}.json").read_text())
    content.pop("args")
    content.pop("backbone", None)
    content.get("history", {}).pop("epoch_seconds", None)
    return content


def same_artifacts(first, second, names=CHAIN):
    for name in names:
        assert record(first, name) == record(second, name)
        if name != "q4_confusion":
            assert (first / f"{name}.pt").read_bytes() == (second / f"{name}.pt").read_bytes()


def epochs_kept(out, name):
    """How many epochs the state of a run holds; every artifact in the folder is whole, or this fails."""
    for path in out.glob("*.json"):
        json.loads(path.read_text())
    for path in out.glob("*.pt"):
        torch.load(path, weights_only=True)
    state = out / f"{name}.resume.pt"
    return len(torch.load(state, weights_only=True)["history"]["test_loss"]) if state.exists() else 0


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of a chain that nothing disturbed, and how long each script took."""
    out, seconds = tmp_path_factory.mktemp("uninterrupted"), {}
    for name, args in CHAIN.items():
        before = time.monotonic()
        run_well(f"{name}.py", *args, "--out", out)
        seconds[name] = time.monotonic() - before
    return out, seconds


def test_killed_again_and_again_a_chain_ends_with_the_same_bits(uninterrupted, tmp_path):
    whole, seconds = uninterrupted
    out, log, moment = tmp_path / "out", tmp_path / "log", random.Random(467)
    for name, args in CHAIN.items():
        kills, kept = 0, 0
        # On a machine that has become busier since `seconds` were taken, KILLS may all come before the first epoch.
        while kills < KILLS or ("--resume" in args and kept == 0):
            process = start(f"{name}.py", *args, "--out", out, log=log)
            process.join(moment.uniform(0, seconds[name]))
            if process.exitcode is None:
                process.kill()
                kills += 1
            process.join()
            assert process.exitcode in (0, -signal.SIGKILL), log.read_text()
            before, kept = kept, epochs_kept(out, name)
            assert kept >= before
        last = run_well(f"{name}.py", *args, "--out", out)
        assert "--resume" not in args or re.search(r"Resuming .*: [1-9]\d* of", last)
    same_artifacts(whole, out)
    assert not list(out.glob(".*.tmp"))  # what the kills left half written


def test_ctrl_c_says_how_to_resume_and_that_resumes(uninterrupted, tmp_path):
    whole, _ = uninterrupted
    (tmp_path / "q1_data.pt").symlink_to(whole / "q1_data.pt")
    command = [sys.executable, ROOT / "q2_fcn.py", "--epochs", "40", "--device", "cpu", "--out", tmp_path]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen(command, preexec_fn=heed_ctrl_c, **options) as process:
        for line in process.stdout:
            if line.startswith("epoch   3"):
                process.send_signal(signal.SIGINT)
                break
        _, errors = process.communicate()
    assert process.returncode == 130
    assert re.fullmatch(
        r"interrupted; to resume: python .*q2_fcn.py --epochs 40 --device cpu --out \S+ --resume( \(.*\))?\n", errors
    )
    printed = run_well(*shlex.split(errors.partition("python ")[2].partition(" (")[0]))
    assert int(re.search(r"Resuming \S+q2_fcn.resume.pt: (\d+) of 40 epochs", printed)[1]) >= 3
    same_artifacts(whole, tmp_path, ["q2_fcn"])


@pytest.fixture
def two_epochs(uninterrupted, tmp_path):
    """A folder in which Q2 has been trained for two epochs."""
    (tmp_path / "q1_data.pt").symlink_to(uninterrupted[0] / "q1_data.pt")
    run_well("q2_fcn.py", "--epochs", 2, "--device", "cpu", "--out", tmp_path)
    return tmp_path


def test_more_epochs_continue_after_those_that_are_done(two_epochs, uninterrupted):
    printed = run_well("q2_fcn.py", "--epochs", 40, "--resume", "--device", "cpu", "--out", two_epochs)
    assert "2 of 40 epochs are done" in printed
    same_artifacts(uninterrupted[0], two_epochs, ["q2_fcn"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("--lr", 0.01), "--lr 0.001, not 0.01"),
        (("--seed", 1), "--seed 0, not 1"),
        (("--batch-size", 32), "--batch-size 64, not 32"),
        (("--precision", "bf16"), "--precision float32, not bf16"),
        (("--epochs", 1), "--epochs 1: "),
    ],
)
def test_other_settings_are_refused_and_named(changes, words, two_epochs):
    before = {path.name: path.read_bytes() for path in two_epochs.iterdir()}
    assert words in error_of(run("q2_fcn.py", "--epochs", 2, "--resume", *changes, "--out", two_epochs))
    assert {path.name: path.read_bytes() for path in two_epochs.iterdir()} == before


def test_other_data_and_another_backbone_are_refused(two_epochs, uninterrupted):
    (two_epochs / "q1_data.pt").unlink()
    run_well("q1_data.py", "--source", "synthetic", "--count", 400, "--seed", 1, "--out", two_epochs)
    error = error_of(run("q2_fcn.py", "--epochs", 2, "--resume", "--out", two_epochs))
    assert "different data or split" in error
    whole, _ = uninterrupted
    backbone = torch.load(whole / "q3_cnn.pt", weights_only=True)
    torch.save({key: value + 1 for key, value in backbone.items()}, two_epochs / "other.pt")
    before = (whole / "q5_transfer.pt").read_bytes()
    error = error_of(run("q5_transfer.py", "--resume", "--backbone", two_epochs / "other.pt", "--out", whole))
    assert "different backbone" in error
    assert (whole / "q5_transfer.pt").read_bytes() == before


def test_with_nothing_to_resume_it_starts_from_the_beginning_and_says_so(two_epochs, uninterrupted):
    (two_epochs / "q2_fcn.resume.pt").unlink()
    printed = run_well("q2_fcn.py", "--epochs", 40, "--resume", "--device", "cpu", "--out", two_epochs)
    assert "starting from the beginning" in printed
    same_artifacts(uninterrupted[0], two_epochs, ["q2_fcn"])


def test_a_run_that_forgets_to_resume_is_told(two_epochs):
    printed = run_well("q2_fcn.py", "--epochs", 3, "--out", two_epochs)
    assert "holds 2 epochs of this very run: interrupt it and add --resume" in printed
    assert "holds" not in run_well("q2_fcn.py", "--epochs", 3, "--lr", 0.01, "--out", two_epochs)


@pytest.mark.parametrize("damage", ["cut", "text", "other", "shapes", "one bit"])
def test_a_damaged_state_is_refused_and_kept(damage, two_epochs):
    path = two_epochs / "q2_fcn.resume.pt"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "text":
        path.write_text("epoch 2")
    elif damage == "one bit":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "other":
        torch.save({"settings": {}, "model": {}}, path)
    else:
        state = torch.load(path, weights_only=True)
        state["model"].popitem()
        torch.save(state, path)
    before = path.read_bytes()
    error = error_of(run("q2_fcn.py", "--epochs", 3, "--resume", "--out", two_epochs))
    assert "q2_fcn.resume.pt" in error
    assert "delete it" in error
    assert path.read_bytes() == before


@pytest.mark.parametrize(("changes", "resumes"), [({}, True), ({"seed": 1}, False), ({"epochs": 1}, False)])
def test_resume_if_same_starts_from_the_beginning_where_resume_refuses(tmp_path, capsys, changes, resumes):
    options = {"epochs": 5, "lr": 0.01, "seed": 0}
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    saved = {"test_loss": [0.5, 0.4]}
    TrainingCheckpoint(tmp_path, "q2_fcn", options | {"resume": None}, {}).save(model, optimizer, saved)

    options |= changes
    checkpoint = TrainingCheckpoint(tmp_path, "q2_fcn", options | {"resume": "if-same"}, {})
    assert checkpoint.restore(model, optimizer, options["epochs"]) == (saved if resumes else None)
    assert ("starting from the beginning" in capsys.readouterr().out) != resumes
    strict = TrainingCheckpoint(tmp_path, "q2_fcn", options | {"resume": "always"}, {})
    if resumes:
        assert strict.restore(model, optimizer, options["epochs"]) == saved
    else:
        with pytest.raises(ValueError, match=r"rerun without --resume|already has 2 epochs"):
            strict.restore(model, optimizer, options["epochs"])
