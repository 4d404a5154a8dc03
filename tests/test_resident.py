"""The GPU's loader and graphed epoch, whose logic is the same on the CPU, where it is tested."""

from common.data import make_loader, seed_epoch
from common.hardware.device import adam_options
from common.hardware.gpu import GraphedEpoch, ResidentLoader
from common.train import epoch_means, train_epoch, train_step
from q3_cnn import make_cnn

import pytest
import torch
from conftest import crop_transform, random_data
from test_seams import focal_loss
from torch import nn

CPU = torch.device("cpu")
MEAN, STD = torch.tensor([120.0, 125, 130]), torch.tensor([70.0, 72, 74])


def loaders(count=200, shuffle=True):
    loader = make_loader(*random_data(count), crop_transform(MEAN, STD), shuffle=shuffle)
    return loader, ResidentLoader(loader, CPU)


def test_larger_batches_have_the_same_crops():
    plain, _ = loaders()
    larger = ResidentLoader(plain, CPU, batch_size=150)
    seed_epoch(plain, 3, 1)
    crops, labels = map(torch.cat, zip(*plain, strict=True))
    seed_epoch(larger, 3, 1)
    batches = list(larger)
    assert [len(each) for _, each in batches] == [150, 50]
    assert torch.equal(torch.cat([each for each, _ in batches]), crops)
    assert torch.equal(torch.cat([each for _, each in batches]), labels)


@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_are_those_of_the_dataloader(shuffle):
    plain, resident = loaders(shuffle=shuffle)
    for epoch in (1, 2):
        seed_epoch(plain, 3, epoch)
        expected = list(plain)
        seed_epoch(resident, 3, epoch)
        batches = list(resident)
        assert len(resident) == len(plain) == len(batches) == 4
        for (crops, labels), (other_crops, other_labels) in zip(expected, batches, strict=True):
            assert torch.equal(labels, other_labels)
            assert torch.equal(crops, other_crops)


def train(run_epoch, criterion, epochs=2):
    torch.manual_seed(0)
    model = make_cnn()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002, **adam_options(CPU))
    _, resident = loaders(count=8 * 64 + 10)
    figures = []
    for epoch in range(1, epochs + 1):
        seed_epoch(resident, 0, epoch)
        figures.append(epoch_means(*run_epoch(model, criterion, optimizer, resident)))
    return figures, model.state_dict()


class Recorder:
    """Stands in for the capture of a CUDA graph: nothing runs at capture, the step at each replay."""

    def __init__(self):
        self.captures = self.replays = 0

    def __call__(self, step):
        self.captures += 1

        def replay():
            self.replays += 1
            step()

        return replay


def same(first, second):
    (figures, weights), (other_figures, other_weights) = first, second
    return figures == other_figures and all(torch.equal(weights[key], other_weights[key]) for key in weights)


@pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss(), focal_loss])
def test_a_graphed_epoch_takes_the_same_steps_as_a_plain_one(criterion):
    recorder = Recorder()
    graphed = train(GraphedEpoch(train_step, recorder), criterion)
    assert same(graphed, train(train_epoch, criterion))
    assert recorder.captures == 1
    # Two epochs of eight whole batches and a small one: three to warm up, and the small ones, are not replayed.
    assert recorder.replays == 2 * 8 - GraphedEpoch.WARM_UP


def test_where_no_graph_can_be_captured_training_goes_on_step_by_step(capsys):
    def refuse(step):
        raise RuntimeError("operation not permitted when stream is capturing")

    cross_entropy = nn.CrossEntropyLoss()
    assert same(train(GraphedEpoch(train_step, refuse), cross_entropy), train(train_epoch, cross_entropy))
    assert capsys.readouterr().out.count("No CUDA graph") == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_captured_graph_gives_the_losses_of_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # as choose_device does
    plain, _ = loaders(count=1000)
    losses = []
    for device in (CPU, torch.device("cuda")):
        torch.manual_seed(0)
        model = make_cnn().to(device)
        loader = plain if device.type == "cpu" else ResidentLoader(plain, device)
        run_epoch = train_epoch if device.type == "cpu" else GraphedEpoch(train_step)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.002, **adam_options(device))
        seed_epoch(loader, 0, 1)
        losses.append(epoch_means(*run_epoch(model, nn.CrossEntropyLoss(), optimizer, loader))[0])
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
