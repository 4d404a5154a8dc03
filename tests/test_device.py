"""What differs from device to device; MPS itself is not needed."""

import pytest
import torch
from conftest import crop_transform, random_data
from torch import nn

from common.data import make_loader, seed_epoch
from common.hardware import device, gpu, layers
from common.train import train_epoch, train_step
from q3_cnn import make_cnn

CPU, MPS = torch.device("cpu"), torch.device("mps")


class OnMPS(nn.Linear):
    """A network that says it is on MPS."""

    def parameters(self, recurse=True):
        return iter([type("Parameter", (), {"device": MPS})])


def test_mps_computes_in_the_plain_memory_format():
    assert layers.memory_format(MPS) == torch.contiguous_format
    assert layers.memory_format(CPU) == layers.memory_format(torch.device("cuda")) == torch.channels_last


def test_on_mps_layers_stay_in_the_order_of_the_assignment(monkeypatch):
    kinds = [type(layer) for layer in layers.reorder_layers(make_cnn())[0][:3]]
    assert kinds == [nn.Conv2d, nn.MaxPool2d, nn.ReLU]
    model = OnMPS(2, 2)
    moves = []
    monkeypatch.setattr(nn.Module, "to", lambda self, **options: moves.append(options))
    assert layers.reorder_layers(model) is model
    assert moves == [{"memory_format": torch.contiguous_format}]


def test_mps_trains_in_float32_only():
    model = OnMPS(1, 1)
    network, run_epoch = device.accelerate(model, train_step, train_epoch)
    assert (network, run_epoch) == (model, train_epoch)
    assert isinstance(device.accelerate(nn.Linear(1, 1), train_step, train_epoch, "bf16")[0], layers.Autocast)
    with pytest.raises(ValueError, match="--precision bf16: on MPS networks train in float32 only"):
        device.accelerate(model, train_step, train_epoch, "bf16")


@pytest.mark.parametrize("wanted", [torch.contiguous_format, torch.channels_last])
def test_resident_batches_come_in_the_devices_format_with_the_same_numbers(monkeypatch, wanted):
    monkeypatch.setattr(gpu, "memory_format", lambda device: wanted)
    transform = crop_transform(torch.tensor([120.0, 125, 130]), torch.tensor([70.0, 72, 74]))
    plain = make_loader(*random_data(70), transform)
    loader = gpu.ResidentLoader(plain, CPU)
    seed_epoch(plain, 0, 1)
    expected = torch.cat([crops for crops, _ in plain])
    seed_epoch(loader, 0, 1)
    batches = [crops for crops, _ in loader]
    assert all(crops.is_contiguous(memory_format=wanted) for crops in batches)
    assert torch.equal(torch.cat(batches), expected)
