"""The training loop of Q2, Q3 and Q5, and the one way to get predictions."""

import time

import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from common.data import EVALUATION_SEED, epoch_seed

HISTORY_KEYS = ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "epoch_seconds")


def train_epoch(model, batches, optimizer, device):
    """Take one optimizer step a batch; return the epoch's mean loss (nats) and accuracy, by sample.

    Both are of the network as it was when it met each batch, before the step.
    """
    model.train()
    loss_sum = torch.zeros((), device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    count = 0
    for images, labels in batches:
        images, labels = images.to(device), labels.to(device)
        logits = model(images)
        loss = cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach() * len(labels)
        correct += (logits.argmax(1) == labels).sum()
        count += len(labels)
    return loss_sum.item() / count, correct.item() / count


@torch.no_grad()
def predict(model, loader, device, seed=EVALUATION_SEED):
    """Return the logits, float32 (n, classes), and labels, int64 (n,), of all of `loader`, on the CPU.

    The crops depend on `seed` alone, and torch's global random state is left alone.
    """
    model.to(device, memory_format=torch.channels_last).eval()
    loader.generator.manual_seed(seed)
    batches = [(model(images.to(device)).cpu(), labels) for images, labels in loader]
    logits, labels = zip(*batches, strict=True)
    return torch.cat(logits), torch.cat(labels)


def loss_and_accuracy(logits, labels):
    """Return the mean cross entropy (nats) and the share of labels that have the largest logit."""
    correct = (logits.argmax(1) == labels).sum().item()
    return cross_entropy(logits, labels).item(), correct / len(labels)


def train(model, train_loader, test_loader, *, epochs, lr, seed, device):
    """Train `model` in place with Adam; return its history, a dict of lists with one entry an epoch.

    Only parameters that require a gradient are given to Adam. What an epoch draws, order and crops,
    depends on `seed` and the epoch's number alone.
    """
    model.to(device, memory_format=torch.channels_last)  # the order the loader's crops come in
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=lr, fused=True)
    history = {key: [] for key in HISTORY_KEYS}
    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        train_loader.generator.manual_seed(epoch_seed(seed, epoch))
        batches = tqdm(train_loader, desc=f"epoch {epoch}/{epochs}", unit="batch", leave=False, disable=None)
        train_loss, train_accuracy = train_epoch(model, batches, optimizer, device)
        test_loss, test_accuracy = loss_and_accuracy(*predict(model, test_loader, device))
        figures = (train_loss, test_loss, train_accuracy, test_accuracy, time.perf_counter() - start)
        for key, figure in zip(HISTORY_KEYS, figures, strict=True):
            history[key].append(figure)
        print(
            f"epoch {epoch:3d}/{epochs}  loss: train {train_loss:.4f} test {test_loss:.4f}  "
            f"accuracy: train {train_accuracy:6.2%} test {test_accuracy:6.2%}  {figures[-1]:.1f} s",
            flush=True,
        )
    return history
