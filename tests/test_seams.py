"""Where your own code goes in: a transform for training only, a criterion, an option that a resumed run must keep."""

from common.data import Normalize, RandomCrop, make_loaders, seed_epoch
from common.hardware.gpu import ResidentLoader
from common.storage.resume import TrainingCheckpoint
from common.train import loss_and_accuracy, predict, train
from q2_fcn import make_fcn

import pytest
import torch
from conftest import random_data
from torch import nn
from torch.nn.functional import log_softmax
from torchvision import transforms

CPU = torch.device("cpu")
CROP = [RandomCrop(48), Normalize(torch.full((3,), 127.5), torch.full((3,), 73.9))]


class RandomShift:
    """Add a random integer to all pixels of each image: a transform that knows whole batches."""

    def sample_params(self, count, generator):
        return torch.randint(1, 1000, (count,), generator=generator)

    def __call__(self, images, shift):
        return images + shift[:, None, None, None]


def make_task(train_transform=None, resident=False):
    """The Task of 150 training and 70 test images of noise; resident: as on a GPU, but on the CPU."""
    data = {"class_names": list("abcdefghij")}
    for subset, count in (("train", 150), ("test", 70)):
        data[f"main_{subset}_images"], data[f"main_{subset}_labels"] = random_data(count)
    task = make_loaders(data, "main", transforms.Compose(CROP), train_transform=train_transform)
    if not resident:
        return task
    train_loader, test_loader = (ResidentLoader(loader, CPU) for loader in (task.train_loader, task.test_loader))
    return task._replace(train_loader=train_loader, test_loader=test_loader)


def epoch_of(loader, epoch=1):
    """All crops and labels of an epoch."""
    seed_epoch(loader, 0, epoch)
    crops, labels = zip(*loader, strict=True)
    return torch.cat(crops), torch.cat(labels)


@pytest.mark.parametrize("resident", [False, True])
def test_a_training_transform_changes_each_training_image_and_no_test_image(resident):
    plain_task, task = make_task(resident=resident), make_task(transforms.Compose([*CROP, RandomShift()]), resident)
    crops, plain = epoch_of(task.train_loader)[0], epoch_of(plain_task.train_loader)[0]
    shift = (crops - plain).mean((1, 2, 3))
    assert (crops - plain - shift[:, None, None, None]).abs().max() < 1e-3  # the crops below are the same
    assert shift.round().unique().numel() > 100
    assert torch.equal(epoch_of(task.test_loader)[0], epoch_of(plain_task.test_loader)[0])


@pytest.mark.parametrize("extra", [RandomShift(), transforms.RandomHorizontalFlip(), transforms.RandomErasing(p=1)])
def test_a_random_transform_depends_on_seed_and_epoch_alone_and_is_the_same_on_both_paths(extra):
    transform = transforms.Compose([*CROP, extra])
    plain, resident = (make_task(transform, resident).train_loader for resident in (False, True))
    first = epoch_of(plain)[0]
    state = torch.get_rng_state()
    assert torch.equal(epoch_of(resident)[0], first)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    epoch_of(plain, epoch=2)
    assert torch.equal(epoch_of(plain)[0], first)
    assert not torch.equal(epoch_of(plain, epoch=2)[0], first)


def test_torchvisions_random_flip_is_decided_for_each_image():
    flip = transforms.Compose([*CROP, transforms.RandomHorizontalFlip()])
    plain, flipped = (epoch_of(make_task(transform).train_loader)[0] for transform in (None, flip))
    same = [torch.equal(crop, other) for crop, other in zip(plain, flipped, strict=True)]
    mirrored = [torch.equal(crop.flip(-1), other) for crop, other in zip(plain, flipped, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    assert 50 < sum(same) < 100  # of 150, four standard deviations


def test_the_first_transform_must_be_the_crop_of_each_image():
    with pytest.raises(ValueError, match=r"must be common\.data\.RandomCrop, not RandomHorizontalFlip"):
        make_task(transforms.Compose([transforms.RandomHorizontalFlip(), *CROP]))


def focal_loss(logits, labels):
    """Lin et al. 2017 with gamma = 2, a mean over images."""
    log_probability = log_softmax(logits, 1).gather(1, labels[:, None])[:, 0]
    return (-((1 - log_probability.exp()) ** 2) * log_probability).mean()


def test_histories_hold_the_criterions_values():
    torch.manual_seed(0)
    model = make_fcn()
    task = make_task()
    history = train(model, focal_loss, torch.optim.Adam(model.parameters(), lr=0.001), task, epochs=1, seed=0)
    logits, labels = predict(model, task.test_loader)
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
