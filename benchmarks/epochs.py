"""The epochs that bench.py times, of this project and of the baseline, the two in turn.

The baseline has a process of its own, in which nothing is set that common/hardware/device.py sets here.
"""

import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial

from benchmarks import baseline
from benchmarks.measure import seconds
from common.data import Normalize, RandomCrop, load_data, make_loaders, seed_epoch
from common.hardware.device import accelerate, adam_options, place
from common.train import epoch_means, predict, train_epoch, train_step
from q2_fcn import make_fcn
from q3_cnn import make_backbone, make_cnn

import torch
from torch import nn
from torchvision import transforms


def alternate(ours, baseline, rounds):
    """Call both in turn, which return seconds; return the medians, and the median of the rounds' baseline / ours."""
    ours(), baseline()  # to warm up
    pairs = [(ours(), baseline()) for _ in range(rounds)]
    ours, baseline = (statistics.median(times) for times in zip(*pairs, strict=True))
    return {"seconds": ours, "baseline_seconds": baseline, "ratio": statistics.median(b / a for a, b in pairs)}


def our_epoch(model, task, device, precision="float32"):
    """Return a function that trains and evaluates for an epoch, as common.train does."""
    criterion = nn.CrossEntropyLoss()
    trainable = [parameter for parameter in model.to(device).parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=0.001, **adam_options(device))
    network, run_epoch = accelerate(model, train_step, train_epoch, precision)

    def epoch():
        seed_epoch(task.train_loader, 0, 1)
        epoch_means(*run_epoch(network, criterion, optimizer, task.train_loader))
        predict(model, task.test_loader)

    return epoch


def our_tasks(data, device):
    """Return functions that do what is timed, by name."""
    transform = transforms.Compose([RandomCrop(48), Normalize(data["mean"], data["std"])])
    main, transfer = (place(make_loaders(data, task, transform), device) for task in ("main", "transfer"))
    frozen = nn.Sequential(make_backbone().requires_grad_(False), nn.Linear(64, 2))
    return {
        "loading alone": lambda: [None for _ in main.train_loader],
        "FCN": our_epoch(make_fcn(), main, device),
        "CNN": our_epoch(make_cnn(), main, device),
        "transfer": our_epoch(frozen, transfer, device),
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
        "FCN": epoch(baseline.fully_connected(), main),
        "CNN": epoch(baseline.convolutional(8), main),
        "transfer": epoch(baseline.convolutional(2, frozen=True), transfer),
    }


def run_baseline(out, name, device):
    """Return how long a task takes in this process, the baseline's."""
    return seconds(baseline_tasks(out, device)[name], device)


def in_process(process, function, *args):
    """Return what a function returns in the process of an executor."""
    return process.submit(function, *args).result()


def time_everything(out, data, rounds, device):
    """Return the timings of each task, by name."""
    timings = {}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        for name, task in our_tasks(data, device).items():
            baseline_seconds = partial(in_process, process, run_baseline, out, name, device)
            timings[name] = alternate(partial(seconds, task, device), baseline_seconds, rounds)
            images = len(data["transfer_train_labels" if name == "transfer" else "main_train_labels"])
            timings[name]["images_per_second"] = images / timings[name]["seconds"]
    return timings
