"""torchrun with two processes, on the CPU."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, run_well
from forked import CONTEXT, run_script
from torch import nn

from common.hardware.device import accelerate
from common.storage.checkpoint import cpu_state_dict
from common.train import epoch_means, train_epoch, train_step
from q2_fcn import make_fcn
from q3_cnn import make_cnn

CPU = torch.device("cpu")
NETWORKS = {"fcn": make_fcn, "cnn": make_cnn}
QUIET = {**os.environ, "OMP_NUM_THREADS": "1"}


def torchrun(script, *args):
    """Start a script by torchrun, as the README does; return its Popen."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(ROOT / script)]
    return subprocess.Popen(
        [*command, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=QUIET
    )


def run_torchrun(script, *args):
    """Run a script by torchrun; return its exit status and its output and errors as text."""
    process = torchrun(script, *args)
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def run_rank(rank, port, script, *output):
    """In a process of its own: run a script as one of two workers of torchrun."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    run_script(script, *output)


def run_workers(script, *args):
    """Do what `run_torchrun` does with two processes of the fork server, which have everything imported."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("stdout", "stderr")]
        status = run_both(run_rank, lambda rank: (rank, port, script, args, *files))
        return status, *(file.read_text() for file in files)


def run_both(target, args_of):
    """Run target(*args_of(rank)) in two processes at once; return 0, or the exit status of one that failed."""
    processes = [CONTEXT.Process(target=target, args=args_of(rank)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        process.kill()
        process.join()
    return processes[0].exitcode or processes[1].exitcode


@pytest.fixture
def folder(synthetic_run, tmp_path):
    (tmp_path / "q1_data.pt").symlink_to(synthetic_run[0] / "q1_data.pt")
    return tmp_path


SIZES = {"equal shards": [32, 32, 4], "unequal shards": [31, 31, 3]}  # of batches; 31 are split into 16 and 15


def trained_in_float64(name, sizes):
    """Train for two epochs, alone or as one of several processes; return the epochs' means and the weights."""
    torch.manual_seed(0)
    model = NETWORKS[name]().double().to(memory_format=torch.channels_last)
    batches = [(torch.randn(size, 3, 48, 48, dtype=torch.float64), torch.arange(size) % 8) for size in sizes]
    network, run_epoch = accelerate(model, train_step, train_epoch)
    # Its normalisation depends on all labels of the batch, so the mean of the shards' losses would be another.
    criterion = nn.CrossEntropyLoss(weight=torch.arange(1, 9, dtype=torch.float64))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002, fused=True)
    means = [epoch_means(*run_epoch(network, criterion, optimizer, batches)) for _ in range(2)]
    return means, cpu_state_dict(model)


def train_shard(name, sizes, rank, folder):
    """In a process of its own: train as one of two, and save the result."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(trained_in_float64(name, sizes), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


# In float64, rounding parts the weights by some 1e-14. A wrong gradient of a shard parts them by 1e-3.
@pytest.mark.parametrize("shards", SIZES)
@pytest.mark.parametrize("name", NETWORKS)
def test_two_processes_take_the_steps_of_one(name, shards, tmp_path):
    means, weights = trained_in_float64(name, SIZES[shards])
    assert run_both(train_shard, lambda rank: (name, SIZES[shards], rank, tmp_path)) == 0
    for rank in (0, 1):
        sharded_means, sharded_weights = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        np.testing.assert_allclose(sharded_means, means, rtol=1e-6)  # the totals of an epoch are float32
        for key, value in sharded_weights.items():
            torch.testing.assert_close(value, weights[key], rtol=0, atol=1e-9)


# float32 sums over shards differ in their last bits, and Adam turns a gradient that is nothing but rounding into a
# step of up to --lr. Such a weight is one that the loss hardly depends on, so the losses agree far better than
# weights do, as long as the steps are small: with 1e-4 to within some 1e-6. The weights are compared in float64, above.
@pytest.mark.parametrize(("launch", "name", "batch_size"), [
    (run_torchrun, "q3_cnn", 64), (run_workers, "q3_cnn", 31), (run_workers, "q2_fcn", 64), (run_workers, "q2_fcn", 31)
])  # fmt: skip
def test_two_processes_give_the_curves_of_one(launch, name, batch_size, folder):
    args = ("--epochs", 2, "--batch-size", batch_size, "--lr", 1e-4, "--device", "cpu", "--out", folder)
    run_well(f"{name}.py", *args)
    alone = json.loads((folder / f"{name}.json").read_text())
    status, output, errors = launch(f"{name}.py", *args)
    assert status == 0, errors
    assert output.count("epoch   1/2") == 1  # only one of them prints
    together = json.loads((folder / f"{name}.json").read_text())
    data = torch.load(folder / "q1_data.pt", weights_only=True)
    for part in ("train", "test"):
        losses, accuracies = f"{part}_loss", f"{part}_accuracy"
        np.testing.assert_allclose(together["history"][losses], alone["history"][losses], rtol=0, atol=1e-4)
        # An image whose two largest logits are equal but for rounding counts for either: at most one an epoch does.
        one_image = 1.01 / len(data[f"main_{part}_labels"])
        np.testing.assert_allclose(
            together["history"][accuracies], alone["history"][accuracies], rtol=0, atol=one_image
        )


def test_two_processes_resume_to_the_same_bits(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "q1_data.pt").symlink_to(folder / "q1_data.pt")
    for out, *args in ((folder, 3), (other, 1), (other, 3, "--resume")):
        status, output, errors = run_workers("q2_fcn.py", "--device", "cpu", "--out", out, "--epochs", *args)
        assert status == 0, errors
    assert "1 of 3 epochs are done" in output
    assert (folder / "q2_fcn.pt").read_bytes() == (other / "q2_fcn.pt").read_bytes()


@pytest.mark.skipif(shutil.which("pgrep") is None, reason="without pgrep the worker processes are not found")
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
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode != 0
    assert "lost another process" in errors or "SIGKILL" in errors
    assert not (folder / "q3_cnn.json").exists()


def test_a_batch_too_small_to_share_is_refused(folder):
    options = ("--epochs", 1, "--batch-size", 1, "--device", "cpu", "--out", folder)
    status, _, errors = run_workers("q2_fcn.py", *options)
    assert status == 2
    assert "error: a batch of 1 cannot be shared by 2 processes: change --batch-size" in errors
