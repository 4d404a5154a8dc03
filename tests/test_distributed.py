"""torchrun with two processes, on the CPU."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, run_well

QUIET = {**os.environ, "OMP_NUM_THREADS": "1"}


def torchrun(script, *args):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(ROOT / script)]
    return subprocess.Popen(
        [*command, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=QUIET
    )


@pytest.fixture
def folder(synthetic_run, tmp_path):
    (tmp_path / "q1_data.pt").symlink_to(synthetic_run[0] / "q1_data.pt")
    return tmp_path


# Batches of 31 are shared as 16 and 15 images. (The CNN's rounding grows too fast to be compared at such sums.)
@pytest.mark.parametrize(("name", "batch_size"), [("q2_fcn", 64), ("q2_fcn", 31), ("q3_cnn", 64)])
def test_two_processes_give_the_curves_of_one(name, batch_size, folder):
    args = ("--epochs", 2, "--batch-size", batch_size, "--device", "cpu", "--out", folder)
    run_well(f"{name}.py", *args, OMP_NUM_THREADS="1")
    alone = json.loads((folder / f"{name}.json").read_text())
    weights = torch.load(folder / f"{name}.pt", weights_only=True)
    process = torchrun(f"{name}.py", *args)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.count("epoch   1/2") == 1  # only one of them prints
    together = json.loads((folder / f"{name}.json").read_text())
    for key in ("train_loss", "test_loss", "train_accuracy", "test_accuracy"):
        np.testing.assert_allclose(together["history"][key], alone["history"][key], atol=1e-4)
    for key, value in torch.load(folder / f"{name}.pt", weights_only=True).items():
        torch.testing.assert_close(value, weights[key], rtol=1e-3, atol=1e-4)


def test_two_processes_resume_to_the_same_bits(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "q1_data.pt").symlink_to(folder / "q1_data.pt")
    for out, *args in ((folder, 3), (other, 1), (other, 3, "--resume")):
        process = torchrun("q2_fcn.py", "--device", "cpu", "--out", out, "--epochs", *args)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert "1 of 3 epochs are done" in output
    assert (folder / "q2_fcn.pt").read_bytes() == (other / "q2_fcn.pt").read_bytes()


def test_a_process_that_dies_ends_the_run_with_an_error(folder):
    process = torchrun("q3_cnn.py", "--epochs", 2000, "--device", "cpu", "--out", folder)
    try:
        for line in process.stdout:
            if "epoch   2" in line:
                break
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
        workers = [int(word) for word in found.split()]
        assert len(workers) >= 2
        os.kill(workers[-1], signal.SIGKILL)
        start = time.monotonic()
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert time.monotonic() - start < 60
    assert process.returncode != 0
    assert "lost the others" in errors or "SIGKILL" in errors
    assert not (folder / "q3_cnn.json").exists()


def test_a_batch_too_small_to_share_is_refused(folder):
    process = torchrun("q2_fcn.py", "--epochs", 1, "--batch-size", 1, "--device", "cpu", "--out", folder)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "error: a batch of 1 cannot be shared by 2: change --batch-size" in errors
