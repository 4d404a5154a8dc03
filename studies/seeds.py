"""How much do the results vary between seeds, and is this due to the split or to the training?

For each seed s, FCN, CNN and transfer are trained as in `OMP_NUM_THREADS=1 make all SEED=s`, with the same split,
initial weights and crops. Three baselines use the same images: the majority class, softmax regression (one linear
layer, trained like the FCN) and k nearest neighbours on downsampled pixels (scikit-learn, k by cross-validation on the
training images). The splits of the first --grid seeds are crossed with their training seeds, to separate the variance
between splits from the variance between training runs. --split file adds the course's split, in file order.

Reads q1_data.pt under --out. Writes seeds.json, seeds.png and a file per run into {out}/studies.
"""

from functools import partial
from itertools import permutations

from common import cli
from common.data import load_data
from common.galaxies.split import task_names
from common.metrics import majority_accuracy
from common.storage.checkpoint import weights_hash
from common.train import loss_and_accuracy, predict
from studies.methods.runs import collect, resplit, save_study, select, study_parser
from studies.methods.statistics import draw_seeds, judged, mean_interval, share_text, table_lines, variance_components
from studies.methods.training import COLOURS, DEFAULTS, NETWORKS, make_loader, seed_network, train_network

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d
from torchvision.transforms.functional import center_crop

TITLES = {
    "majority": "majority class",
    "neighbours": "nearest neighbours",
    "softmax": "softmax regression",
    "fcn": "FCN",
    "cnn": "CNN",
    "transfer_majority": "majority class, transfer",
    "transfer": "transfer",
}


def measure(out, device, split, split_seed, seed, epochs, transfer_epochs):
    """Return the results of each method by name, dicts with test_accuracy and more.

    split: stratified, by `split_seed`, or file. If split_seed differs from `seed`, only FCN and CNN are trained.
    """
    data = resplit(load_data(out), split_seed, split)
    networks = {name: seed_network(name, data, out, seed, epochs, device) for name in NETWORKS}
    test_loader = make_loader(data, "main_test", device)
    results = {name: evaluate(network, test_loader) for name, network in networks.items()}
    if split_seed != seed:
        return results
    num_main, num_transfer = (len(names) for names in task_names(data).values())
    train_loader = make_loader(data, "main_train", device, batch_size=DEFAULTS["fcn"].batch_size, shuffle=True)

    def make_softmax():
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 48 * 48, num_main))

    softmax = train_network(make_softmax, DEFAULTS["fcn"].lr, train_loader, epochs, seed, device)
    results |= {"softmax": evaluate(softmax, test_loader), "neighbours": nearest_neighbours(data, seed)}
    if num_transfer:
        results["transfer"] = transfer_metrics(networks["cnn"][0], data, transfer_epochs, seed, device)
    for name, task in (("majority", "main"), ("transfer_majority", "transfer")):
        labels, test_labels = data[f"{task}_train_labels"], data[f"{task}_test_labels"]
        if len(labels):
            results[name] = {"test_accuracy": majority_accuracy(labels, test_labels), "test_count": len(test_labels)}
    return results


def nearest_neighbours(data, seed):
    """Return the metrics of k nearest neighbours on the central 48 x 48 pixels, averaged to 12 x 12.

    k is chosen by five-fold cross-validation on the training images of Q1's `data`; seed: of the folds.
    """
    features, labels = {}, {}
    for subset in ("train", "test"):
        centre = center_crop(data[f"main_{subset}_images"], 48).float()
        features[subset] = adaptive_avg_pool2d(centre, 12).flatten(1).numpy()
        labels[subset] = data[f"main_{subset}_labels"].numpy()
    folds = KFold(5, shuffle=True, random_state=seed)
    largest = int(0.8 * len(labels["train"])) - 1
    ks = [k for k in (1, 3, 5, 10, 20, 40) if k <= largest]
    search = GridSearchCV(KNeighborsClassifier(), {"n_neighbors": ks}, cv=folds).fit(features["train"], labels["train"])
    accuracy = float(search.score(features["test"], labels["test"]))
    return {"test_accuracy": accuracy, "test_count": len(labels["test"]), "k": search.best_params_["n_neighbors"]}


def evaluate(network, test_loader):
    """Return the test metrics of a network and the hash of its weights."""
    logits, labels = predict(network, test_loader)
    loss, accuracy = loss_and_accuracy(nn.CrossEntropyLoss(), logits, labels)
    weights = weights_hash(network.state_dict())
    return {"test_accuracy": accuracy, "test_loss": loss, "test_count": len(labels), "weights_sha256": weights}


def transfer_metrics(cnn_backbone, data, epochs, seed, device):
    """Return the test metrics of a new head on the frozen backbone, trained as in `q5_transfer.py --seed SEED`."""
    defaults = DEFAULTS["transfer"]
    loader = make_loader(data, "transfer_train", device, batch_size=defaults.batch_size, shuffle=True)
    head = partial(nn.Linear, 64, len(task_names(data)["transfer"]))
    cnn_backbone.requires_grad_(False)
    network = train_network(lambda: nn.Sequential(cnn_backbone, head()), defaults.lr, loader, epochs, seed, device)
    return evaluate(network, make_loader(data, "transfer_test", device))


def protocol(rows):
    """Return each method's accuracies and losses for one kind of split, and CNN minus FCN, with intervals."""
    names = [name for name in TITLES if name in rows[0]]  # without transfer if no classes are held back
    accuracies = {name: [row[name]["test_accuracy"] for row in rows] for name in names}
    losses = {name: [row[name]["test_loss"] for row in rows] for name in names if "test_loss" in rows[0][name]}
    return {
        "accuracy": {name: mean_interval(values) for name, values in accuracies.items()},
        "loss": {name: mean_interval(values) for name, values in losses.items()},
        "seeds": accuracies,
        "cnn_minus_fcn": mean_interval(np.subtract(accuracies["cnn"], accuracies["fcn"])),
        "test_count": {name: rows[0][name]["test_count"] for name in names},
    }


def describe(record):
    """Return the answer, and a sentence per network on the variance of its accuracy."""
    found = record["protocols"]["stratified"]
    accuracy = found["accuracy"]
    sentences = [
        f"Over {accuracy['cnn']['n']} seeds the FCN reaches {share_text(accuracy['fcn'])} and the CNN "
        f"{share_text(accuracy['cnn'])}; CNN minus FCN is {judged(found['cnn_minus_fcn'])}."
    ]
    for name, parts in record["variance"].items():
        sentence = (
            f"standard deviation {100 * parts['between_sd']:.1f} points between splits and "
            f"{100 * parts['within_sd']:.1f} between training runs on one split; the split's share of the variance is "
            f"{parts['share']:.0%} [{100 * parts['low']:.0f}, {100 * parts['high']:.0f}]."
        )
        same = np.isnan(parts["share"])
        sentences.append(f"{name.upper()}: {'all crossed runs have the same accuracy.' if same else sentence}")
    return sentences


def tables(record):
    """Return the tables of docs/studies.md: the accuracy of each method, by kind of split."""
    lines = []
    for kind, found in record["protocols"].items():
        lines += ["The file's own order:" if kind == "file" else "Stratified splits, one per seed:", ""]
        rows = []
        for name, each in found["accuracy"].items():
            sd = f"{100 * each['sd']:.1f}" if each["n"] > 1 else "–"
            ends = f"{100 * each['lowest']:.1f} – {100 * each['highest']:.1f}"
            rows.append((TITLES[name], share_text(each), sd, ends, found["test_count"][name]))
        header = ("method", "accuracy, mean over seeds", "standard deviation", "lowest – highest", "test images")
        lines += table_lines(header, rows)
    return lines


def seeds_figure(protocols):
    """Return a figure of each method's accuracies; protocols: by kind of split."""
    figure, ax = plt.subplots(figsize=(9, 4.6), layout="constrained")
    names = list(next(iter(protocols.values()))["accuracy"])
    rows = {name: len(names) - place for place, name in enumerate(names)}
    furthest = 0
    for shift, (kind, found) in zip((0.0, -0.32), protocols.items(), strict=False):
        for name, row in rows.items():
            interval = found["accuracy"][name]
            colour = COLOURS.get(name, COLOURS["cnn"] if name == "transfer" else "0.45")
            right = draw_seeds(ax, row + shift, found["seeds"][name], interval, colour)
            label = f"{interval['mean']:.1%}" + (", file's order" if kind == "file" else "")
            ax.text(right, row + shift, f"  {label}", va="center")
            furthest = max(furthest, right)
    ax.set_yticks(list(rows.values()), [TITLES[name] for name in names])
    ax.set_xlim(0, furthest + 19)
    figure.suptitle("How much the results vary")
    return figure


def main():
    args = get_args()
    data = load_data(args.out)
    kinds = ["stratified", "file"] if args.split == "file" else ["stratified"]
    runs = [{"split": kind, "split_seed": seed, "seed": seed} for kind in kinds for seed in args.seeds]
    grid = args.seeds[: args.grid]
    runs += [{"split": "stratified", "split_seed": split, "seed": seed} for split, seed in permutations(grid, 2)]
    rows = collect(__file__, measure, runs, args, data, epochs=args.epochs, transfer_epochs=args.transfer_epochs)

    own_splits = [row for row in rows if row["split_seed"] == row["seed"]]
    protocols = {kind: protocol(select(own_splits, split=kind)) for kind in kinds}
    crossed = {(row["split_seed"], row["seed"]): row for row in select(rows, split="stratified")}
    variance = {}
    for name in NETWORKS if len(grid) > 1 else ():
        accuracies = [[crossed[split, seed][name]["test_accuracy"] for seed in grid] for split in grid]
        variance[name] = variance_components(accuracies)
    record = {"protocols": protocols, "variance": variance}
    save_study(__file__, args, data, seeds_figure(protocols), describe(record), **record)


def get_args(argv=None):
    parser = study_parser(__doc__, "python -m studies.seeds --seeds 0-9 --split file")
    add, whole = parser.add_argument, cli.positive_int
    add("--grid", type=whole, default=3, metavar="N", help="seeds to cross, splits × training runs; 1: none")
    help = "file: add the course's split, in file order"
    add("--split", choices=("stratified", "file"), default="stratified", help=help)
    epochs = DEFAULTS["transfer"].epochs
    add("--transfer-epochs", type=whole, default=epochs, metavar="N", help="passes over the transfer training set")
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, resumes="")
