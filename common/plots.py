"""The figures that more than one script draws."""

import matplotlib

matplotlib.use("Agg")  # files only, no window
import matplotlib.pyplot as plt
import numpy as np
import torch

from common.galaxies.facts import MAIN_CLASSES

# Okabe & Ito's colours, distinct with any kind of colour vision.
COLOURS = TRAIN_COLOUR, TEST_COLOUR = "#0072B2", "#D55E00"
plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})


def titled(title, source):
    """Return the title of a figure, with the name of the data, SYNTHETIC where they are."""
    data = {"galaxy10-sdss": "Galaxy10 SDSS", "galaxy10-decals": "Galaxy10 DECaLS", "synthetic": "SYNTHETIC Galaxy10"}
    return f"{title} · {data.get(source, source.removeprefix('file:'))}"


def draw_curves(loss_axes, accuracy_axes, history):
    """Draw a training history: loss, with the lowest test value marked, and accuracy.

    The training curves are running means over the network as it changes within an epoch; the test curves are of
    the network at the epoch's end.
    """
    epochs = np.arange(1, len(history["test_loss"]) + 1)
    marker = "o" if len(epochs) == 1 else None  # one epoch is no line
    for name, label, colour in (("train", "train (running mean)", TRAIN_COLOUR), ("test", "test", TEST_COLOUR)):
        loss_axes.plot(epochs, history[f"{name}_loss"], color=colour, marker=marker, label=label)
        percent = np.array(history[f"{name}_accuracy"]) * 100
        accuracy_axes.plot(epochs, percent, color=colour, marker=marker, label=label)
    best = int(np.argmin(history["test_loss"]))
    lowest = history["test_loss"][best]
    label = f"lowest test loss: {lowest:.3f}, epoch {best + 1}"
    loss_axes.plot(best + 1, lowest, "o", color=TEST_COLOUR, markersize=9, markerfacecolor="white", label=label)
    loss_axes.set(xlabel="epoch", ylabel="cross entropy (nats)", title="Loss")
    accuracy_axes.set(xlabel="epoch", ylabel="accuracy (%)", title="Accuracy")
    for axes in (loss_axes, accuracy_axes):
        axes.grid(alpha=0.25)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()


def learning_curves(history, title):
    """Return a figure of a training history."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    draw_curves(*axes, history)
    figure.suptitle(title)
    return figure


def class_gallery(data, counts, columns=8):
    """Return a figure with a row of training images for each of the ten classes, with its name and its count.

    data: Q1's dict; counts: images per class.
    """
    figure, grid = plt.subplots(10, columns + 2, figsize=(10, 10.4), layout="constrained")
    for label, row in enumerate(grid):
        task, first_class = ("main", 0) if label < MAIN_CLASSES else ("transfer", MAIN_CLASSES)
        images, labels = data[f"{task}_train_images"], data[f"{task}_train_labels"]
        for axes, index in zip(row[2:], torch.nonzero(labels == label - first_class).flatten(), strict=False):
            axes.imshow(images[index].permute(1, 2, 0))
        for axes in row:
            axes.axis("off")
        kind, _, detail = data["class_names"][label].partition(", ")
        row[0].text(0, 0.5, f"{label}  {kind}\n    {detail}\n    {counts[label]:,} images", va="center")
    figure.suptitle(titled("The ten classes", data["source"]))
    return figure


def draw_confusion(axes, confusion, class_names, title):
    """Draw a confusion matrix, int (k, k), rows true: counts, and colours and percentages by row."""
    totals = confusion.sum(1, keepdims=True)
    share = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(confusion):
        text = f"{count:,}\n{share[row, column]:.0%}" if totals[row] else "–"
        axes.text(column, row, text, ha="center", va="center", color="white" if share[row, column] > 0.5 else "black")
    ticks = np.arange(len(class_names))
    lines = ["\n".join(name.rsplit(", ", 1)) for name in class_names]  # two short lines per name
    axes.set_xticks(ticks, lines, rotation=0 if len(lines) < 4 else 90)
    axes.set_yticks(ticks, [f"{line}: {total:,}" for line, total in zip(lines, totals[:, 0], strict=True)])
    axes.set(xlabel="predicted", ylabel="true, with the number of test images", title=title)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def draw_recalls(axes, results, class_names, train_counts):
    """Draw a network's recall by class with its 95 % interval, without and with adjusted logits, and the cause.

    results: the network's part of Q4's record, as its JSON has it.
    """
    after, rows = results["adjusted"], np.arange(len(class_names))
    for values, colour, marker, offset, label in (
        (results, COLOURS[0], "o", -0.17, "logits as trained"),
        (after, COLOURS[1], "s", 0.17, "adjusted for the training counts"),
    ):
        recall = 100 * np.array(values["recall"], dtype=float)
        ends = 100 * np.array(values["recall_interval"], dtype=float)
        errors = np.abs(ends.T - recall)
        axes.errorbar(recall, rows + offset, xerr=errors, color=colour, fmt=marker, capsize=3, label=label)
    for row, found in zip(rows, results["causes"], strict=True):
        axes.text(103, row, found["cause"], va="center", fontsize=10)
    axes.text(103, -0.85, "cause of its errors", va="center", fontsize=10, style="italic")
    lines = ["\n".join(name.rsplit(", ", 1)) for name in class_names]
    axes.set_yticks(rows, [f"{line}: {count:,}" for line, count in zip(lines, train_counts, strict=True)])
    axes.set(xlim=(0, 102), ylim=(len(rows) - 0.5, -0.5), xlabel="recall (%), with its 95 % interval")
    axes.set(ylabel="class, with the number of training images")
    axes.grid(alpha=0.25, axis="x")
    axes.tick_params(length=0, axis="y")
    axes.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=2)
