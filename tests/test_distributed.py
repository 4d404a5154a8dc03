"""Two processes that train one network, on the CPU; torchrun on two machines is tried on one."""

import json
import os
import socket
import time

from common.hardware.device import accelerate
from common.hardware.distributed import process_group
from common.storage.checkpoint import cpu_state_dict
from common.train import epoch_means, train_epoch, train_step
from q2_fcn import make_fcn
from q3_cnn import make_cnn

import numpy as np
import pytest
import torch
import torch.distributed.run
from conftest import ROOT, run_well
from forked import CONTEXT, run_script
from torch import nn

NETWORKS = {"fcn": make_fcn, "cnn": make_cnn}


def run_torchrun(log, script, *args):
    """Run a script by torchrun on two machines, both of which are this one; return the exit status and the output."""
    options = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--local-addr=127.0.0.1"]
    options += [f"--rdzv-endpoint=127.0.0.1:{unused_port()}", str(ROOT / script), *map(str, args)]
    return join_both(start_both(torchrun, lambda rank: (options, log))), log.read_text()


def torchrun(options, log):
    """In a process of its own: do what the command torchrun does, its output into a file."""
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.distributed.run.main(options)


def unused_port():
    """Return a port that is free."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


def run_rank(rank, port, script, *output):
    """In a process of its own: run a script as one of two workers of torchrun."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    run_script(script, *output)


def start_both(target, args_of):
    """Start target(*args_of(rank)) in two processes of the fork server, which have everything imported."""
    processes = [CONTEXT.Process(target=target, args=args_of(rank)) for rank in (0, 1)]
    for process in processes:
        process.start()
    return processes


def join_both(processes):
    """Wait for two processes; return 0, or the exit status of one that failed."""
    for process in processes:
        process.join(300)
        process.kill()
        process.join()
    return processes[0].exitcode or processes[1].exitcode


def start_workers(out, script, *args):
    """Do what torchrun does, without its start; the output goes to stdout.txt and stderr.txt in the folder `out`."""
    port = unused_port()
    args = (*args, "--device", "cpu", "--out", out)
    return start_both(run_rank, lambda rank: (rank, port, script, args, out / "stdout.txt", out / "stderr.txt"))


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
    assert join_both(start_both(train_shard, lambda rank: (name, SIZES[shards], rank, tmp_path))) == 0
    for rank in (0, 1):
        sharded_means, sharded_weights = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        np.testing.assert_allclose(sharded_means, means, rtol=1e-9)
        for key, value in sharded_weights.items():
            torch.testing.assert_close(value, weights[key], rtol=0, atol=1e-9)


# float32 sums over shards differ in their last bits, and Adam turns a gradient that is nothing but rounding into a
# step of up to --lr. Such a weight is one that the loss hardly depends on, so the losses agree far better than
# weights do, as long as the steps are small: with 1e-4 to within some 1e-6. The weights are compared in float64, above.
def test_two_machines_give_the_curves_of_one(folder):
    args = ("--epochs", 2, "--batch-size", 31, "--lr", 1e-4, "--device", "cpu", "--out", folder)
    run_well("q3_cnn.py", *args)
    alone = json.loads((folder / "q3_cnn.json").read_text())
    status, printed = run_torchrun(folder / "log.txt", "q3_cnn.py", *args)
    assert status == 0, printed
    assert printed.count("epoch   1/2") == 1  # only one of them prints
    together = json.loads((folder / "q3_cnn.json").read_text())
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
        assert join_both(start_workers(out, "q2_fcn.py", "--epochs", *args)) == 0, (out / "stderr.txt").read_text()
    assert "1 of 3 epochs are done" in (other / "stdout.txt").read_text()
    assert (folder / "q2_fcn.pt").read_bytes() == (other / "q2_fcn.pt").read_bytes()


def test_a_process_that_dies_ends_the_other_with_an_error(folder):
    processes = start_workers(folder, "q2_fcn.py", "--epochs", 10_000)
    printed = folder / "stdout.txt"
    while processes[0].is_alive() and not (printed.exists() and "epoch   2" in printed.read_text()):
        time.sleep(0.05)
    processes[1].kill()
    join_both(processes)
    assert processes[0].exitcode == 2
    assert "error: rank 0: another process died; aborting (" in (folder / "stderr.txt").read_text()
    assert not (folder / "q2_fcn.json").exists()


def test_a_batch_too_small_to_share_is_refused(folder):
    assert join_both(start_workers(folder, "q2_fcn.py", "--epochs", 1, "--batch-size", 1)) == 2
    errors = (folder / "stderr.txt").read_text()
    assert "error: a batch of 1 cannot be shared by 2 processes: change --batch-size" in errors


def test_more_processes_than_gpus_are_refused(monkeypatch):
    for name, value in {"RANK": 2, "LOCAL_RANK": 2, "WORLD_SIZE": 3, "LOCAL_WORLD_SIZE": 3}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with (
        pytest.raises(
            ValueError, match=r"3 processes but 2 GPU\(s\) here: lower --nproc-per-node, or use --device cpu"
        ),
        process_group(torch.device("cuda")),
    ):
        pass
