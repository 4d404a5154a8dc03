"""The training loop of Q2, Q3 and Q5, and the one way to get predictions."""

import math
import time
from functools import partial

import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from common import distributed
from common.data import EVALUATION_SEED, seed_epoch
from common.device import in_precision, make_adam, memory_format
from common.graph import GraphedEpoch
from common.metrics import epoch_means
from common.models import pool_before_relu

HISTORY_KEYS = ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "epoch_seconds")


def train_step(model, images, labels, optimizer, sums):
    """Take one optimizer step; add to `sums`: the batch's loss, summed over images, its right answers, and one.

    The last only as long as the loss is finite: it counts the steps that went well, without a wait for the GPU.
    """
    logits = model(images)
    loss = cross_entropy(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    sums[0] += loss.detach() * len(labels)
    sums[1] += (logits.argmax(1) == labels).sum()
    sums[2] += sums[0].isfinite()


def train_epoch(model, loader, optimizer, device, progress=iter):
    """Take a step for each batch; return the epoch's mean loss (nats) and accuracy, by sample.

    Both are of the network as it was when it met each batch, before the step. `progress` wraps the batches.
    Raises FloatingPointError when the loss does not stay finite.
    """
    model.train()
    sums, count = torch.zeros(3, device=device), 0
    for images, labels in progress(loader):
        train_step(model, images, labels, optimizer, sums)
        count += len(labels)
    return epoch_means(sums, count)


def on_device(model, device):
    """Move `model` to the device, in place; return a network of its layers in the order that is fastest there."""
    model.to(device, memory_format=memory_format(device))  # the order the loader's crops come in
    return model if device.type == "mps" else pool_before_relu(model)


@torch.no_grad()
def predict(model, loader, device, draw=(EVALUATION_SEED, 0)):
    """Return the logits, float32 (n, classes), and labels, int64 (n,), of all of `loader`, on the CPU.

    The crops depend on `draw` alone, the seed and epoch of a pass; torch's global random state is left alone.
    """
    model = on_device(model, device).eval()
    seed_epoch(loader, *draw)
    batches = [(model(images), labels) for images, labels in loader]
    logits, labels = zip(*batches, strict=True)
    return torch.cat(logits).cpu(), torch.cat(labels).cpu()


def loss_and_accuracy(logits, labels):
    """Return the mean cross entropy (nats) and the share of labels that have the largest logit."""
    correct = (logits.argmax(1) == labels).sum().item()
    return cross_entropy(logits, labels).item(), correct / len(labels)


def train(model, train_loader, test_loader, args, device, state):
    """Train `model` in place with Adam; return its history, a dict of lists with one entry an epoch.

    args: epochs, lr, seed and precision, as the command line gives them. Only parameters that require a
    gradient are given to Adam. What an epoch draws, order and crops, depends on the seed and the epoch's
    number alone, so that a run goes on from its `state`, a TrainingState, as if it had not been broken off.
    Test figures are of the float32 network, whatever the precision. Raises FloatingPointError, with epoch, step
    and learning rate, when the loss does not stay finite.
    """
    network = in_precision(on_device(model, device), device, args.precision)
    optimizer = make_adam(model, args.lr, device)
    run_epoch = train_epoch
    if torch.distributed.is_initialized():
        network, run_epoch = distributed.shared(network, train_epoch)
    elif device.type == "cuda":
        run_epoch = GraphedEpoch(train_step)
    history = state.restore(model, optimizer) or {key: [] for key in HISTORY_KEYS}
    for epoch in range(len(history["test_loss"]) + 1, args.epochs + 1):
        start = time.perf_counter()
        seed_epoch(train_loader, args.seed, epoch)
        progress = partial(tqdm, desc=f"epoch {epoch}/{args.epochs}", unit="batch", leave=False, disable=None)
        try:
            train_loss, train_accuracy = run_epoch(network, train_loader, optimizer, device, progress)
            test_loss, test_accuracy = loss_and_accuracy(*predict(model, test_loader, device))
            if not math.isfinite(test_loss):
                raise FloatingPointError(f"after its {len(train_loader)} steps: the test loss became NaN or infinite")
        except FloatingPointError as error:
            kept = f"; {state.path} keeps the state after epoch {epoch - 1}" if epoch > 1 else ""
            raise FloatingPointError(f"epoch {epoch}, {error} with --lr {args.lr}: try a lower one{kept}") from None
        figures = (train_loss, test_loss, train_accuracy, test_accuracy, time.perf_counter() - start)
        for key, figure in zip(HISTORY_KEYS, figures, strict=True):
            history[key].append(figure)
        state.save(model, optimizer, history)
        print(
            f"epoch {epoch:3d}/{args.epochs}  loss: train {train_loss:.4f} test {test_loss:.4f}  "
            f"accuracy: train {train_accuracy:6.2%} test {test_accuracy:6.2%}  {figures[-1]:.1f} s",
            flush=True,
        )
    return history
