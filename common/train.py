"""The training loop of Q2, Q3 and Q5, and the one function that predicts."""

import math
import time
from functools import partial

import torch
from tqdm import tqdm

from common.data import EVALUATION_SEED, seed_epoch
from common.hardware.device import accelerate
from common.hardware.layers import reorder_layers

HISTORY_KEYS = ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "epoch_seconds")


def train_step(model, criterion, optimizer, images, labels, totals):
    """Take one optimizer step; add to `totals` the loss times the images, the correct predictions, and one.

    The last only while the loss is finite: so the failed step is known without waiting for the GPU at each.
    """
    logits = model(images)
    loss = criterion(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    totals[0] += loss.detach() * len(labels)
    totals[1] += (logits.argmax(1) == labels).sum()
    totals[2] += totals[0].isfinite()


def train_epoch(model, criterion, optimizer, loader, progress=iter):
    """Take a step for each batch; return the totals of all steps, float32 (3,), and the number of images.

    `progress` wraps the batches.
    """
    model.train()
    totals, count = torch.zeros(3, device=next(model.parameters()).device), 0
    for images, labels in progress(loader):
        train_step(model, criterion, optimizer, images, labels, totals)
        count += len(labels)
    return totals, count


def epoch_means(totals, count):
    """Return the mean loss and accuracy over the `count` images of an epoch, from the totals of `train_step`.

    They are running means: each batch is measured before its optimizer step. Raises FloatingPointError, naming
    the step, when a loss was NaN or infinite.
    """
    loss_sum, correct, good_steps = totals.tolist()
    if not math.isfinite(loss_sum):
        raise FloatingPointError(f"step {good_steps + 1:.0f}: the loss became NaN or infinite")
    return loss_sum / count, correct / count


@torch.no_grad()
def predict(model, loader, seed=EVALUATION_SEED, epoch=0):
    """Return the logits, float32 (n, classes), and labels, int64 (n,), of all images of `loader`, on the CPU.

    The crops depend on `seed` and `epoch` alone; torch's global random state is left alone.
    """
    network = reorder_layers(model.eval())
    seed_epoch(loader, seed, epoch)
    logits, labels, done = None, None, 0
    for images, targets in loader:
        outputs = network(images)
        if logits is None:
            # One tensor for all: a small one kept from each batch would split up the memory that the next batch needs.
            logits, labels = (each.new_empty(len(loader.dataset), *each.shape[1:]) for each in (outputs, targets))
        rows = slice(done, done + len(targets))
        logits[rows], labels[rows] = outputs, targets
        done += len(targets)
    return logits.cpu(), labels.cpu()


def loss_and_accuracy(criterion, logits, labels):
    """Return the mean loss, by `criterion`, and the share of labels that have the largest logit."""
    correct = (logits.argmax(1) == labels).sum().item()
    if isinstance(criterion, torch.nn.Module):  # class weights, for one, are where the training needs them
        device = next(criterion.buffers(), logits).device
        logits, labels = logits.to(device), labels.to(device)
    return criterion(logits, labels).item(), correct / len(labels)


def train(model, criterion, optimizer, train_loader, test_loader, epochs, seed, precision="float32", checkpoint=None):
    """Train `model` in place; return its history, a dict of lists with one entry per epoch.

    criterion: from logits and labels to the mean loss over images. The order and crops of an epoch
    depend on `seed` and the epoch's number alone, so that a run that resumes from its `checkpoint`, a
    TrainingCheckpoint, ends with the same bits as one that was not interrupted. Test metrics are of the float32
    network, whatever the precision. Raises FloatingPointError, with epoch, step and learning rate, when a loss becomes
    NaN or infinite.
    """
    network, run_epoch = accelerate(model, train_step, train_epoch, precision)
    history = checkpoint.restore(model, optimizer, epochs) if checkpoint else None
    history = history or {key: [] for key in HISTORY_KEYS}
    for epoch in range(len(history["test_loss"]) + 1, epochs + 1):
        start = time.perf_counter()
        seed_epoch(train_loader, seed, epoch)
        progress = partial(tqdm, desc=f"epoch {epoch}/{epochs}", unit="batch", leave=False, disable=None)
        try:
            totals = run_epoch(network, criterion, optimizer, train_loader, progress)
            train_loss, train_accuracy = epoch_means(*totals)
            test_loss, test_accuracy = loss_and_accuracy(criterion, *predict(model, test_loader))
            if not math.isfinite(test_loss):
                raise FloatingPointError(f"after its {len(train_loader)} steps: the test loss became NaN or infinite")
        except FloatingPointError as error:
            lr = optimizer.param_groups[0]["lr"]
            kept = f"; {checkpoint.path} keeps the state after epoch {epoch - 1}" if checkpoint and epoch > 1 else ""
            raise FloatingPointError(f"epoch {epoch}, {error} with --lr {lr}: try a lower one{kept}") from None
        values = (train_loss, test_loss, train_accuracy, test_accuracy, time.perf_counter() - start)
        for key, value in zip(HISTORY_KEYS, values, strict=True):
            history[key].append(value)
        if checkpoint:
            checkpoint.save(model, optimizer, history)
        print(
            f"epoch {epoch:3d}/{epochs}  loss: train {train_loss:.4f} test {test_loss:.4f}  "
            f"accuracy: train {train_accuracy:6.2%} test {test_accuracy:6.2%}  {values[-1]:.1f} s",
            flush=True,
        )
    return history
