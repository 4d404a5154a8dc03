"""The training loop of Q2, Q3 and Q5, the prediction function, and the record of a trained network."""

import math
import time

from common.data import EVALUATION_SEED, class_names_of
from common.galaxies.appearance import image_hashes
from common.hardware.device import TEST_BATCH, bind_step
from common.hardware.layers import reorder_layers
from common.metrics import accuracy_interval, majority_accuracy
from common.storage.checkpoint import weights_hash

import scipy
import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm

HISTORY_KEYS = ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "epoch_seconds")


def train_step(model, criterion, optimizer, images, labels):
    """Take one optimizer step; return the batch's mean loss and number of correct predictions before that step."""
    logits = model(images)
    loss = criterion(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach(), (logits.argmax(1) == labels).sum()


def train(model, criterion, optimizer, train_loader, test_loader, epochs, seed, checkpoint=None, quiet=False):
    """Train `model` in place; return its history, a dict of lists with one entry per epoch.

    criterion: function of logits and labels that returns the mean loss over images; checkpoint: a TrainingCheckpoint to
    resume from and to save. The order and the crops of an epoch depend only on `seed` and the epoch's number, so a
    resumed run ends with the same bits as an uninterrupted one. The training loss and accuracy are running means: each
    batch is measured before its step. Raises FloatingPointError if a loss becomes NaN or infinite.
    """
    network = reorder_layers(model)  # shares the parameters of `model`, but is faster
    history = checkpoint.restore(model, optimizer, epochs) if checkpoint else None
    history = history or {key: [] for key in HISTORY_KEYS}
    step = bind_step(train_step, network, criterion, optimizer)  # on a GPU it replays a CUDA graph

    for epoch in range(len(history["test_loss"]) + 1, epochs + 1):
        start = time.perf_counter()
        network.train()
        losses, correct, count = [], 0, 0
        batches = tqdm(
            train_loader.batches(seed, epoch),
            desc=f"epoch {epoch}/{epochs}",
            total=len(train_loader),
            leave=False,
            disable=quiet or None,  # None: shown on a terminal
        )
        for images, labels in batches:
            loss, hits = step(images, labels)
            losses.append(loss * len(labels))
            correct, count = correct + hits, count + len(labels)

        lr = optimizer.param_groups[0]["lr"]
        train_loss, train_accuracy = mean_loss(losses, count, epoch, lr), correct.item() / count
        test_loss, test_accuracy = loss_and_accuracy(criterion, *predict(model, test_loader))
        if not math.isfinite(test_loss):
            raise FloatingPointError(f"epoch {epoch}: the test loss became NaN or infinite: try a lower --lr than {lr}")
        values = train_loss, test_loss, train_accuracy, test_accuracy, time.perf_counter() - start
        for key, value in zip(HISTORY_KEYS, values, strict=True):
            history[key].append(value)
        if checkpoint:
            checkpoint.save(model, optimizer, history)
        if not quiet:
            print(
                f"epoch {epoch:3d}/{epochs}  loss: train {train_loss:.4f} test {test_loss:.4f}  "
                f"accuracy: train {train_accuracy:6.2%} test {test_accuracy:6.2%}  {values[-1]:.1f} s",
                flush=True,
            )
    return history


def mean_loss(losses, count, epoch, lr):
    """Return the mean loss over the `count` images of an epoch; losses: each step's mean loss times its image count.

    Raises FloatingPointError, naming the first step whose loss is NaN or infinite.
    """
    losses = torch.stack(losses).cpu()
    finite = losses.isfinite()
    if not finite.all():
        where = f"epoch {epoch}, step {finite.int().argmin() + 1}"
        raise FloatingPointError(f"{where}: the loss became NaN or infinite with --lr {lr}: try a lower one")
    return sum(losses).item() / count


@torch.no_grad()
def predict(model, loader, seed=EVALUATION_SEED, epoch=0):
    """Return the logits, float32 (n, classes), and labels, int64 (n,), of an epoch of `loader`, in its order.

    They are returned on the CPU. `seed` and `epoch` determine the crops; torch's global random state is not changed.
    For a backbone, `logits` are its features.
    """
    network = reorder_layers(model.eval())
    logits, labels, done = None, None, 0
    # On a GPU the batches are larger, with the same crops; the last bits of a prediction depend on the batch size.
    batch_size = TEST_BATCH if loader.images.device.type == "cuda" else None
    for images, targets in loader.batches(seed, epoch, batch_size):
        outputs = network(images)
        if logits is None:
            # One tensor for all: a small one kept per batch would fragment the memory that the next batch needs.
            logits, labels = (each.new_empty(len(loader.labels), *each.shape[1:]) for each in (outputs, targets))
        rows = slice(done, done + len(targets))
        logits[rows], labels[rows] = outputs, targets
        done += len(targets)
    return logits.cpu(), labels.cpu()


def loss_and_accuracy(criterion, logits, labels):
    """Return the mean loss, by `criterion`, and the accuracy."""
    correct = (logits.argmax(1) == labels).sum().item()
    if isinstance(criterion, torch.nn.Module):  # its class weights may be on the GPU
        device = next(criterion.buffers(), logits).device
        logits, labels = logits.to(device), labels.to(device)
    return criterion(logits, labels).item(), correct / len(labels)


def loss_error(loss, logits, labels):
    """Return the standard error of a mean loss over images; NaN for one image or a loss other than cross entropy."""
    losses = cross_entropy(logits.double(), labels, reduction="none")
    if len(labels) == 1 or not math.isclose(losses.mean().item(), loss, rel_tol=1e-3):
        return float("nan")
    return scipy.stats.sem(losses.numpy()).item()


def training_record(options, data, task, model, criterion, train_loader, test_loader, history):
    """Return the JSON record of a trained network: its data, its options, its history and its final metrics.

    options: the script's, by name; data: Q1's dict; task: main or transfer. The final network is evaluated on all
    training images, transformed as in training, and on all test images, so that `final_train_loss` and `test_loss` can
    be compared; the training loss in the history is a running mean while the network changes.
    """
    class_names, train_labels = class_names_of(data, task), data[f"{task}_train_labels"]
    train_images = data[f"{task}_train_images"]
    on_train, on_test = predict(model, train_loader), predict(model, test_loader)
    train_loss, train_accuracy = loss_and_accuracy(criterion, *on_train)
    test_loss, test_accuracy = loss_and_accuracy(criterion, *on_test)
    logits, labels = on_test
    predictions, num_classes = logits.argmax(1), len(class_names)
    test_counts, hits = (each.bincount(minlength=num_classes) for each in (labels, labels[predictions == labels]))
    return {
        "source": data["source"],
        "fingerprint": data["fingerprint"],
        "weights_sha256": weights_hash(model.state_dict()),
        "args": options,
        "class_names": class_names,
        "other_class_names": [name for name in data["class_names"] if name not in class_names],
        "mean": data["mean"].tolist(),
        "std": data["std"].tolist(),
        "image_size": train_images.shape[-1],
        "appearance": data.get("appearance", {}).get(task),
        "train_hashes": image_hashes(train_images),  # for predict.py to recognize training images
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
