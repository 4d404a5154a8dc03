"""What is the pretrained backbone worth, in labelled galaxies of the two new classes?

Four networks of the same layers: the trained backbone of Q3 frozen, and an untrained one frozen, both with a head at
its optimum (scikit-learn's logistic regression, its regularisation by cross-validation); the network from scratch; and
the trained one with all weights fine-tuned. Each is trained on 25, 50, 100, 200, 400 and all labelled galaxies, in ten
samples: seed s takes the split, and so the test images, of `make all SEED=s`, the first n of its training images, and
its own initial weights. Whole networks run 30 epochs at Q3's rate, 0.002; fewer galaxies are repeated until the number
of steps is that of all.

Reads q1_data.pt and q3_cnn.pt. Writes, in studies/ under --out, transfer.json, transfer.png and a file per run.
"""

import copy
from pathlib import Path

from common import cli, plots
from common.data import load_data, make_loader, make_loaders
from common.galaxies.facts import in_words
from common.galaxies.split import task_names
from common.hardware.device import place
from common.metrics import majority_accuracy
from common.storage.checkpoint import load_backbone, weights_hash
from common.train import predict
from q3_cnn import make_backbone
from studies.methods.heads import epochs_for, head_accuracy
from studies.methods.page import table
from studies.methods.runs import add_study_options, collect, resplit, save_study
from studies.methods.statistics import judged, mean_interval, percent, points
from studies.methods.training import crop_and_normalise, train_network

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

EXAMPLES = (
    "python -m studies.transfer",
    "python -m studies.transfer --seeds 3  # one of them, as a job of its own",
)
SIZES = (25, 50, 100, 200, 400)  # labelled galaxies, and all
LABELS = {
    "frozen": "trained backbone, frozen",
    "untrained": "untrained backbone, frozen",
    "tuned": "trained backbone, all fine-tuned",
    "scratch": "from scratch",
}
# The CNN's own colour for Q5's network, as in studies.seeds; the others are of Okabe & Ito too.
COLOURS = {"frozen": plots.TEST_COLOUR, "untrained": "#777777", "tuned": "#CC79A7", "scratch": "#009E73"}
PAIRS = (("frozen", "untrained"), ("frozen", "scratch"), ("tuned", "scratch"), ("tuned", "frozen"))


def sample(out, seed):
    """Return Q1's dict in the split of `seed`, with the mean and std that the backbone was trained with."""
    original = load_data(out)
    return resplit(original, seed) | {name: original[name] for name in ("mean", "std")}


def trained_backbone(out, expected_hash):
    """Return Q3's backbone, of which `main` has checked where it comes from. Raises ValueError if it has changed."""
    backbone = make_backbone()
    load_backbone(backbone, Path(out) / "q3_cnn.pt", load_data(out), force=True)
    if weights_hash(backbone.state_dict()) != expected_hash:
        raise ValueError("q3_cnn.pt was changed while the study ran: rerun it")
    return backbone


def backbone_features(backbone, data, task):
    """Return a frozen backbone's features of one crop per image, and the labels, of training and test images."""
    transform = crop_and_normalise(data)
    pairs = ((data[f"{task}_{subset}_images"], data[f"{task}_{subset}_labels"]) for subset in ("train", "test"))
    return [predict(backbone, make_loader(*pair, transform)) for pair in pairs]


def labelled_sizes(data):
    """Return the numbers of labelled galaxies of the transfer task to train on: SIZES, and all."""
    whole = len(data["transfer_train_labels"])
    return [size for size in SIZES if size < whole] + [whole]


def fine_tune(network, data, size, epochs, seed, device):
    """Train all weights of `network` in place on the first `size` labelled galaxies, and return its test accuracy."""
    whole = len(data["transfer_train_labels"])
    few = data | {name: data[name][:size] for name in ("transfer_train_images", "transfer_train_labels")}
    task = place(make_loaders(few, "transfer", crop_and_normalise(data)), device)
    train_network(lambda: network, 0.002, task.train_loader, epochs_for(size, whole, epochs), seed, device)
    logits, labels = predict(network, task.test_loader)
    return (logits.argmax(1) == labels).double().mean().item()


def measure(out, device, seed, epochs, backbone):
    """Return the accuracies of one sample, of each method by size; backbone: the hash of the trained one's weights."""
    data, trained = sample(out, seed), trained_backbone(out, backbone)
    torch.manual_seed(seed)
    untrained = make_backbone()
    sizes, labels = labelled_sizes(data), data["transfer_train_labels"]
    result = {"majority": majority_accuracy(labels, data["transfer_test_labels"])}
    for name, start in (("frozen", trained), ("untrained", untrained)):
        (features, _), test = backbone_features(start, data, "transfer")
        result[name] = [head_accuracy((features[:size], labels[:size]), test, seed) for size in sizes]
    num_classes = len(task_names(data)["transfer"])
    for name, start in (("tuned", trained), ("scratch", untrained)):
        result[name] = []
        for size in sizes:
            torch.manual_seed(seed)
            network = nn.Sequential(copy.deepcopy(start), nn.Linear(64, num_classes)).to(device)
            result[name].append(fine_tune(network, data, size, epochs, seed, device))
    return result


def summarise(rows, sizes):
    """Return the mean accuracies and paired differences by size, with intervals, and the majority class's accuracy."""
    accuracy = {name: np.array([row[name] for row in rows]) for name in LABELS}
    return {
        "sizes": sizes,
        "samples": len(rows),
        "majority": float(np.mean([row["majority"] for row in rows])),
        "accuracy": {name: [mean_interval(column) for column in values.T] for name, values in accuracy.items()},
        "differences": {
            f"{first} - {second}": [mean_interval(column) for column in (accuracy[first] - accuracy[second]).T]
            for first, second in PAIRS
        },
    }


def describe(record):
    """Return the answer in a sentence."""
    whole = record["sizes"][-1]
    gain, scratch = (record["differences"][f"frozen - {other}"][-1] for other in ("untrained", "scratch"))
    return (
        f"With {whole:,} labelled galaxies a head on the frozen trained backbone gains {judged(gain)}, over one on an "
        f"untrained backbone, and {judged(scratch)}, over training from scratch."
    )


def tables(record):
    """Return the tables of docs/studies.md: accuracies and differences by the number of labelled galaxies."""
    lines = []
    for found, write in ((record["accuracy"], percent), (record["differences"], points)):
        rows = [(size, *map(write, each)) for size, *each in zip(record["sizes"], *found.values(), strict=True)]
        titles = [" minus ".join(LABELS[part] for part in name.split(" - ")) for name in found]
        lines += table(("labelled galaxies", *titles), rows)
    return lines


def transfer_figure(record, source, classes):
    """Return a figure of accuracy against the number of labelled galaxies, with 95% bands over samples.

    classes: their number in words.
    """
    figure, ax = plt.subplots(figsize=(9.5, 5.2), layout="constrained")
    sizes = record["sizes"]
    for name, intervals in record["accuracy"].items():
        mean, low, high = (100 * np.array([each[key] for each in intervals]) for key in ("mean", "low", "high"))
        ax.fill_between(sizes, low, high, color=COLOURS[name], alpha=0.15, linewidth=0)
        ax.plot(sizes, mean, color=COLOURS[name], marker="o", label=LABELS[name])
    ax.axhline(100 * record["majority"], color="0.6", linestyle="--", label="majority class")
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.minorticks_off()
    ax.legend()
    ax.set(xlabel=f"labelled galaxies of the {classes} new classes", ylabel="test accuracy (%)")
    ax.grid(alpha=0.25)
    figure.suptitle(plots.titled("What is the pretrained backbone worth?", source))
    return figure


def main():
    args = get_args()
    data, trained = load_data(args.out), make_backbone()
    if not task_names(data)["transfer"]:
        raise ValueError(f"{args.out}: no classes are held back for this study: rerun q1_data.py with --hold-back")
    load_backbone(trained, Path(args.out) / "q3_cnn.pt", data, args.force)
    settings = {"epochs": args.epochs, "backbone": weights_hash(trained.state_dict())}
    rows = collect("transfer", measure, [{"seed": seed} for seed in args.seeds], args, data, **settings)
    record = summarise(rows, labelled_sizes(data))
    figure = transfer_figure(record, data["source"], in_words(len(task_names(data)["transfer"])))
    save_study("transfer", args, data, figure, describe(record), **record)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add_study_options(parser, seeds="0-9", epochs=30)
    cli.add_force(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, resumes="")
