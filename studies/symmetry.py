"""A galaxy has no right way up: what is that worth to the networks, in points and in labelled galaxies?

FCN and CNN are trained with and without the eight symmetries of the square, a random one per image and epoch, and
predict with and without the mean over the eight; on an eighth, a quarter, half and all of the training images.
The fewer images, the more epochs, so that all training runs take about the same number of steps: what differs is the
images. The split, initial weights and crops of seed s are those of `make all SEED=s`.

Reads q1_data.pt under --out. Writes, in its folder studies/, symmetry.json, symmetry.png and a file per run.
"""

from common import cli, plots
from common.data import load_data
from common.galaxies.split import stratified_split
from common.symmetries import RandomSymmetry, SymmetryMean
from common.train import predict
from studies.methods.page import table
from studies.methods.runs import add_study_options, collect, number_list, resplit, save_study, select
from studies.methods.statistics import judged, mean_interval, paired_difference, percent, points
from studies.methods.training import (
    COLOURS,
    NETWORKS,
    crop_and_normalise,
    main_task,
    network_of,
    seed_network,
    train_network,
)

import matplotlib.pyplot as plt
import numpy as np

EXAMPLES = (
    "python -m studies.symmetry",
    "python -m studies.symmetry --seeds 0-9 --fractions 1",
    "python -m studies.symmetry --seeds 3  # one of them, as a job of its own",
)
USES = ("none", "test-time", "train-time", "both")  # of the symmetries
LABELS = {"none": "without the symmetries", "both": "trained and predicting with them"}


def measure(out, device, seed, network, fraction, epochs):
    """Return the accuracies of a network with each of USES, on one `fraction`-th of the images, and `train_count`."""
    data = resplit(load_data(out), seed)
    if fraction > 1:
        labels = data["main_train_labels"]
        kept, _ = stratified_split(labels.numpy(), len(labels) // fraction, seed)
        data |= {"main_train_images": data["main_train_images"][kept], "main_train_labels": labels[kept]}
    result = {"train_count": len(data["main_train_labels"])}
    for uses, train_transform in ((USES[:2], None), (USES[2:], crop_and_normalise(data, RandomSymmetry()))):
        task = main_task(data, device, train_transform=train_transform)
        if fraction == 1 and train_transform is None:
            trained = seed_network(network, data, out, seed, epochs, device)
        else:
            trained = train_network(*network_of(network, data), task.train_loader, fraction * epochs, seed, device)
        for use, model in zip(uses, (trained, SymmetryMean(trained)), strict=True):
            logits, labels = predict(model, task.test_loader)
            result[use] = (logits.argmax(1) == labels).double().mean().item()
    return result


def summarise(rows, fractions):
    """Return per network and fraction the accuracies with intervals, the gains, and what the symmetries are worth."""
    networks = {}
    for name in NETWORKS:
        by_fraction = {fraction: select(rows, network=name, fraction=fraction) for fraction in fractions}
        values = {fraction: {use: [row[use] for row in mine] for use in USES} for fraction, mine in by_fraction.items()}
        networks[name] = {
            "train_count": {fraction: mine[0]["train_count"] for fraction, mine in by_fraction.items()},
            "seeds": values,
            "accuracy": {
                fraction: {use: mean_interval(each[use]) for use in USES} for fraction, each in values.items()
            },
            "gain": {
                fraction: {use: paired_difference(each[use], each["none"]) for use in USES[1:]}
                for fraction, each in values.items()
            },
            # With the symmetries on an n-th of the images, minus without them on all.
            "worth": {
                fraction: paired_difference(each["both"], values[1]["none"])
                for fraction, each in values.items()
                if fraction > 1
            },
        }
    return networks


def describe(networks):
    """Return the answer in a sentence."""
    gains = {name: judged(network["gain"][1]["both"]) for name, network in networks.items()}
    return f"Trained on the symmetries and averaged over them, the CNN gains {gains['cnn']}; the FCN {gains['fcn']}."


def describe_worth(networks):
    """Return a sentence on what the symmetries are worth in labelled galaxies, per network."""
    return [
        f"{name.upper()}, with the symmetries on fewer images minus without them on all: "
        + "; ".join(f"{network['train_count'][n]:,} images {judged(each)}" for n, each in network["worth"].items())
        + "."
        for name, network in networks.items()
        if network["worth"]
    ]


def tables(record):
    """Return the tables of docs/studies.md: accuracies and gains by network and training images."""
    lines = []
    for name, network in record["networks"].items():
        rows = [
            (network["train_count"][n], *map(percent, network["accuracy"][n].values()), points(gain["both"]))
            for n, gain in network["gain"].items()
        ]
        lines += table((f"{name.upper()}: training images", *USES, "both minus none"), rows)
    return lines


def symmetry_figure(networks, source):
    """Return a figure of accuracy against training images, with and without the symmetries."""
    figure, axes = plt.subplots(1, len(networks), figsize=(10, 4.4), layout="constrained", sharey=True)
    styles = {"none": ("--", "o", 0.55), "both": ("-", "o", 1.0)}
    for ax, (name, network) in zip(axes, networks.items(), strict=True):
        counts = np.array(list(network["train_count"].values()))
        for use, (line, marker, alpha) in styles.items():
            intervals = [each[use] for each in network["accuracy"].values()]
            mean, low, high = (100 * np.array([each[side] for each in intervals]) for side in ("mean", "low", "high"))
            ax.plot(counts, mean, line, marker=marker, color=COLOURS[name], alpha=alpha, label=LABELS[use])
            ax.fill_between(counts, low.clip(0, 100), high.clip(0, 100), color=COLOURS[name], alpha=0.15, linewidth=0)
            for count, each in zip(counts, network["seeds"].values(), strict=True):
                seeds = 100 * np.array(each[use])
                ax.plot(np.full(len(seeds), count), seeds, ".", color=COLOURS[name], alpha=0.4, markersize=4)
        ax.set_xscale("log")
        ax.set_xticks(counts, [f"{count:,}" for count in counts])
        ax.minorticks_off()
        ax.set(xlabel="training images", title=name.upper())
        ax.grid(alpha=0.25)
        ax.legend(loc="lower right")
    axes[0].set_ylabel("test accuracy (%)")
    figure.suptitle(plots.titled("The eight symmetries, worth labelled galaxies", source))
    return figure


def main():
    args = get_args()
    data = load_data(args.out)
    # The longest first, so that no core waits for another at the end.
    runs = [
        {"seed": seed, "network": name, "fraction": fraction}
        for name in ("cnn", "fcn")
        for seed in args.seeds
        for fraction in args.fractions
    ]
    rows = collect("symmetry", measure, runs, args, data, epochs=args.epochs)
    networks = summarise(rows, args.fractions)
    figure = symmetry_figure(networks, data["source"])
    save_study("symmetry", args, data, figure, describe(networks), describe_worth(networks), networks=networks)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add_study_options(parser)
    help = "train on one n-th of the images, for each n of the list; on an n-th, --epochs are multiplied by n"
    parser.add_argument("--fractions", type=number_list, default="1,2,4,8", metavar="LIST", help=help)
    args = parser.parse_args(argv)
    if args.fractions[0] != 1:
        parser.error(f"--fractions {','.join(map(str, args.fractions))}: must begin with 1, the whole training set")
    return args


if __name__ == "__main__":
    cli.run(main, resumes="")
