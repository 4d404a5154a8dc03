"""Which device is chosen, and what differs from one to the other: with stand-ins, as there is a CPU only."""

from types import SimpleNamespace

from common.hardware import gpu, layers
from common.hardware.device import accelerate, choose_device
from common.train import train_epoch, train_step

import pytest
import torch
from torch import nn

CPU, MPS = torch.device("cpu"), torch.device("mps")


class Elsewhere(nn.Linear):
    """A network that says it is on another device, in the wrong memory format."""

    def __init__(self, device):
        super().__init__(1, 1)
        self.device = device

    def parameters(self, recurse=True):
        return iter([SimpleNamespace(device=self.device, ndim=4, is_contiguous=lambda memory_format: False)])


def test_the_cpu_is_chosen_without_asking_for_a_gpu(monkeypatch):
    def ask():
        raise AssertionError("asking starts CUDA, which takes seconds and memory")

    monkeypatch.setattr(torch.cuda, "is_available", ask)
    assert choose_device("cpu") == CPU


def test_a_gpu_that_cannot_compute_is_skipped_by_auto_and_refused_by_name(monkeypatch, capsys):
    def refuse(*size, device):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore lines")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch, "ones", refuse)
    assert choose_device("auto") == CPU
    lines = capsys.readouterr().err.splitlines()
    reason = f"torch {torch.__version__} cannot compute on it (CUDA error: no kernel image is available for execution"
    assert len(lines) == 1
    assert lines[0].startswith(f"Not using the GPU: {reason}")
    with pytest.raises(ValueError, match=r"--device cuda: .* cannot compute on it .*; try --device auto"):
        choose_device("cuda")


def test_mps_computes_in_the_plain_memory_format():
    assert layers.memory_format(MPS) == torch.contiguous_format
    assert layers.memory_format(CPU) == layers.memory_format(torch.device("cuda")) == torch.channels_last


def test_each_device_has_its_epochs_and_mps_trains_in_float32_only():
    model = Elsewhere(MPS)
    assert accelerate(model, train_step, train_epoch) == (model, train_epoch)
    assert isinstance(accelerate(Elsewhere(torch.device("cuda")), train_step, train_epoch)[1], gpu.GraphedEpoch)
    network, run_epoch = accelerate(nn.Linear(1, 1), train_step, train_epoch, "bf16")
    assert isinstance(network, layers.Autocast)
    assert run_epoch is train_epoch
    with pytest.raises(ValueError, match="--precision bf16: on MPS networks train in float32 only"):
        accelerate(model, train_step, train_epoch, "bf16")
