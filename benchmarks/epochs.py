"""Time epochs for bench.py: this project's, and the baseline's in a separate process, in turn."""

import multiprocessing
import os
import statistics
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from unittest import mock

from benchmarks import baseline
from benchmarks.measure import compare, seconds
from common.data import Loader, MyDataset, RandomCrop, load_data
from common.hardware.device import adam_options
from common.train import train
from q2_fcn import make_fcn
from q3_cnn import make_backbone, make_cnn

import torch
from torch import nn
from torchvision import transforms


def loaders_of(data, task, device):
    """Return the training and test loader of a task, main or transfer, as the scripts create them."""
    transform = transforms.Compose([RandomCrop(48), transforms.Normalize(data["mean"], data["std"])])
    train_set, test_set = (
        MyDataset(data[f"{task}_{half}_images"], data[f"{task}_{half}_labels"], transform) for half in ("train", "test")
    )
    return Loader(train_set, shuffle=True, device=device), Loader(test_set, device=device)


def epoch_seconds(model, loaders, device):
    """Return the duration of an epoch with its evaluation: on a GPU the median of five, as the first is slower."""
    trainable = [parameter for parameter in model.to(device).parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=0.001, **adam_options(device))
    epochs = 1 if device.type == "cpu" else 5
    history = train(model, nn.CrossEntropyLoss(), optimizer, *loaders, epochs, seed=0, quiet=True)
    return statistics.median(history["epoch_seconds"])


def make_frozen():
    """Return Q5's network: a frozen backbone and a head with two classes."""
    return nn.Sequential(make_backbone().requires_grad_(False), nn.Linear(64, 2))


def our_tasks(data, device):
    """Return functions, by name, that return the duration of each task in this project."""
    main, transfer = (loaders_of(data, task, device) for task in ("main", "transfer"))
    return {
        "loading alone": partial(seconds, lambda: [None for _ in main[0].batches(0, 1)], device),
        "FCN": partial(epoch_seconds, make_fcn(), main, device),
        "CNN": partial(epoch_seconds, make_cnn(), main, device),
        "transfer": partial(epoch_seconds, make_frozen(), transfer, device),
    }


@cache
def baseline_tasks(out, device):
    """Return functions, by name, that run the same tasks with baseline.py; out: folder of q1_data.pt."""
    data = load_data(out)

    def loader(task, half):
        images, labels = data[f"{task}_{half}_images"], data[f"{task}_{half}_labels"]
        return baseline.make_loader(images, labels, data["mean"], data["std"], shuffle=half == "train")

    def epoch(model, loaders):
        optimizer = baseline.make_optimizer(model.to(device), 0.001)
        return partial(baseline.run_epoch, model, *loaders, optimizer, device)

    main, transfer = ([loader(task, half) for half in ("train", "test")] for task in ("main", "transfer"))
    return {
        "loading alone": lambda: [None for _ in main[0]],
        "FCN": epoch(make_fcn(), main),
        "CNN": epoch(make_cnn(), main),
        "transfer": epoch(make_frozen(), transfer),
    }


def baseline_seconds(name, out, device):
    """Return the duration of a baseline task in this process."""
    return seconds(baseline_tasks(out, device)[name], device)


def time_epochs(out, data, rounds, device):
    """Return the timings of each task by name, for the CNN also next to a busy process."""
    timings = {}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        with mock.patch.dict(os.environ, GOMP_SPINCOUNT="300000"):  # OpenMP's default; ours is in common/__init__.py
            process.submit(int).result()

        def there(name):
            return process.submit(baseline_seconds, name, out, device).result()

        for name, here in our_tasks(data, device).items():
            compare(here, partial(there, name), 1)  # to warm up
            timings[name] = compare(here, partial(there, name), rounds)
            if name == "CNN":
                busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                try:
                    timings["CNN, busy"] = compare(here, partial(there, name), rounds)
                finally:
                    busy.kill()
                    busy.wait()
    for name, timing in timings.items():
        images = len(data["transfer_train_labels" if name == "transfer" else "main_train_labels"])
        timing["images_per_second"] = images / timing["seconds"]
    return timings
