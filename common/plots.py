"""Figures that several scripts draw."""

import matplotlib

matplotlib.use("Agg")  # files only, no window
from common.galaxies.facts import in_words, short_name, source_title
from common.galaxies.split import class_counts, task_names

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.ticker import LogLocator, NullLocator
from torch.nn.functional import pad

# Okabe & Ito's colours, distinguishable with any colour vision.
COLOURS = TRAIN_COLOUR, TEST_COLOUR = "#0072B2", "#D55E00"
MOST_ROWS = 50  # of a gallery
MOST_CELLS = 40  # classes of a confusion matrix whose cells show their counts
plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
plt.rcParams["text.parse_math"] = False  # a $ in the name of a class or a file is a $


def titled(title, source):
    """Return the title of a figure with the name of the data, which says SYNTHETIC if they are."""
    return f"{title} · {source_title(source)}"


def draw_curves(loss_axes, accuracy_axes, history):
    """Draw a training history: the loss, with the lowest test loss marked, and the accuracy.

    The training curves are running means while the network changes within an epoch; the test curves show the network
    at the end of each epoch.
    """
    epochs = np.arange(1, len(history["test_loss"]) + 1)
    marker = "o" if len(epochs) == 1 else None  # a single epoch needs a marker
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


def class_gallery(data, columns=8):
    """Return a figure with a row of training images, the name and the count of each class, at most MOST_ROWS classes.

    data: Q1's dict.
    """
    found = class_counts(data)
    counts = {task: np.add(found[f"{task}_train"], found[f"{task}_test"]) for task in task_names(data)}
    classes = [(task, place) for task, names in task_names(data).items() for place in range(len(names))]
    rows = min(len(classes), MOST_ROWS)
    figure, axes = plt.subplots(figsize=(10.6, 1.04 * rows + 0.4), layout="constrained")
    lines = []
    for row, (task, place) in enumerate(classes[:rows]):
        name = data["class_names"][row].replace(", ", "\n", 1)
        lines.append(f"{row}  {name}\n{int(counts[task][place]):,} images")
        of_class = torch.nonzero(data[f"{task}_train_labels"] == place).flatten()[:columns]
        images = data[f"{task}_train_images"][of_class]
        if len(images):  # one image of all: separate axes would take seconds
            strip = torch.cat(list(pad(images, [images.shape[-1] // 16] * 4, value=255)), dim=2)
            axes.imshow(strip.permute(1, 2, 0), extent=(0, len(images), row + 1, row))
    axes.set(xlim=(0, columns), ylim=(rows, 0), anchor="E")  # the names are at the left
    axes.set_yticks(np.arange(rows) + 0.5, lines)
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    title = f"The {in_words(len(classes))} classes" if rows == len(classes) else f"{rows} of {len(classes):,} classes"
    figure.suptitle(titled(title, data["source"]))
    return figure


def wrap_name(name):
    """Return a class name broken into two lines."""
    return "\n".join(name.rsplit(", ", 1))


def text_colour(background):
    """Return black or white, whichever is easier to read on a colour (r, g, b, ...): the contrast is at least 4.5.

    Based on the relative luminance of WCAG 2.1, https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio.
    """
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in background[:3]]
    return "black" if np.dot(linear, (0.2126, 0.7152, 0.0722)) > 0.179 else "white"


def draw_confusion(axes, confusion, class_names, title):
    """Draw a confusion matrix, int (k, k), rows true: counts in the cells, coloured by their share of the row."""
    totals = confusion.sum(1, keepdims=True)
    share = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(confusion if len(confusion) <= MOST_CELLS else confusion[:0]):
        colour = text_colour(image.cmap(share[row, column]))
        axes.text(column, row, f"{count:,}" if totals[row] else "–", ha="center", va="center", color=colour)
    ticks = np.arange(len(class_names))
    lines = [wrap_name(name) for name in class_names]
    axes.set_xticks(ticks, lines, rotation=0 if len(lines) < 4 else 90)
    axes.set_yticks(ticks, [f"{line}: {total:,}" for line, total in zip(lines, totals[:, 0], strict=True)])
    axes.set(xlabel="predicted", ylabel="true class: test images", title=title)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def draw_recall(axes, record):
    """Draw the recall of each class against its training images, with 95% intervals, for both networks of Q4."""
    counts = np.maximum(record["train_counts"], 0.5)  # a class without training images is drawn left of 1
    tested = [label for label in np.argsort(counts, kind="stable") if record["test_counts"][label]]
    # Classes with similar counts are drawn side by side, and so are the two networks of each class.
    x = np.log(counts[tested])
    width = max(np.ptp(x), np.log(4))  # of the axis: at least a factor of 4
    for place in list(range(1, len(x))) * len(x):
        overlap = max(0, 0.035 * width - (x[place] - x[place - 1]))
        x[place - 1 : place + 1] += -overlap / 2, overlap / 2
    for (model, results), colour, marker, side in zip(record["models"].items(), COLOURS, "os", (-1, 1), strict=True):
        recall = 100 * np.array([results["recall"][label] for label in tested])
        ends = 100 * np.array([results["recall_interval"][label] for label in tested])
        errors, places = np.abs(ends.T - recall), np.exp(x + side * 0.006 * width)
        axes.errorbar(places, recall, errors, color=colour, fmt=marker, capsize=3, label=model.upper())
    # The names are above the axes, evenly spaced, with a line down to the position of the class.
    axes.set(
        xscale="log",
        xlim=np.exp((x[0] + x[-1]) / 2 + np.array((-0.55, 0.55)) * width),
        ylim=(-3, 103),
        xlabel="training images of the class, log scale",
        ylabel="recall (%), 95% interval",
    )
    for place, label in enumerate(tested):
        name = short_name(record["class_names"][label]).replace(" ", "\n", 1)
        top = (place + 0.5) / len(tested), 1.08
        style = {"arrowstyle": "-", "color": "0.75", "shrinkA": 0, "shrinkB": 0, "relpos": (0.5, 0)}
        axes.annotate(
            f"{name}\n{record['train_counts'][label]:,}", (np.exp(x[place]), 103), top, annotation_clip=False,
            textcoords="axes fraction", ha="center", va="bottom", arrowprops=style,
        )  # fmt: skip
        axes.axvline(np.exp(x[place]), color="0.75", linewidth=0.8, zorder=0)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.25, axis="y")
    axes.legend()


def confusion_and_recall(record):
    """Return the figure of Q4's record: both confusion matrices and, below, the recall of each class."""
    panels = [list(record["models"]), ["recall"] * 2]
    scale = min(max(1, len(record["class_names"]) / 10), 3)
    size = (12 * scale, 12.2 * scale)
    figure, axes = plt.subplot_mosaic(panels, figsize=size, layout="constrained", height_ratios=(2, 1.1))
    for model, results in record["models"].items():
        title = f"{model.upper()}: accuracy {results['accuracy']:.1%}"
        draw_confusion(axes[model], np.array(results["confusion"]), record["class_names"], title)
    axes["cnn"].set(ylabel="", yticklabels=[])
    draw_recall(axes["recall"], record)
    title = f"Confusion on all {sum(record['test_counts']):,} test images, shaded by the share of the row"
    figure.suptitle(titled(title, record["source"]))
    return figure
