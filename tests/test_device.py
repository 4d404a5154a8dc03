"""Which device is chosen, and what differs between devices: with stand-ins, as there is only a CPU."""

from types import SimpleNamespace

from common.hardware import gpu, layers
from common.hardware.device import bind_step, choose_device
from common.train import train_step

import pytest
import torch
from torch import nn

CPU, MPS = torch.device("cpu"), torch.device("mps")


class Elsewhere(nn.Linear):
    """A network that says it is on another device."""

    def __init__(self, device):
        super().__init__(1, 1)
        self.device = device

    def parameters(self, recurse=True):
        return iter([SimpleNamespace(device=self.device, ndim=4, is_contiguous=lambda memory_format: False)])

    def to(self, **options):
        return self


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
    [line] = capsys.readouterr().err.splitlines()
    reason = f"torch {torch.__version__} cannot compute on it (CUDA error: no kernel image is available for execution"
    assert line.startswith(f"Not using the GPU: {reason}")
    with pytest.raises(ValueError, match=r"--device cuda: .* cannot compute on it .*; try --device auto"):
        choose_device("cuda")


def test_only_a_gpu_replays_its_steps_and_mps_keeps_layers_and_memory_format():
    assert layers.memory_format(MPS) == torch.contiguous_format
    assert layers.memory_format(CPU) == layers.memory_format(torch.device("cuda")) == torch.channels_last
    model = Elsewhere(MPS)
    assert layers.reorder_layers(model) is model
    arguments = nn.CrossEntropyLoss(), None
    assert isinstance(bind_step(train_step, Elsewhere(torch.device("cuda")), *arguments), gpu.CapturedStep)
    assert not isinstance(bind_step(train_step, Elsewhere(CPU), *arguments), gpu.CapturedStep)
