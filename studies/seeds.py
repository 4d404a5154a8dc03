"""How much do the answers vary from seed to seed, and is it the split's doing or the training's?

For each seed, FCN, CNN and transfer as `make all SEED=s` makes them, to the last digit: its own split, initial weights
and crops. Beside them three baselines on the same images: the majority class, softmax regression (one linear layer,
trained like the FCN) and the k nearest neighbours of downsampled pixels (scikit-learn; k by cross-validation on the
training images). The first --grid seeds are also crossed, each split with each training seed, which tells
the split's variance from the training's. With --split file the file's own order, the course's, stands beside.

Reads q1_data.pt under --out. Writes, in its folder studies/, seeds.json, seeds.png and a file per run.
"""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from common import cli, plots
from common.data import make_loaders
from common.galaxies.facts import COURSE
from common.hardware.device import choose_device
from common.metrics import majority_accuracy
from common.storage.artifacts import load_data
from common.storage.checkpoint import weights_hash
from common.train import loss_and_accuracy, predict
from studies.baselines import nearest_neighbours, softmax_regression
from studies.runs import collect, draw_split, number_list, save_study
from studies.statistics import certain_sign, mean_interval, paired_difference, percent, points, variance_parts
from studies.training import COLOURS, NETWORKS, crop_and_normalise, seed_network, train_network

EXAMPLES = (
    "python -m studies.seeds",
    "python -m studies.seeds --seeds 0-9 --split file  # the course's protocol beside ours",
    "python -m studies.seeds --seeds 3  # one of them, as a job of its own",
)
TITLES = {
    "majority": "majority class",
    "neighbours": "nearest neighbours",
    "softmax": "softmax regression",
    "fcn": "FCN",
    "cnn": "CNN",
    "transfer_majority": "majority class, transfer",
    "transfer": "transfer",
}
COURSE_NAMES = {"fcn": "q2", "cnn": "q3", "transfer": "q5"}


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add, whole = parser.add_argument, cli.positive_int
    add("--out", default="artifacts", metavar="DIR", help="folder of all artifacts, read and written")
    add("--seeds", type=number_list, default="0-4", metavar="LIST", help="random seeds, such as 0-4 or 0,3")
    add("--grid", type=whole, default=3, metavar="N", help="seeds whose splits and trainings are crossed; 1: none")
    add("--split", choices=("stratified", "file"), default="stratified", help="file: the file's order, beside ours")
    add("--epochs", type=whole, default=50, metavar="N", help="passes over the main training set")
    add("--transfer-epochs", type=whole, default=20, metavar="N", help="passes over the transfer training set")
    help = "threads per process; unset: those of a script by itself, on whose number the last digits depend"
    add("--threads", type=whole, metavar="N", help=help)
    cli.add_device(parser)
    return parser.parse_args(argv)


def measure(key, out, epochs, transfer_epochs, device):
    """Return the results of a run by name, each with test_accuracy and more.

    key: seed-S and file-S, of everything, with the split of seed S or the file's order; split-S-training-T, of the
    networks alone with the split of one seed and the initial weights, order and crops of another.
    """
    kind, seed, *others = key.split("-")
    device, training = choose_device(device), int(others[-1] if others else seed)
    data = draw_split(load_data(out), int(seed), "file" if kind == "file" else "stratified")
    train_loader, test_loader = make_loaders(data, "main", crop_and_normalise(data), 64, device)
    trained = {
        name: seed_network(name, data, train_loader, epochs, training, device, out, torch.get_num_threads())
        for name in NETWORKS
    }
    results = {name: tested(network, test_loader) for name, network in trained.items()}
    if others:
        return results
    softmax = train_network(softmax_regression, NETWORKS["fcn"][1], train_loader, epochs, training, device)
    results |= {"softmax": tested(softmax, test_loader), "neighbours": nearest_neighbours(data, training)}
    results["transfer"] = transfer(trained["cnn"][0], data, transfer_epochs, training, device)
    for name, task in (("majority", "main"), ("transfer_majority", "transfer")):
        accuracy = majority_accuracy(data[f"{task}_train_labels"], data[f"{task}_test_labels"])
        results[name] = {"test_accuracy": accuracy, "test_count": len(data[f"{task}_test_labels"])}
    return results


def tested(network, test_loader):
    """Return the metrics of a network, and its hash."""
    logits, labels = predict(network, test_loader)
    loss, accuracy = loss_and_accuracy(nn.CrossEntropyLoss(), logits, labels)
    weights = weights_hash(network.state_dict())
    return {"test_accuracy": accuracy, "test_loss": loss, "test_count": len(labels), "weights_sha256": weights}


def transfer(cnn_backbone, data, epochs, seed, device):
    """Return the metrics of a new head on the frozen backbone, trained as q5_transfer.py does with `--seed SEED`."""
    loaders = make_loaders(data, "transfer", crop_and_normalise(data), 64, device)
    for parameter in cnn_backbone.parameters():
        parameter.requires_grad = False
    head = partial(nn.Linear, 64, 2)
    network = train_network(lambda: nn.Sequential(cnn_backbone, head()), 0.005, loaders[0], epochs, seed, device)
    return tested(network, loaders[1])


def protocol(results, kind, seeds):
    """Return mean and interval of each method, each seed's accuracy, and CNN minus FCN, of runs `kind`-S."""
    rows = [results[f"{kind}-{seed}"] for seed in seeds]
    accuracies = {name: [row[name]["test_accuracy"] for row in rows] for name in TITLES}
    losses = {name: [row[name]["test_loss"] for row in rows] for name in ("softmax", "fcn", "cnn", "transfer")}
    return {
        "accuracy": {name: mean_interval(values) for name, values in accuracies.items()},
        "loss": {name: mean_interval(values) for name, values in losses.items()},
        "seeds": accuracies,
        "cnn_minus_fcn": paired_difference(accuracies["cnn"], accuracies["fcn"]),
        "test_count": {name: rows[0][name]["test_count"] for name in TITLES},
    }


def grid_keys(seeds):
    """Return the keys of the crossed runs, a row of training seeds for each split."""
    return [[f"seed-{s}" if s == t else f"split-{s}-training-{t}" for t in seeds] for s in seeds]


def describe(protocols, variance):
    """Return the answer in sentences."""
    sentences = []
    for kind, found in protocols.items():
        where = "File's order" if kind == "file" else "Stratified splits"
        names = [f"{TITLES[name]} {percent(interval)}" for name, interval in found["accuracy"].items()]
        sentences.append(f"{where}, {found['accuracy']['cnn']['n']} seeds: {'; '.join(names)}.")
        difference = found["cnn_minus_fcn"]
        verdict = {1: "the CNN is better", -1: "the FCN is better", 0: "which is better cannot be told"}
        sentences.append(f"CNN minus FCN: {points(difference)}: {verdict[certain_sign(difference)]}.")
    for name, parts in variance.items():
        if np.isnan(parts["share"]):
            sentences.append(f"{name.upper()}: all crossed runs have the same accuracy.")
            continue
        if parts["high"] == 0:  # the means of the splits lie closer together than the trainings alone explain
            sentences.append(f"{name.upper()}: the split's share of the variance cannot be told from so few runs.")
            continue
        verdict = "whether the split matters cannot be told"
        if parts["low"] > 0:
            verdict = "the split matters"
        sentences.append(
            f"{name.upper()}: standard deviation {100 * parts['between_sd']:.1f} points from split to split and "
            f"{100 * parts['within_sd']:.1f} from training to training on one split; the split's share of the variance "
            f"is {parts['share']:.0%} [{parts['low']:.0%}, {parts['high']:.0%}]: {verdict}."
        )
    return sentences


def seeds_figure(protocols, course, source):
    """Return a figure of each method's accuracy: a point per seed, the mean and its interval."""
    figure, ax = plt.subplots(figsize=(9, 4.6), layout="constrained")
    rows = {name: len(TITLES) - place for place, name in enumerate(TITLES)}
    furthest = 0
    for shift, (kind, found) in zip((0.0, -0.32), protocols.items(), strict=False):
        for name, row in rows.items():
            interval = found["accuracy"][name]
            colour = COLOURS.get(name, COLOURS["cnn"] if name == "transfer" else "0.45")
            values, mean = 100 * np.array(found["seeds"][name]), 100 * interval["mean"]
            ax.plot(values, np.full(len(values), row + shift), "o", color=colour, alpha=0.35, markersize=5)
            if np.isfinite(interval["low"]):
                low, high = 100 * interval["low"], 100 * interval["high"]
                ax.plot([low, high], [row + shift] * 2, color=colour, linewidth=2)
            ax.plot(mean, row + shift, "|", color=colour, markersize=14, markeredgewidth=2)
            label = f"{mean:.1f} %" + (", file's order" if kind == "file" else "")
            right = np.nanmax([values.max(), min(100 * interval["high"], 100)])
            ax.annotate(label, (right, row + shift), xytext=(10, 0), textcoords="offset points", va="center")
            furthest = max(furthest, right)
    for name, (accuracy, _) in course.items():
        ax.plot(100 * accuracy, rows[name] + 0.25, "v", color="black", markersize=6)
        ax.annotate(
            "course", (100 * accuracy, rows[name] + 0.25), xytext=(7, 0), textcoords="offset points", va="center"
        )
    ax.set_yticks(list(rows.values()), list(TITLES.values()))
    xlabel = "test accuracy (%): a point per seed; the line is the 95 % interval of their mean"
    ax.set(xlabel=xlabel, xlim=(0, furthest + 19))
    ax.grid(alpha=0.25, axis="x")
    figure.suptitle(plots.titled("How much the answers vary", source))
    return figure


def main():
    args = get_args()
    data = load_data(args.out)
    kinds = ["seed", "file"] if args.split == "file" else ["seed"]
    gridded = args.seeds[: args.grid]
    grid = grid_keys(gridded) if len(gridded) > 1 else []
    keys = [f"{kind}-{seed}" for kind in kinds for seed in args.seeds]
    settings = {"epochs": args.epochs, "transfer_epochs": args.transfer_epochs}
    compute = partial(measure, out=args.out, device=args.device, **settings)
    settings["threads"] = args.threads  # unless given, results of a machine with another number of cores count too
    args.threads = args.threads or torch.get_num_threads()
    run = partial(collect, args.out, "seeds", compute=compute, settings=settings, fingerprint=data["fingerprint"])
    results = run(keys, device=args.device, threads=args.threads)
    if crossed := [key for row in grid for key in row if key not in keys]:
        # No script makes these, so their last digits may be those of one thread, with which two runs are faster.
        results |= run(crossed, device=args.device)
    protocols = {kind: protocol(results, kind, args.seeds) for kind in kinds}
    accuracies = {
        name: [[results[key][name]["test_accuracy"] for key in row] for row in grid] for name in NETWORKS if grid
    }
    variance = {name: variance_parts(values) for name, values in accuracies.items()}
    course = {name: COURSE[q] for name, q in COURSE_NAMES.items()} if data["source"] == "galaxy10-sdss" else {}
    sentences = describe(protocols, variance)
    record = {"source": data["source"], "fingerprint": data["fingerprint"], "args": vars(args), "protocols": protocols}
    record |= {"grid": accuracies, "variance": variance, "course": course, "answer": sentences}
    save_study(args.out, "seeds", seeds_figure(protocols, course, data["source"]), record)


if __name__ == "__main__":
    cli.run(main)
