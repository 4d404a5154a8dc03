"""How much do the results vary from seed to seed, and does the split or the training make them vary?

For each seed, FCN, CNN and transfer as `OMP_NUM_THREADS=1 make all SEED=s` trains them: its own split, initial weights
and crops. Beside them three baselines on the same images: the majority class, softmax regression (one linear layer,
trained like the FCN) and the k nearest neighbours of downsampled pixels (scikit-learn; k by cross-validation on the
training images). The first --grid seeds are also crossed, each split with each training seed, which separates the
split's variance from the training's. With --split file the file's own order, the course's, stands beside.

Reads q1_data.pt under --out. Writes, in its folder studies/, seeds.json, seeds.png and a file per run.
"""

from functools import partial

from common import cli, plots
from common.data import load_data, make_loaders
from common.galaxies.facts import CLASS_NAMES, COURSE, MAIN_CLASSES
from common.galaxies.split import task_names
from common.hardware.device import place
from common.metrics import majority_accuracy
from common.storage.checkpoint import weights_hash
from common.train import loss_and_accuracy, predict
from studies.methods.page import table
from studies.methods.runs import add_study_options, collect, resplit, save_study, select
from studies.methods.statistics import judged, mean_interval, paired_difference, percent, variance_components
from studies.methods.training import COLOURS, NETWORKS, crop_and_normalise, main_task, seed_network, train_network

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

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


def measure(out, device, split, split_seed, seed, epochs, transfer_epochs):
    """Return the results of a run by name, each with test_accuracy and more.

    split: stratified, by `split_seed`, or file. Where split_seed is not `seed`, the networks alone are trained.
    """
    data = resplit(load_data(out), split_seed, split)
    networks = {name: seed_network(name, data, out, seed, epochs, device) for name in NETWORKS}
    task = main_task(data, device)
    results = {name: tested(network, task.test_loader) for name, network in networks.items()}
    if split_seed != seed:
        return results
    make_softmax = partial(softmax_regression, len(task.class_names))
    softmax = train_network(make_softmax, NETWORKS["fcn"][1], task.train_loader, epochs, seed, device)
    results |= {"softmax": tested(softmax, task.test_loader), "neighbours": nearest_neighbours(data, seed)}
    majorities = {"majority": "main"}
    if task_names(data)["transfer"]:
        results["transfer"] = transfer(networks["cnn"][0], data, transfer_epochs, seed, device)
        majorities["transfer_majority"] = "transfer"
    for name, task in majorities.items():
        accuracy = majority_accuracy(data[f"{task}_train_labels"], data[f"{task}_test_labels"])
        results[name] = {"test_accuracy": accuracy, "test_count": len(data[f"{task}_test_labels"])}
    return results


def softmax_regression(num_classes):
    """Return one linear layer: crops, float32 (n, 3, 48, 48), to logits (n, num_classes)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 48 * 48, num_classes))


def nearest_neighbours(data, seed):
    """Return the metrics of k nearest neighbours on 12 x 12 means of the central 48 x 48 pixels.

    k is chosen by cross-validation on the training images. data: Q1's dict; seed: of the division into five.
    """
    features = {}
    for subset in ("train", "test"):
        images = data[f"main_{subset}_images"]
        top, left = ((side - 48) // 2 for side in images.shape[2:])
        centre = images[:, :, top : top + 48, left : left + 48].float()
        features[subset] = adaptive_avg_pool2d(centre, 12).flatten(1).numpy()
    labels = {subset: data[f"main_{subset}_labels"].numpy() for subset in features}
    parts = KFold(5, shuffle=True, random_state=seed)
    largest = int(0.8 * len(labels["train"])) - 1
    ks = [k for k in (1, 3, 5, 10, 20, 40) if k <= largest]
    search = GridSearchCV(KNeighborsClassifier(), {"n_neighbors": ks}, cv=parts).fit(features["train"], labels["train"])
    accuracy = float(search.score(features["test"], labels["test"]))
    return {"test_accuracy": accuracy, "test_count": len(labels["test"]), "k": search.best_params_["n_neighbors"]}


def tested(network, test_loader):
    """Return the metrics of a network, and its hash."""
    logits, labels = predict(network, test_loader)
    loss, accuracy = loss_and_accuracy(nn.CrossEntropyLoss(), logits, labels)
    weights = weights_hash(network.state_dict())
    return {"test_accuracy": accuracy, "test_loss": loss, "test_count": len(labels), "weights_sha256": weights}


def transfer(cnn_backbone, data, epochs, seed, device):
    """Return the metrics of a new head on the frozen backbone, trained as q5_transfer.py does with `--seed SEED`."""
    task = place(make_loaders(data, "transfer", crop_and_normalise(data)), device)
    cnn_backbone.requires_grad_(False)
    head = partial(nn.Linear, 64, len(task.class_names))
    network = train_network(lambda: nn.Sequential(cnn_backbone, head()), 0.005, task.train_loader, epochs, seed, device)
    return tested(network, task.test_loader)


def protocol(rows):
    """Return mean and interval of each method, each seed's accuracy, and CNN minus FCN, of one kind of split."""
    names = [name for name in TITLES if name in rows[0]]  # without transfer where no classes are held back
    accuracies = {name: [row[name]["test_accuracy"] for row in rows] for name in names}
    losses = {name: [row[name]["test_loss"] for row in rows] for name in names if "test_loss" in rows[0][name]}
    return {
        "accuracy": {name: mean_interval(values) for name, values in accuracies.items()},
        "loss": {name: mean_interval(values) for name, values in losses.items()},
        "seeds": accuracies,
        "cnn_minus_fcn": paired_difference(accuracies["cnn"], accuracies["fcn"]),
        "test_count": {name: rows[0][name]["test_count"] for name in names},
    }


def describe(protocols):
    """Return the answer in a sentence."""
    found = protocols["stratified"]
    accuracy = found["accuracy"]
    return (
        f"Over {accuracy['cnn']['n']} seeds the FCN reaches {percent(accuracy['fcn'])} and the CNN "
        f"{percent(accuracy['cnn'])}; CNN minus FCN is {judged(found['cnn_minus_fcn'])}."
    )


def describe_variance(variance):
    """Return a sentence per network on what makes its accuracy vary; variance: of `variance_components`, by name."""
    sentences = []
    for name, parts in variance.items():
        if np.isnan(parts["share"]):
            sentences.append(f"{name.upper()}: all crossed runs have the same accuracy.")
        else:
            sentences.append(
                f"{name.upper()}: standard deviation {100 * parts['between_sd']:.1f} points between splits and "
                f"{100 * parts['within_sd']:.1f} between training runs on one split; the split's share of the variance "
                f"is {parts['share']:.0%} [{100 * parts['low']:.0f}, {100 * parts['high']:.0f}]."
            )
    return sentences


def tables(record):
    """Return the tables of docs/studies.md: each method's accuracy, of each kind of split."""
    lines = []
    for kind, found in record["protocols"].items():
        lines += ["The file's own order:" if kind == "file" else "Stratified splits, one per seed:", ""]
        rows = [
            (TITLES[name], percent(each), f"{100 * each['sd']:.1f}" if each["n"] > 1 else "–",
             f"{100 * each['lowest']:.1f} – {100 * each['highest']:.1f}", found["test_count"][name])
            for name, each in found["accuracy"].items()
        ]  # fmt: skip
        header = ("method", "accuracy, mean over seeds", "standard deviation", "lowest – highest", "test images")
        lines += table(header, rows)
    return lines


def seeds_figure(protocols, course, source):
    """Return a figure of each method's accuracy: a point per seed, the mean and its interval."""
    figure, ax = plt.subplots(figsize=(9, 4.6), layout="constrained")
    names = list(next(iter(protocols.values()))["accuracy"])
    rows = {name: len(names) - place for place, name in enumerate(names)}
    furthest = 0
    for shift, (kind, found) in zip((0.0, -0.32), protocols.items(), strict=False):
        for name, row in rows.items():
            interval = found["accuracy"][name]
            colour = COLOURS.get(name, COLOURS["cnn"] if name == "transfer" else "0.45")
            values, mean = 100 * np.array(found["seeds"][name]), 100 * interval["mean"]
            ax.plot(values, np.full(len(values), row + shift), "o", color=colour, alpha=0.35, markersize=5)
            low, high = 100 * interval["low"], 100 * interval["high"]
            ax.plot([low, high], [row + shift] * 2, color=colour, linewidth=2)
            ax.plot(mean, row + shift, "|", color=colour, markersize=14, markeredgewidth=2)
            label = f"{mean:.1f}%" + (", file's order" if kind == "file" else "")
            right = np.nanmax([values.max(), min(high, 100)])
            ax.annotate(label, (right, row + shift), xytext=(10, 0), textcoords="offset points", va="center")
            furthest = max(furthest, right)
    for name, (accuracy, _) in course.items():
        ax.plot(100 * accuracy, rows[name] + 0.25, "v", color="black", markersize=6)
        ax.annotate(
            "course", (100 * accuracy, rows[name] + 0.25), xytext=(7, 0), textcoords="offset points", va="center"
        )
    ax.set_yticks(list(rows.values()), [TITLES[name] for name in names])
    xlabel = "test accuracy (%): a point per seed; the line is the 95% interval of their mean"
    ax.set(xlabel=xlabel, xlim=(0, furthest + 19))
    ax.grid(alpha=0.25, axis="x")
    figure.suptitle(plots.titled("How much the results vary", source))
    return figure


def main():
    args = get_args()
    data = load_data(args.out)
    kinds = ["stratified", "file"] if args.split == "file" else ["stratified"]
    runs = [{"split": kind, "split_seed": seed, "seed": seed} for kind in kinds for seed in args.seeds]
    grid = args.seeds[: args.grid] if min(args.grid, len(args.seeds)) > 1 else []
    crossed = [(split_seed, seed) for split_seed in grid for seed in grid if split_seed != seed]
    runs += [{"split": "stratified", "split_seed": split_seed, "seed": seed} for split_seed, seed in crossed]
    rows = collect("seeds", measure, runs, args, data, epochs=args.epochs, transfer_epochs=args.transfer_epochs)

    protocols = {
        kind: protocol([row for row in select(rows, split=kind) if row["split_seed"] == row["seed"]]) for kind in kinds
    }
    variance = {}
    for name in NETWORKS if grid else ():
        accuracies = {
            (row["split_seed"], row["seed"]): row[name]["test_accuracy"] for row in select(rows, split="stratified")
        }
        variance[name] = variance_components([[accuracies[split, seed] for seed in grid] for split in grid])
    comparable = data["source"] == "galaxy10-sdss" and task_names(data)["transfer"] == list(CLASS_NAMES[MAIN_CLASSES:])
    course = {name: COURSE[q] for name, q in COURSE_NAMES.items()} if comparable else {}
    figure = seeds_figure(protocols, course, data["source"])
    notes = describe_variance(variance)
    save_study("seeds", args, data, figure, describe(protocols), notes, protocols=protocols, variance=variance)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add_study_options(parser)
    add, whole = parser.add_argument, cli.positive_int
    add("--grid", type=whole, default=3, metavar="N", help="seeds in the split × training grid; 1: none")
    add("--split", choices=("stratified", "file"), default="stratified", help="file: the file's order, beside ours")
    add("--transfer-epochs", type=whole, default=20, metavar="N", help="passes over the transfer training set")
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, resumes="")
