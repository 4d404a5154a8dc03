"""The training loop of Q2, Q3 and Q5, the one function that predicts, and the record of a trained network."""

import math
import time
from functools import partial

from common.data import EVALUATION_SEED, seed_epoch
from common.hardware.device import accelerate
from common.hardware.layers import reorder_layers
from common.metrics import accuracy_interval, majority_accuracy
from common.storage.checkpoint import weights_hash

import scipy
import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm

HISTORY_KEYS = ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "epoch_seconds")


def train_step(model, criterion, optimizer, images, labels):
    """Take one optimizer step; return the batch's mean loss and number of correct predictions before it."""
    logits = model(images)
    loss = criterion(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach(), (logits.argmax(1) == labels).sum()


def train_epoch(model, criterion, optimizer, loader, progress=iter):
    """Take a step for each batch; return each step's loss times its number of images, and the epoch's counts.

    The losses are float32 (steps,); the counts are those of correct predictions and of images. `progress` wraps the
    batches.
    """
    model.train()
    losses, correct, count = [], 0, 0
    for images, labels in progress(loader):
        loss, hits = train_step(model, criterion, optimizer, images, labels)
        losses.append(loss * len(labels))
        correct += hits
        count += len(labels)
    return torch.stack(losses), correct, count


def epoch_means(losses, correct, count):
    """Return the mean loss and accuracy over the images of an epoch, from what `train_epoch` returns.

    They are running means: each batch is measured before its optimizer step. Raises FloatingPointError, naming
    the step, when a loss was NaN or infinite.
    """
    losses = losses.cpu()
    finite = losses.isfinite()
    if not finite.all():
        raise FloatingPointError(f"step {finite.int().argmin() + 1}: the loss became NaN or infinite")
    return sum(losses).item() / count, correct.item() / count


def train_epochs(model, criterion, optimizer, loader, epochs, seed, precision="float32", done=0, show_progress=False):
    """Train `model` in place; yield the number, mean loss and accuracy of each epoch from `done` + 1 to `epochs`.

    The order and crops of an epoch depend on `seed` and the epoch's number, not on the epochs before it, so that a run
    that continues after `done` epochs ends with the same bits as one that was not interrupted. Raises
    FloatingPointError, with epoch, step and learning rate, when a loss becomes NaN or infinite.
    """
    # On a CPU `run_epoch` is `train_epoch`; on a GPU it takes the same steps by replaying a CUDA graph.
    network, run_epoch = accelerate(model, train_step, train_epoch, precision)
    if isinstance(criterion, torch.nn.Module):  # it may hold class weights
        criterion.to(next(model.parameters()).device)
    for epoch in range(done + 1, epochs + 1):
        seed_epoch(loader, seed, epoch)
        disable = None if show_progress else True  # None: tqdm shows itself on a terminal alone
        progress = partial(tqdm, desc=f"epoch {epoch}/{epochs}", unit="batch", leave=False, disable=disable)
        try:
            loss, accuracy = epoch_means(*run_epoch(network, criterion, optimizer, loader, progress))
        except FloatingPointError as error:
            lr = optimizer.param_groups[0]["lr"]
            raise FloatingPointError(f"epoch {epoch}, {error} with --lr {lr}: try a lower one") from None
        yield epoch, loss, accuracy


def train(model, criterion, optimizer, task, epochs, seed, precision="float32", checkpoint=None):
    """Train `model` in place on a Task; return its history, a dict of lists with one entry per epoch.

    criterion: from logits and labels to the mean loss over images. After each epoch the float32 network is evaluated on
    the test images, a line is printed, and `checkpoint`, a TrainingCheckpoint, is saved: from it a later run resumes.
    Raises FloatingPointError as `train_epochs` does, and when the test loss becomes NaN or infinite.
    """
    reorder_layers(model)  # changes the weights' memory format; before `restore`, as Adam's moments must have the same
    history = checkpoint.restore(model, optimizer, epochs) if checkpoint else None
    history = history or {key: [] for key in HISTORY_KEYS}
    done, start = len(history["test_loss"]), time.perf_counter()
    for epoch, train_loss, train_accuracy in train_epochs(
        model, criterion, optimizer, task.train_loader, epochs, seed, precision, done, show_progress=True
    ):
        test_loss, test_accuracy = loss_and_accuracy(criterion, *predict(model, task.test_loader))
        if not math.isfinite(test_loss):
            raise FloatingPointError(f"epoch {epoch}: the test loss became NaN or infinite: try a lower --lr")
        seconds = time.perf_counter() - start
        values = (train_loss, test_loss, train_accuracy, test_accuracy, seconds)
        for key, value in zip(HISTORY_KEYS, values, strict=True):
            history[key].append(value)
        if checkpoint:
            checkpoint.save(model, optimizer, history)
        print(
            f"epoch {epoch:3d}/{epochs}  loss: train {train_loss:.4f} test {test_loss:.4f}  "
            f"accuracy: train {train_accuracy:6.2%} test {test_accuracy:6.2%}  {seconds:.1f} s",
            flush=True,
        )
        start = time.perf_counter()
    return history


@torch.no_grad()
def predict(model, loader, seed=EVALUATION_SEED, epoch=0):
    """Return the logits, float32 (n, classes), and labels, int64 (n,), of all images of `loader`, on the CPU.

    The crops are those of `seed` and `epoch`; torch's global random state is left alone. Of a backbone the "logits" are
    its features.
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
    if isinstance(criterion, torch.nn.Module):  # its class weights may be on the GPU
        device = next(criterion.buffers(), logits).device
        logits, labels = logits.to(device), labels.to(device)
    return criterion(logits, labels).item(), correct / len(labels)


def loss_error(loss, logits, labels):
    """Return the standard error, over images, of a mean loss; NaN for a single image, or if it is not cross entropy."""
    losses = cross_entropy(logits.double(), labels, reduction="none")
    if len(labels) == 1 or not math.isclose(losses.mean().item(), loss, rel_tol=1e-3):
        return float("nan")
    return scipy.stats.sem(losses.numpy()).item()


def training_record(options, data, task, model, criterion, history):
    """Return the JSON record of a trained network: its data, its options, its history and its final metrics.

    options: the script's, by name; data: Q1's dict; task, criterion: as `train` takes them. The final network is
    evaluated on all training images, transformed as in training, and on all test images, so that `final_train_loss` and
    `test_loss` can be compared; the history's training loss is a running mean over the network as it changes.
    """
    on_train, on_test = predict(model, task.train_loader), predict(model, task.test_loader)
    train_loss, train_accuracy = loss_and_accuracy(criterion, *on_train)
    test_loss, test_accuracy = loss_and_accuracy(criterion, *on_test)
    logits, labels = on_test
    predictions, num_classes = logits.argmax(1), len(task.class_names)
    test_counts, hits = (each.bincount(minlength=num_classes) for each in (labels, labels[predictions == labels]))
    train_images, train_labels = data[f"{task.name}_train_images"], data[f"{task.name}_train_labels"]
    return {
        "source": data["source"],
        "fingerprint": data["fingerprint"],
        "weights_sha256": weights_hash(model.state_dict()),
        "args": options,
        "class_names": task.class_names,
        "other_class_names": [name for name in data["class_names"] if name not in task.class_names],
        "mean": data["mean"].tolist(),
        "std": data["std"].tolist(),
        "image_size": train_images.shape[-1],
        "appearance": data.get("appearance", {}).get(task.name),
        "train_counts": train_labels.bincount(minlength=num_classes).tolist(),
        "test_counts": test_counts.tolist(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trainable_parameters": sum(each.numel() for each in model.parameters() if each.requires_grad),
        "final_train_loss": train_loss,
        "final_train_loss_error": loss_error(train_loss, *on_train),
        "final_train_accuracy": train_accuracy,
        "test_loss": test_loss,
        "test_loss_error": loss_error(test_loss, *on_test),
        "test_accuracy": test_accuracy,
        "test_accuracy_interval": accuracy_interval((predictions == labels).sum(), len(labels)),
        "test_count": len(labels),
        "recall": (hits.double() / test_counts).tolist(),  # NaN without images
        "majority_accuracy": majority_accuracy(train_labels, labels),
        "history": history,
        "test_predictions": predictions.tolist(),
    }
