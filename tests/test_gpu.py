"""The step that a GPU replays: its logic, which is tested on the CPU, and its bits, where there is a card."""

from functools import partial

from common.data import Loader, MyDataset
from common.hardware.device import adam_options, bind_step, choose_device
from common.hardware.gpu import CapturedStep
from common.train import train, train_step
from q3_cnn import make_cnn

import pytest
import torch
from conftest import crop_transform, random_data, run_well
from test_seams import focal_loss
from torch import nn

CPU = torch.device("cpu")
MEAN, STD = torch.tensor([120.0, 125, 130]), torch.tensor([70.0, 72, 74])


@pytest.fixture
def cuda():
    """The CUDA device, with deterministic algorithms."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    yield choose_device("cuda", deterministic=True)
    torch.use_deterministic_algorithms(False)


class Recorder:
    """Stands in for the capture of a CUDA graph: nothing runs at capture, the step at each replay."""

    def __init__(self):
        self.captures = self.replays = 0

    def __call__(self, step):
        self.captures += 1
        outputs = torch.zeros(()), torch.zeros((), dtype=torch.int64)

        def replay():
            self.replays += 1
            for place, value in zip(outputs, step(), strict=True):
                place.copy_(value)

        return replay, outputs


def loader(device=CPU, count=4 * 64 + 10):
    return Loader(MyDataset(*random_data(count), crop_transform(MEAN, STD)), shuffle=True, device=device)


def take_steps(bind, criterion=None, schedule=False, device=CPU):
    """Train the CNN for two epochs of four whole batches and a small one; return losses, hits and weights."""
    torch.manual_seed(0)
    model = make_cnn().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002, **adam_options(device))
    step = bind(train_step, model, criterion or nn.CrossEntropyLoss(), optimizer)
    results = []
    for epoch in (1, 2):
        results += [float(each) for batch in loader(device).batches(0, epoch) for each in step(*batch)]
        optimizer.param_groups[0]["lr"] *= 0.5 if schedule else 1
    return results, [parameter.tolist() for parameter in model.parameters()]


@pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss(), focal_loss])
def test_replayed_steps_are_the_plain_ones(criterion):
    recorder = Recorder()
    replayed = take_steps(lambda *parts: CapturedStep(*parts, capture=recorder), criterion)
    assert replayed == take_steps(bind_step, criterion)
    assert recorder.captures == 1
    assert recorder.replays == 2 * 4 - CapturedStep.WARM_UP  # the small batches are not replayed


def test_a_step_is_captured_again_when_the_learning_rate_changes():
    recorder = Recorder()
    replayed = take_steps(lambda *parts: CapturedStep(*parts, capture=recorder), schedule=True)
    assert replayed == take_steps(bind_step, schedule=True)
    assert recorder.captures == 2


def test_where_no_graph_can_be_captured_training_goes_on_step_by_step(capsys):
    def refuse(step):
        raise RuntimeError("operation not permitted when stream is capturing")

    assert take_steps(lambda *parts: CapturedStep(*parts, capture=refuse)) == take_steps(bind_step)
    assert capsys.readouterr().out.count("No CUDA graph") == 1


def test_a_captured_graph_gives_the_losses_of_the_cpu(cuda):
    losses = []
    for device in (CPU, cuda):
        torch.manual_seed(0)
        model = make_cnn().to(device)
        loaders = loader(device, 1000), loader(device, 100)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.002, **adam_options(device))
        losses.append(train(model, nn.CrossEntropyLoss(), optimizer, *loaders, epochs=1, seed=0)["train_loss"][0])
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_replayed_and_plain_steps_give_the_same_bits_on_a_card(cuda):
    replayed = take_steps(bind_step, device=cuda)
    assert replayed == take_steps(partial, device=cuda)


def test_a_run_that_resumes_on_a_card_ends_with_the_bits_of_an_uninterrupted_one(cuda, synthetic_run, tmp_path):
    (tmp_path / "q1_data.pt").symlink_to(synthetic_run[0] / "q1_data.pt")
    command = ("q3_cnn.py", "--deterministic", "--device", "cuda", "--out", tmp_path)
    run_well(*command, "--epochs", 3)
    whole = (tmp_path / "q3_cnn.pt").read_bytes()
    run_well(*command, "--epochs", 1)
    assert "1 of 3 epochs are done" in run_well(*command, "--epochs", 3, "--resume")
    assert (tmp_path / "q3_cnn.pt").read_bytes() == whole
