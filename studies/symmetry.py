"""A galaxy has no right way up: what is that worth to the networks, in points and in labelled galaxies?

FCN and CNN are trained with and without the eight symmetries of the square, a random one per image and epoch, and
predict with and without the mean over the eight; on an eighth, a quarter, half and all of the training images.
The fewer images, the more epochs, so that all trainings take about the same number of steps: what differs is the
images. The split, initial weights and crops of seed s are those of `make all SEED=s`.

Reads q1_data.pt under --out. Writes, in its folder studies/, symmetry.json, symmetry.png and a file per run.
"""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch

from common import cli, plots
from common.data import make_loaders
from common.galaxies.split import stratified_split
from common.hardware.device import choose_device
from common.storage.artifacts import load_data
from common.train import predict
from studies.runs import collect, draw_split, number_list, save_study
from studies.statistics import certain_sign, mean_interval, paired_difference, percent, points
from studies.symmetries import RandomSymmetry, SymmetryMean
from studies.training import COLOURS, NETWORKS, crop_and_normalise, seed_network, train_network

EXAMPLES = (
    "python -m studies.symmetry",
    "python -m studies.symmetry --seeds 0-9 --parts 1",
    "python -m studies.symmetry --seeds 3  # one of them, as a job of its own",
)
USES = ("neither", "predicting", "training", "both")  # of the symmetries


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--out", default="artifacts", metavar="DIR", help="folder of all artifacts, read and written")
    add("--seeds", type=number_list, default="0-4", metavar="LIST", help="random seeds, such as 0-4 or 0,3")
    add("--parts", type=number_list, default="1,2,4,8", metavar="LIST", help="train on one n-th of the images, each n")
    add("--epochs", type=cli.positive_int, default=50, metavar="N", help="passes over all images; n times with an n-th")
    cli.add_device(parser)
    args = parser.parse_args(argv)
    if args.parts[0] != 1:
        parser.error(f"--parts {','.join(map(str, args.parts))}: must begin with 1, the whole training set")
    return args


def measure(key, out, epochs, threads, device):
    """Return the accuracies of a network with each of USES, and `train_count`; key: seed-SEED-NETWORK-PART.

    threads: those that Q2's and Q3's own networks, trained on all images without symmetries, are trained with.
    """
    _, seed, name, part = key.split("-")
    seed, part, device = int(seed), int(part), choose_device(device)
    data = draw_split(load_data(out), seed)
    if part > 1:
        labels = data["main_train_labels"]
        kept, _ = stratified_split(labels.numpy(), len(labels) // part, seed)
        data |= {"main_train_images": data["main_train_images"][kept], "main_train_labels": labels[kept]}
    transform = crop_and_normalise(data)
    result = {"train_count": len(data["main_train_labels"])}
    for uses, train_transform in ((USES[:2], transform), (USES[2:], crop_and_normalise(data, RandomSymmetry()))):
        train_loader, test_loader = make_loaders(data, "main", transform, 64, device, train_transform)
        if part == 1 and uses == USES[:2]:
            network = seed_network(name, data, train_loader, epochs, seed, device, out, threads)
        else:
            network = train_network(*NETWORKS[name], train_loader, part * epochs, seed, device)
        for use, model in zip(uses, (network, SymmetryMean(network)), strict=True):
            logits, labels = predict(model, test_loader)
            result[use] = (logits.argmax(1) == labels).double().mean().item()
    return result


def summarise(results, seeds, parts):
    """Return per network and part the accuracies with intervals, the gains, and what the symmetries are worth."""
    networks = {}
    for name in NETWORKS:
        rows = {part: [results[f"seed-{seed}-{name}-{part}"] for seed in seeds] for part in parts}
        values = {part: {use: [row[use] for row in rows[part]] for use in USES} for part in parts}
        networks[name] = {
            "train_count": {part: rows[part][0]["train_count"] for part in parts},
            "seeds": values,
            "accuracy": {part: {use: mean_interval(values[part][use]) for use in USES} for part in parts},
            "gain": {
                part: {use: paired_difference(values[part][use], values[part]["neither"]) for use in USES[1:]}
                for part in parts
            },
            # With the symmetries on an n-th of the images, minus without them on all.
            "worth": {
                part: paired_difference(values[part]["both"], values[1]["neither"]) for part in parts if part > 1
            },
        }
    return networks


def describe(networks):
    """Return the answer in sentences."""
    labels = {"training": "training with them", "predicting": "predicting with their mean", "both": "both"}
    sentences = []
    for name, network in networks.items():
        accuracy, gain, count = network["accuracy"][1], network["gain"][1], network["train_count"]
        verdicts = {1: "better", -1: "worse", 0: "whether better cannot be told"}
        gains = [f"{label} {points(gain[use])}: {verdicts[certain_sign(gain[use])]}" for use, label in labels.items()]
        sentences.append(
            f"{name.upper()}, {count[1]:,} training images: {percent(accuracy['neither'])} without the symmetries; "
            f"{'; '.join(gains)}."
        )
        for part, worth in network["worth"].items():
            verdict = {
                1: f"the symmetries are worth more than {part} times the labelled galaxies",
                -1: f"the symmetries are worth less than {part} times the labelled galaxies",
                0: f"whether they are worth {part} times the labelled galaxies cannot be told",
            }[certain_sign(worth)]
            compared = f"both on {count[part]:,} images minus neither on {count[1]:,}"
            sentences.append(f"{name.upper()}: {compared}: {points(worth)}: {verdict}.")
    return sentences


def symmetry_figure(networks, source):
    """Return a figure of accuracy against training images, with and without the symmetries."""
    figure, axes = plt.subplots(1, len(networks), figsize=(10, 4.4), layout="constrained", sharey=True)
    styles = {"neither": ("--", "o", 0.55), "both": ("-", "o", 1.0)}
    for ax, (name, network) in zip(axes, networks.items(), strict=True):
        counts = np.array(list(network["train_count"].values()))
        for use, (line, marker, alpha) in styles.items():
            intervals = [network["accuracy"][part][use] for part in network["accuracy"]]
            mean, low, high = (100 * np.array([each[side] for each in intervals]) for side in ("mean", "low", "high"))
            ax.plot(counts, mean, line, marker=marker, color=COLOURS[name], alpha=alpha)
            ax.fill_between(counts, low.clip(0, 100), high.clip(0, 100), color=COLOURS[name], alpha=0.15, linewidth=0)
            for count, part in zip(counts, network["seeds"], strict=True):
                seeds = 100 * np.array(network["seeds"][part][use])
                ax.plot(np.full(len(seeds), count), seeds, ".", color=COLOURS[name], alpha=0.4, markersize=4)
            label = (
                "- - without the symmetries" if use == "neither" else "— trained and predicting\nwith the symmetries"
            )
            height, vertical = (0.03, "bottom") if use == "neither" else (0.97, "top")
            ax.text(0.97, height, label, transform=ax.transAxes, ha="right", va=vertical, color=COLOURS[name])
        ax.set_xscale("log")
        ax.set_xticks(counts, [f"{count:,}" for count in counts])
        ax.minorticks_off()
        ax.set(xlabel="training images", title=name.upper())
        ax.grid(alpha=0.25)
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(low - (high - low) / 8, high + (high - low) / 5)  # room for the labels
    axes[0].set_ylabel("test accuracy (%)")
    figure.suptitle(plots.titled("The eight symmetries, worth labelled galaxies", source))
    return figure


def main():
    args = get_args()
    data = load_data(args.out)
    # The longest first, so that no core waits for another at the end.
    keys = [f"seed-{seed}-{name}-{part}" for name in ("cnn", "fcn") for seed in args.seeds for part in args.parts]
    settings = {"epochs": args.epochs}
    compute = partial(measure, out=args.out, device=args.device, threads=torch.get_num_threads(), **settings)
    results = collect(args.out, "symmetry", keys, compute, settings, data["fingerprint"], args.device)
    networks = summarise(results, args.seeds, args.parts)
    sentences = describe(networks)
    record = {
        "source": data["source"],
        "fingerprint": data["fingerprint"],
        "args": vars(args),
        "networks": networks,
        "answer": sentences,
    }
    save_study(args.out, "symmetry", symmetry_figure(networks, data["source"]), record)


if __name__ == "__main__":
    cli.run(main)
