"""The epochs that bench.py times: of this project, of the baseline and of the notebook's own code, in turn.

The baseline and the notebook have a process of their own, in which nothing is set that this project sets.
"""

import multiprocessing
import os
import statistics
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from unittest import mock

from benchmarks import baseline
from benchmarks.measure import ROOT, alternate, seconds
from common.data import Loader, MyDataset, RandomCrop, load_data
from common.galaxies.facts import MAIN_CLASSES, SUBSETS
from common.hardware.device import adam_options
from common.train import train
from q2_fcn import make_fcn
from q3_cnn import make_backbone, make_cnn

import numpy as np
import torch
from torch import nn
from torchvision import transforms


def loaders_of(data, task, device):
    """Return the training and the test loader of a task of Q1's data, as the scripts make them."""
    transform = transforms.Compose([RandomCrop(48), transforms.Normalize(data["mean"], data["std"])])
    train_set, test_set = (
        MyDataset(data[f"{task}_{half}_images"], data[f"{task}_{half}_labels"], transform) for half in ("train", "test")
    )
    return Loader(train_set, shuffle=True, device=device), Loader(test_set, device=device)


def epoch_seconds(model, loaders, device):
    """Return how long an epoch with its evaluation takes: the median of several on a GPU, whose first one is slower."""
    trainable = [parameter for parameter in model.to(device).parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=0.001, **adam_options(device))
    epochs = 1 if device.type == "cpu" else 5
    history = train(model, nn.CrossEntropyLoss(), optimizer, *loaders, epochs, seed=0, quiet=True)
    return statistics.median(history["epoch_seconds"])


def make_frozen():
    """Return Q5's network: a backbone that is not trained, and a head of two classes."""
    return nn.Sequential(make_backbone().requires_grad_(False), nn.Linear(64, 2))


def our_tasks(data, device):
    """Return functions that return how long each part takes here, by name."""
    main, transfer = (loaders_of(data, task, device) for task in ("main", "transfer"))
    return {
        "loading alone": partial(seconds, lambda: [None for _ in main[0].batches(0, 1)], device),
        "FCN": partial(epoch_seconds, make_fcn(), main, device),
        "CNN": partial(epoch_seconds, make_cnn(), main, device),
        "transfer": partial(epoch_seconds, make_frozen(), transfer, device),
    }


@cache
def baseline_tasks(out, device):
    """Return functions that do the same as baseline.py does it, by name; out: folder of q1_data.pt."""
    data = load_data(out)
    main, transfer = (
        [
            baseline.make_loader(
                data[f"{task}_{half}_images"], data[f"{task}_{half}_labels"], data["mean"], data["std"], half == "train"
            )
            for half in ("train", "test")
        ]
        for task in ("main", "transfer")
    )

    def epoch(model, loaders):
        optimizer = baseline.make_optimizer(model.to(device), 0.001)
        return partial(baseline.run_epoch, model, *loaders, optimizer, device)

    return {
        "loading alone": lambda: [None for _ in main[0]],
        "FCN": epoch(make_fcn(), main),
        "CNN": epoch(make_cnn(), main),
        "transfer": epoch(make_frozen(), transfer),
    }


@cache
def notebook_tasks(out, device):
    """Return functions that do the same as course/galaxies.py does it, by name; out: folder of q1_data.pt."""
    data = load_data(out)
    cells = (ROOT / "course" / "galaxies.py").read_text(encoding="utf-8").split("\n# %% ")
    cells = dict(cell.split("\n", 1) for cell in cells)
    names = {"print": lambda *_: None, "SEED": 0}
    exec(cells["imports"], names)
    ends = np.cumsum([len(data[f"{subset}_labels"]) for subset in SUBSETS])
    names |= {
        "device": device,
        "images": torch.cat([data[f"{subset}_images"] for subset in SUBSETS]),
        "labels": torch.cat([data[f"{subset}_labels"] + MAIN_CLASSES * ("transfer" in subset) for subset in SUBSETS]),
        "mean": data["mean"],
        "std": data["std"],
    }
    for subset, start, end in zip(SUBSETS, [0, *ends], ends, strict=False):
        names[f"{subset}_indices"] = torch.arange(start, end)
    for title in ("dataset", "datasets", "loaders", "train", "predict", "fcn", "cnn", "transfer", "cnn"):
        exec(cells[title], names)  # of `transfer`, the frozen backbone; of the second `cnn`, one that is not

    def epoch(network, optimizer, task):
        loaders = [names[f"{task}_{half}_loader"] for half in ("train", "test")]
        return partial(names["train"], names[network], names[optimizer], *loaders, 1)

    return {
        "loading alone": lambda: [None for _ in names["main_train_loader"]],
        "FCN": epoch("fcn", "fcn_optimizer", "main"),
        "CNN": epoch("cnn", "cnn_optimizer", "main"),
        "transfer": epoch("transfer_model", "transfer_optimizer", "transfer"),
    }


def run_elsewhere(make_tasks, out, name, device):
    """Return how long a task takes in this process, that of the baseline and the notebook."""
    return seconds(make_tasks(out, device)[name], device)


def in_process(process, function, *args):
    """Return what a function returns in the process of an executor."""
    return process.submit(function, *args).result()


@contextmanager
def busy_process():
    """Keep one core busy inside the block, with another process."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def time_everything(out, data, rounds, device):
    """Return the timings of each task, by name; of the CNN also beside a busy process."""
    timings = {}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        with mock.patch.dict(os.environ, GOMP_SPINCOUNT="300000"):  # OpenMP's default; ours is in common/__init__.py
            process.submit(int).result()
        for name, task in our_tasks(data, device).items():
            ways = {"seconds": task}
            for way, make_tasks in (("baseline_seconds", baseline_tasks), ("notebook_seconds", notebook_tasks)):
                ways[way] = partial(in_process, process, run_elsewhere, make_tasks, out, name, device)
            for way in ways.values():
                way()  # to warm up
            timings[name] = alternate(ways, rounds)
            if name == "CNN":
                with busy_process():
                    timings["CNN, busy"] = alternate(ways, rounds)
    for name, timing in timings.items():
        images = len(data["transfer_train_labels" if name == "transfer" else "main_train_labels"])
        timing["images_per_second"] = images / timing["seconds"]
    return timings
