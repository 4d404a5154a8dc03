"""Where your own code goes in: a criterion, and what a resumed run must keep: options, network, loss, transform."""

import copy
from inspect import isfunction
from types import FunctionType

from common.data import RandomCrop
from common.storage.resume import TrainingCheckpoint, definition
from common.symmetries import RandomSymmetry
from common.train import loss_and_accuracy, predict, train
from q2_fcn import make_fcn

import pytest
import torch
from conftest import loaders_of, random_data
from torch import nn
from torch.nn.functional import log_softmax
from torchvision import transforms

CROP = [RandomCrop(48), transforms.Normalize([127.5] * 3, [73.9] * 3)]


def focal_loss(logits, labels):
    """Lin et al. 2017 with gamma = 2, a mean over images."""
    log_probability = log_softmax(logits, 1).gather(1, labels[:, None])[:, 0]
    return (-((1 - log_probability.exp()) ** 2) * log_probability).mean()


def test_histories_hold_the_criterions_values():
    torch.manual_seed(0)
    model = make_fcn()
    loaders = loaders_of(random_data(150), random_data(70), transforms.Compose(CROP))
    history = train(model, focal_loss, torch.optim.Adam(model.parameters(), lr=0.001), *loaders, epochs=1, seed=0)
    logits, labels = predict(model, loaders[1])
    assert history["test_loss"] == [focal_loss(logits, labels).item()]
    weighted = nn.CrossEntropyLoss(weight=torch.arange(1.0, 9.0))
    assert loss_and_accuracy(weighted, logits, labels)[0] == weighted(logits, labels).item()


def test_a_new_option_must_agree_when_a_run_resumes_unless_it_is_listed_as_free(tmp_path):
    model = make_fcn()
    optimizer = torch.optim.Adam(model.parameters())

    def checkpoint(**options):
        settings = {"out": tmp_path, "resume": "always", "epochs": 7, "lr": 0.1, **options}
        return TrainingCheckpoint("q2_fcn", settings, {"fingerprint": "abc"})

    checkpoint(flip=True).save(model, optimizer, {"test_loss": [1.0]})
    assert checkpoint(flip=True, epochs=9, device="cuda").restore(model, optimizer, 9) == {"test_loss": [1.0]}
    for options, words in (({"flip": False}, "--flip True, not False"), ({}, "--flip True, not None")):
        with pytest.raises(ValueError, match=words):
            checkpoint(**options).restore(model, optimizer, 7)
    with pytest.raises(ValueError, match=r"--mixup None, not 0\.2"):
        checkpoint(flip=True, mixup=0.2).restore(model, optimizer, 7)


class Darker(nn.Module):
    """A transform whose source is its own."""

    def forward(self, crops):
        return crops - 1


def at_another_address(thing):
    """Copy a thing, as another process would make it."""
    return FunctionType(thing.__code__, globals()) if isfunction(thing) else copy.deepcopy(thing)


def test_what_defines_a_run_is_told_apart():
    things = [nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Sequential(nn.Linear(2, 2), nn.Tanh())]
    things += [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1), focal_loss]
    things += [transforms.Compose([*CROP, *extra]) for extra in ([], [RandomSymmetry()], [Darker()])]
    things += [transforms.Compose([RandomCrop(47), CROP[1]])]
    things.append(lambda crops: crops + 1)
    things.append(lambda crops: crops + 2)
    found = list(map(definition, things))
    assert len(set(found)) == len(things)
    assert [definition(at_another_address(thing)) for thing in things] == found


def test_a_run_does_not_resume_under_another_transform(tmp_path):
    model = make_fcn()
    optimizer = torch.optim.Adam(model.parameters())
    options = {"out": tmp_path, "resume": "always", "epochs": 7}

    def checkpoint(*extra):
        transform = transforms.Compose([*CROP, *extra])
        return TrainingCheckpoint("q2_fcn", options, {"fingerprint": "abc"}, transform=transform)

    checkpoint(RandomSymmetry()).save(model, optimizer, {"test_loss": [1.0]})
    assert checkpoint(RandomSymmetry()).restore(model, optimizer, 7) == {"test_loss": [1.0]}
    with pytest.raises(ValueError, match="belongs to a run with different transform: rerun without --resume"):
        checkpoint().restore(model, optimizer, 7)
