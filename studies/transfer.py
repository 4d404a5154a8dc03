"""What is the pretrained backbone worth, in labelled galaxies of the two new classes?

Four networks with the same layers are compared: Q3's trained backbone and an untrained one, both frozen, with
scikit-learn's logistic regression as the head (regularised by cross-validation); the network trained from scratch; and
the trained one with all weights fine-tuned. Each is trained on 25, 50, 100, 200, 400 and all labelled galaxies. Seed s
has the split and test images of `make all SEED=s`, the first n of its training images, and different initial weights.
Whole networks are trained for 30 epochs with Q3's learning rate, or for more epochs with fewer galaxies, so that the
number of steps is the same.

Reads q1_data.pt and q3_cnn.pt under --out. Writes transfer.json, transfer.png and a file per run into {out}/studies.
"""

import copy
import math
from pathlib import Path

from common import cli, plots
from common.data import load_data
from common.galaxies.facts import in_words
from common.galaxies.split import task_names
from common.metrics import majority_accuracy
from common.storage.checkpoint import load_backbone, weights_hash
from common.train import predict
from q3_cnn import make_backbone
from studies.methods.runs import collect, resplit, save_study, study_parser
from studies.methods.statistics import draw_band, judged, mean_intervals, points, share_text, table_lines
from studies.methods.training import DEFAULTS, accuracy_of, head_accuracy, make_loader, train_network

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

SIZES = (25, 50, 100, 200, 400)  # labelled galaxies; all are added
LABELS = {
    "frozen": "trained backbone, frozen",
    "untrained": "untrained backbone, frozen",
    "tuned": "trained backbone, all fine-tuned",
    "scratch": "from scratch",
}
# The CNN's colour for Q5's network, as in studies.seeds; the others are also from Okabe & Ito.
COLOURS = {"frozen": plots.TEST_COLOUR, "untrained": "#777777", "tuned": "#CC79A7", "scratch": "#009E73"}
PAIRS = (("frozen", "untrained"), ("frozen", "scratch"), ("tuned", "scratch"), ("tuned", "frozen"))


def sample(out, seed):
    """Return Q1's dict, split by `seed`, with the mean and std that Q3's backbone was trained with."""
    original = load_data(out)
    return resplit(original, seed) | {name: original[name] for name in ("mean", "std")}


def trained_backbone(out, force=True, expected_hash=None):
    """Return Q3's backbone and the hash of its weights. Raises ValueError if the hash is not the expected one."""
    backbone = make_backbone()
    load_backbone(backbone, Path(out) / "q3_cnn.pt", load_data(out), force)
    found_hash = weights_hash(backbone.state_dict())
    if expected_hash not in (None, found_hash):
        raise ValueError("q3_cnn.pt was changed while the study ran: rerun it")
    return backbone, found_hash


def backbone_features(backbone, data, task):
    """Return a backbone's features of one crop per image, and the labels: a training pair and a test pair."""
    return [predict(backbone, make_loader(data, f"{task}_{subset}")) for subset in ("train", "test")]


def epochs_for(size, whole_size, epochs, batch_size):
    """Return the number of epochs of `size` images with as many steps as `epochs` of `whole_size`, rounded up."""
    steps = epochs * math.ceil(whole_size / batch_size)
    return math.ceil(steps / math.ceil(size / batch_size))


def fine_tune(backbone, data, size, epochs, seed, device):
    """Return the test accuracy of a copy of `backbone` with a head, all trained on the first `size` galaxies."""
    lr, batch_size = DEFAULTS["cnn"].lr, DEFAULTS["cnn"].batch_size
    few = data | {name: data[name][:size] for name in ("transfer_train_images", "transfer_train_labels")}
    loader = make_loader(few, "transfer_train", device, batch_size=batch_size, shuffle=True)
    epochs = epochs_for(size, len(data["transfer_train_labels"]), epochs, batch_size)

    def make_network():
        return nn.Sequential(copy.deepcopy(backbone), nn.Linear(64, len(task_names(data)["transfer"])))

    network = train_network(make_network, lr, loader, epochs, seed, device)
    return accuracy_of(network, make_loader(data, "transfer_test", device))


def measure(out, device, seed, epochs, backbone, sizes):
    """Return each method's accuracies by size; backbone: hash of the trained backbone's weights."""
    data, (trained, _) = sample(out, seed), trained_backbone(out, expected_hash=backbone)
    torch.manual_seed(seed)
    untrained = make_backbone()
    labels = data["transfer_train_labels"]
    result = {"majority": majority_accuracy(labels, data["transfer_test_labels"])}
    for name, start in (("frozen", trained), ("untrained", untrained)):
        (features, _), test = backbone_features(start, data, "transfer")
        result[name] = [head_accuracy((features[:size], labels[:size]), test, seed) for size in sizes]
    for name, start in (("tuned", trained), ("scratch", untrained)):
        result[name] = [fine_tune(start, data, size, epochs, seed, device) for size in sizes]
    return result


def summarise(rows, sizes):
    """Return accuracies and paired differences by size, with intervals, and the majority class's accuracy."""
    values = {name: np.array([row[name] for row in rows]) for name in LABELS}  # (samples, sizes)
    differences = {f"{first} - {second}": values[first] - values[second] for first, second in PAIRS}
    return {
        "sizes": sizes,
        "samples": len(rows),
        "majority": float(np.mean([row["majority"] for row in rows])),
        "accuracy": {name: mean_intervals(each) for name, each in values.items()},
        "differences": {name: mean_intervals(each) for name, each in differences.items()},
    }


def describe(record):
    """Return the answer."""
    whole = record["sizes"][-1]
    gain, scratch = (record["differences"][f"frozen - {other}"][-1] for other in ("untrained", "scratch"))
    return [
        f"With {whole:,} labelled galaxies a head on the frozen trained backbone gains {judged(gain)}, over one on an "
        f"untrained backbone, and {judged(scratch)}, over training from scratch."
    ]


def tables(record):
    """Return the tables of docs/studies.md: accuracies and differences by number of labelled galaxies."""
    lines = []
    for found, write in ((record["accuracy"], share_text), (record["differences"], points)):
        rows = [(size, *map(write, each)) for size, *each in zip(record["sizes"], *found.values(), strict=True)]
        titles = [" minus ".join(LABELS[part] for part in name.split(" - ")) for name in found]
        lines += table_lines(("labelled galaxies", *titles), rows)
    return lines


def sizes_figure(record, classes):
    """Return a figure of accuracy against labelled galaxies; classes: number of new ones, in words."""
    figure, ax = plt.subplots(figsize=(9.5, 5.2), layout="constrained")
    sizes = record["sizes"]
    for name, intervals in record["accuracy"].items():
        draw_band(ax, sizes, intervals, COLOURS[name], LABELS[name])
    ax.axhline(100 * record["majority"], color="0.6", linestyle="--", label="majority class")
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.minorticks_off()
    ax.legend()
    ax.set(xlabel=f"labelled galaxies of the {classes} new classes", ylabel="test accuracy (%)")
    figure.suptitle("What is the pretrained backbone worth?")
    return figure


def main():
    args = get_args()
    data = load_data(args.out)
    if not task_names(data)["transfer"]:
        raise ValueError(
            f"{args.out}: no classes are held back, which this study needs: rerun q1_data.py with --hold-back"
        )
    _, backbone = trained_backbone(args.out, args.force)
    whole = len(data["transfer_train_labels"])
    sizes = [size for size in SIZES if size < whole] + [whole]
    settings = {"epochs": args.epochs, "backbone": backbone, "sizes": sizes}
    rows = collect(__file__, measure, [{"seed": seed} for seed in args.seeds], args, data, **settings)
    record = summarise(rows, sizes)
    figure = sizes_figure(record, in_words(len(task_names(data)["transfer"])))
    save_study(__file__, args, data, figure, describe(record), **record)


def get_args(argv=None):
    parser = study_parser(__doc__, "python -m studies.transfer --seeds 3", seeds="0-9", epochs=30)
    cli.add_force(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, resumes="")
