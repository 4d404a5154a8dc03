"""Interrupted runs that resume."""

import json
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

from common.data import RandomCrop
from common.hardware.device import adam_options
from common.storage.resume import TrainingCheckpoint
from common.train import train
from q3_cnn import make_cnn

import pytest
import torch
from conftest import ROOT, error_of, heed_ctrl_c, loaders_of, random_data, run, run_well
from forked import start
from torchvision import transforms

CHAIN = {
    "q1_data": ("--source", "synthetic", "--count", 400),
    "q2_fcn": ("--epochs", 40, "--resume", "--device", "cpu"),
    "q3_cnn": ("--epochs", 8, "--resume", "--device", "cpu"),
    "q4_confusion": ("--device", "cpu"),
    "q5_transfer": ("--epochs", 20, "--resume", "--device", "cpu"),
}
KILLS = 2  # of each script


def record(out, name):
    """Return a question's record without entries that differ between runs: times, folder and options."""
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
    """Return the number of epochs in a run's checkpoint; fail unless every artifact in the folder is complete."""
    for path in out.glob("*.json"):
        json.loads(path.read_text())
    for path in out.glob("*.pt"):
        torch.load(path, weights_only=True)
    state = out / f"{name}.resume.pt"
    return len(torch.load(state, weights_only=True)["history"]["test_loss"]) if state.exists() else 0


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Run the chain without interruption; return its folder and the duration of each script."""
    out, seconds = tmp_path_factory.mktemp("uninterrupted"), {}
    run_well("q1_data.py", "--help")  # starts the fork server, which takes seconds
    for name, args in CHAIN.items():
        before = time.monotonic()
        run_well(f"{name}.py", *args, "--out", out)
        seconds[name] = time.monotonic() - before
    return out, seconds


def test_a_chain_that_is_killed_repeatedly_ends_with_the_same_bits(uninterrupted, tmp_path):
    whole, seconds = uninterrupted
    out, log, moment = tmp_path / "out", tmp_path / "log", random.Random(467)
    for name, args in CHAIN.items():
        kills, kept = 0, 0
        # If the machine is busier than when `seconds` were measured, all KILLS may come before the first epoch.
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
    assert not list(out.glob(".*.tmp"))  # left by the kills


def test_ctrl_c_prints_a_command_that_resumes(uninterrupted, tmp_path):
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
    assert int(re.search(r"Resuming \S+q2_fcn.resume.pt: (\d+) of 40 epochs", printed)[1]) >= 1  # saved once a second
    same_artifacts(whole, tmp_path, ["q2_fcn"])


@pytest.fixture(scope="module")
def trained(uninterrupted, tmp_path_factory):
    """Train Q2 for two epochs; return the folder."""
    out = tmp_path_factory.mktemp("trained")
    (out / "q1_data.pt").symlink_to(uninterrupted[0] / "q1_data.pt")
    run_well("q2_fcn.py", "--epochs", 2, "--device", "cpu", "--out", out)
    return out


@pytest.fixture
def two_epochs(trained, tmp_path):
    """Return a copy of the folder of `trained`."""
    return shutil.copytree(trained, tmp_path / "out", symlinks=True)


def test_more_epochs_continue_a_completed_run(two_epochs, uninterrupted):
    printed = run_well("q2_fcn.py", "--epochs", 40, "--resume", "--device", "cpu", "--out", two_epochs)
    assert "2 of 40 epochs are done" in printed
    same_artifacts(uninterrupted[0], two_epochs, ["q2_fcn"])


def test_different_settings_data_or_backbone_are_rejected_and_named(two_epochs, uninterrupted):
    whole, _ = uninterrupted
    backbone = torch.load(whole / "q3_cnn.pt", weights_only=True)
    torch.save({key: value + 1 for key, value in backbone.items()}, two_epochs / "other.pt")
    shutil.copy(whole / "q5_transfer.resume.pt", two_epochs)
    cases = [
        ("q2_fcn.py", ("--epochs", 2, "--lr", 0.01), "belongs to a run with --lr 0.001, not 0.01"),
        ("q2_fcn.py", ("--epochs", 2, "--seed", 1), "--seed 0, not 1"),
        ("q2_fcn.py", ("--epochs", 2, "--batch-size", 32), "--batch-size 64, not 32"),
        ("q2_fcn.py", ("--epochs", 1), "--epochs 1: "),
        ("q5_transfer.py", ("--backbone", two_epochs / "other.pt"), "belongs to a run with different backbone"),
    ]
    before = {path.name: path.read_bytes() for path in two_epochs.iterdir()}
    for script, options, words in cases:
        assert words in error_of(run(script, "--resume", *options, "--device", "cpu", "--out", two_epochs))
    assert {path.name: path.read_bytes() for path in two_epochs.iterdir()} == before
    (two_epochs / "q1_data.pt").unlink()
    run_well("q1_data.py", "--source", "synthetic", "--count", 400, "--seed", 1, "--out", two_epochs)
    error = error_of(run("q2_fcn.py", "--epochs", 2, "--resume", "--out", two_epochs))
    assert "belongs to a run with different data or split" in error


def test_with_nothing_to_resume_training_starts_from_the_beginning(two_epochs, uninterrupted):
    (two_epochs / "q2_fcn.resume.pt").unlink()
    printed = run_well("q2_fcn.py", "--epochs", 40, "--resume", "--device", "cpu", "--out", two_epochs)
    assert "not found, so nothing to resume: starting from the beginning" in printed
    same_artifacts(uninterrupted[0], two_epochs, ["q2_fcn"])


def test_a_run_that_will_overwrite_an_unfinished_one_prints_a_warning(two_epochs):
    printed = run_well("q2_fcn.py", "--epochs", 3, "--out", two_epochs)
    assert "holds 2 epochs of the same run; stop and add --resume to keep them" in printed
    assert "holds" not in run_well("q2_fcn.py", "--epochs", 3, "--lr", 0.01, "--out", two_epochs)


@pytest.mark.parametrize("damage", ["cut", "other", "one bit"])
def test_a_damaged_checkpoint_is_rejected_and_kept(damage, two_epochs):
    path = two_epochs / "q2_fcn.resume.pt"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "one bit":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        torch.save({"settings": {}, "model": {}}, path)
    before = path.read_bytes()
    error = error_of(run("q2_fcn.py", "--epochs", 3, "--resume", "--out", two_epochs))
    assert "q2_fcn.resume.pt" in error
    assert "delete it" in error
    assert path.read_bytes() == before


@pytest.mark.parametrize(("changes", "resumes"), [({}, True), ({"seed": 1}, False), ({"epochs": 1}, False)])
def test_resume_if_same_starts_from_the_beginning_where_resume_fails(tmp_path, capsys, changes, resumes):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    saved = {"test_loss": [0.5, 0.4]}

    def checkpoint(resume, **changes):
        options = {"out": tmp_path, "resume": resume, "epochs": 5, "lr": 0.01, "seed": 0}
        return TrainingCheckpoint("q2_fcn", options | changes, {"fingerprint": "abc"})

    checkpoint(None).save(model, optimizer, saved)
    epochs = changes.get("epochs", 5)
    lenient, strict = (checkpoint(resume, **changes) for resume in ("if-same", "always"))
    assert lenient.restore(model, optimizer, epochs) == (saved if resumes else None)
    assert ("starting from the beginning" in capsys.readouterr().out) != resumes
    if resumes:
        assert strict.restore(model, optimizer, epochs) == saved
    else:
        with pytest.raises(ValueError, match=r"rerun without --resume|already has 2 epochs"):
            strict.restore(model, optimizer, epochs)


def train_in_float64(epochs, folder, resume=None):
    """Train the CNN with a checkpoint in `folder`; return its parameters."""
    torch.manual_seed(0)
    model = make_cnn().double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002, **adam_options(torch.device("cpu")))
    crop = [RandomCrop(48), transforms.Normalize([127.5] * 3, [73.9] * 3)]
    loaders = loaders_of(random_data(70), random_data(70), transforms.Compose([*crop, torch.Tensor.double]))
    options = {"out": folder, "resume": resume, "epochs": epochs}
    checkpoint = TrainingCheckpoint("q3_cnn", options, {"fingerprint": "abc"})
    train(model, torch.nn.CrossEntropyLoss(), optimizer, *loaders, epochs, seed=0, checkpoint=checkpoint)
    return [parameter.detach() for parameter in model.parameters()]


def test_moments_in_another_memory_order_give_the_steps_of_an_uninterrupted_run(tmp_path):
    whole = train_in_float64(2, tmp_path / "whole")
    train_in_float64(1, tmp_path / "resumed")
    path = tmp_path / "resumed" / "q3_cnn.resume.pt"
    state = torch.load(path, weights_only=True)
    for moments in state["optimizer"].values():
        moments |= {key: value.contiguous() for key, value in moments.items()}
    torch.save(state, path)
    resumed = train_in_float64(2, tmp_path / "resumed", resume="always")
    for parameter, expected in zip(resumed, whole, strict=True):
        torch.testing.assert_close(parameter, expected, rtol=0, atol=1e-9)
