"""A galaxy has no right way up: what is that worth to the networks, in points and in labelled galaxies?

FCN and CNN are trained on 1/8, 1/4, 1/2 and all of the training images, with and without augmentation (a random one of
the square's eight symmetries per image and epoch), and predict with and without averaging over all eight symmetries.
Smaller training sets get more epochs, so that the number of steps is about the same. Seed s has the split, initial
weights and crops of `make all SEED=s`.

Reads q1_data.pt under --out. Writes symmetry.json, symmetry.png and a file per run into {out}/studies.
"""

from itertools import product

from common import cli
from common.data import load_data
from common.galaxies.split import stratified_split
from common.symmetries import RandomSymmetry, transformed
from studies.methods.runs import collect, number_list, resplit, save_study, select, study_parser
from studies.methods.statistics import draw_band, judged, mean_interval, points, share_text, table_lines
from studies.methods.training import COLOURS, NETWORKS, accuracy_of, make_loader, seed_network, train_on_main

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

USES = ("none", "test-time", "train-time", "both")  # where symmetries are applied
LABELS = {"none": "without the symmetries", "both": "training and predicting with them"}


class SymmetryMean(nn.Module):
    """A network's probabilities, averaged over the eight symmetries of each crop."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, crops):
        """Return the mean probabilities, float32 (n, classes)."""
        return torch.stack([self.network(transformed(crops, each)).softmax(1) for each in range(8)]).mean(0)


def measure(out, device, seed, network, fraction, epochs):
    """Return a network's accuracy for each of USES, trained on 1 / `fraction` of the images, and the image count."""
    data = resplit(load_data(out), seed)
    if fraction > 1:
        labels = data["main_train_labels"]
        kept, _ = stratified_split(labels.numpy(), len(labels) // fraction, seed)
        data |= {"main_train_images": data["main_train_images"][kept], "main_train_labels": labels[kept]}
    if fraction == 1:
        plain = seed_network(network, data, out, seed, epochs, device)
    else:
        plain = train_on_main(network, data, fraction * epochs, seed, device)
    turned = [RandomSymmetry()]
    augmented = train_on_main(network, data, fraction * epochs, seed, device, augmentations=turned)
    models = plain, SymmetryMean(plain), augmented, SymmetryMean(augmented)
    test_loader = make_loader(data, "main_test", device)
    accuracies = {use: accuracy_of(model, test_loader) for use, model in zip(USES, models, strict=True)}
    return {"train_count": len(data["main_train_labels"])} | accuracies


def summarise(rows, fractions):
    """Return accuracies, gains and the worth of the symmetries by network and fraction, with intervals."""
    networks = {}
    for name in NETWORKS:
        found = {"train_count": {}, "seeds": {}, "accuracy": {}, "gain": {}, "worth": {}}
        for n in fractions:
            mine = select(rows, network=name, fraction=n)
            values = {use: [row[use] for row in mine] for use in USES}
            found["train_count"][n], found["seeds"][n] = mine[0]["train_count"], values
            found["accuracy"][n] = {use: mean_interval(values[use]) for use in USES}
            found["gain"][n] = {use: mean_interval(np.subtract(values[use], values["none"])) for use in USES[1:]}
            if n > 1:  # with the symmetries on 1/n of the images, minus without them on all
                found["worth"][n] = mean_interval(np.subtract(values["both"], found["seeds"][1]["none"]))
        networks[name] = found
    return networks


def describe(record):
    """Return the answer, and a sentence per network on the worth of the symmetries in labelled galaxies."""
    networks = record["networks"]
    gains = {name: judged(network["gain"][1]["both"]) for name, network in networks.items()}
    sentences = [
        f"With the symmetries in training and in prediction, the CNN gains {gains['cnn']}; the FCN {gains['fcn']}."
    ]
    for name, network in networks.items():
        parts = [f"{network['train_count'][n]:,} images {judged(each)}" for n, each in network["worth"].items()]
        if parts:
            what = f"{name.upper()}, fewer images with the symmetries minus all images without them"
            sentences.append(f"{what}: {'; '.join(parts)}.")
    return sentences


def tables(record):
    """Return the tables of docs/studies.md: accuracies and gains by network and number of training images."""
    lines = []
    for name, network in record["networks"].items():
        rows = []
        for n, count in network["train_count"].items():
            accuracies = map(share_text, network["accuracy"][n].values())
            rows.append((count, *accuracies, points(network["gain"][n]["both"])))
        lines += table_lines((f"{name.upper()}: training images", *USES, "both minus none"), rows)
    return lines


def symmetry_figure(networks):
    """Return a figure of accuracy against training images, with and without the symmetries."""
    figure, axes = plt.subplots(1, len(networks), figsize=(10, 4.4), layout="constrained", sharey=True)
    for ax, (name, network) in zip(axes, networks.items(), strict=True):
        counts = list(network["train_count"].values())
        for use, line, alpha in (("none", "--", 0.55), ("both", "-", 1.0)):
            intervals = [each[use] for each in network["accuracy"].values()]
            draw_band(ax, counts, intervals, COLOURS[name], LABELS[use], line=line, alpha=alpha)
        ax.set_xscale("log")
        ax.set_xticks(counts, [f"{count:,}" for count in counts])
        ax.minorticks_off()
        ax.set(xlabel="training images", title=name.upper())
        ax.legend(loc="lower right")
    axes[0].set_ylabel("test accuracy (%)")
    figure.suptitle("What the eight symmetries are worth")
    return figure


def main():
    args = get_args()
    data = load_data(args.out)
    # The longest runs come first, so that all cores finish at about the same time.
    combinations = product(("cnn", "fcn"), args.seeds, args.fractions)
    runs = [{"seed": seed, "network": name, "fraction": fraction} for name, seed, fraction in combinations]
    record = {"networks": summarise(collect(__file__, measure, runs, args, data, epochs=args.epochs), args.fractions)}
    save_study(__file__, args, data, symmetry_figure(record["networks"]), describe(record), **record)


def get_args(argv=None):
    parser = study_parser(__doc__, "python -m studies.symmetry --seeds 0-9 --fractions 1")
    help = "train on 1/n of the images for n times as many epochs, for each n in the list"
    parser.add_argument("--fractions", type=number_list, default="1,2,4,8", metavar="LIST", help=help)
    args = parser.parse_args(argv)
    if args.fractions[0] != 1:
        parser.error(f"--fractions {','.join(map(str, args.fractions))}: must begin with 1, the whole training set")
    return args


if __name__ == "__main__":
    cli.run(main, resumes="")
