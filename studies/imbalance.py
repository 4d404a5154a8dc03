"""Is it the imbalance? The CNN trained against it in four ways, for overall accuracy and for the rare classes.

none: Q3's CNN as it is. root and inverse: nn.CrossEntropyLoss with class weights 1/sqrt(n) and 1/n, n the training
images of the class. sampler: images sampled so that all classes are equally frequent. adjusted: the logits of `none`
minus the logarithm of the class frequencies (Menon et al. 2021), without training again. If the rare classes were
hard only for being rare, these would bring their recall to that of the others.

Reads q1_data.pt under --out. Writes, in its folder studies/, imbalance.json, imbalance.png and a file per run.
"""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from torch import nn

from common import cli, metrics, plots
from common.data import make_loader
from common.galaxies.facts import MAIN_CLASSES
from common.hardware.device import choose_device
from common.hardware.gpu import ResidentLoader
from common.storage.artifacts import load_data
from common.train import predict
from studies.runs import collect, draw_split, number_list, save_study
from studies.statistics import bootstrap_interval, certain_sign, percent, points
from studies.training import NETWORKS, crop_and_normalise, seed_network, train_network

EXAMPLES = (
    "python -m studies.imbalance",
    "python -m studies.imbalance --seeds 0-9",
    "python -m studies.imbalance --seeds 3  # one of them, as a job of its own",
)
TITLES = {
    "none": "as in Q3",
    "root": "loss weights 1/√n",
    "inverse": "loss weights 1/n",
    "sampler": "balanced sampler",
    "adjusted": "logits adjusted",
}
METRICS = ("accuracy", "balanced accuracy", "macro F1")
# A colour for each method (Okabe & Ito), none of those of FCN and CNN but the CNN's own for Q3's.
COLOURS = dict(zip(TITLES, ("#D55E00", "#56B4E9", "#009E73", "#CC79A7", "#E69F00"), strict=True))


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--out", default="artifacts", metavar="DIR", help="folder of all artifacts, read and written")
    add("--seeds", type=number_list, default="0-4", metavar="LIST", help="random seeds, such as 0-4 or 0,3")
    add("--epochs", type=cli.positive_int, default=50, metavar="N", help="passes over the training set")
    cli.add_device(parser)
    return parser.parse_args(argv)


def class_weights(counts, power):
    """Return n^-power of each class, float32 (k,), mean 1 over the training images; 0 for a class without any."""
    counts = counts.double()
    weights = torch.where(counts > 0, counts.clamp(min=1) ** -power, 0)
    return (weights * counts.sum() / (weights * counts).sum()).float()


def adjusted_logits(logits, counts):
    """Return logits minus the logarithm of the class frequencies; -inf for a class without training images.

    Menon et al. (2021), Long-tail learning via logit adjustment, eq. 9 with tau = 1.
    """
    return logits - torch.where(counts > 0, (counts / counts.sum()).log(), torch.inf)


def measure(key, out, epochs, threads, device):
    """Return the test predictions of the CNN trained in one way; key: seed-SEED-METHOD.

    threads: those that Q3's own CNN, of METHOD none, is trained with.
    """
    _, seed, method = key.split("-")
    seed, device = int(seed), choose_device(device)
    data = draw_split(load_data(out), seed)
    transform, labels = crop_and_normalise(data), data["main_train_labels"]
    counts = torch.bincount(labels, minlength=MAIN_CLASSES)
    sampled = class_weights(counts, 1)[labels] if method == "sampler" else None
    train_loader = make_loader(data["main_train_images"], labels, transform, shuffle=True, weights=sampled)
    test_loader = make_loader(data["main_test_images"], data["main_test_labels"], transform)
    if device.type != "cpu":
        train_loader, test_loader = (ResidentLoader(loader, device) for loader in (train_loader, test_loader))
    power = {"root": 0.5, "inverse": 1}.get(method, 0)
    criterion = nn.CrossEntropyLoss(class_weights(counts, power)).to(device) if power else None
    if method == "none":
        cnn = seed_network("cnn", data, train_loader, epochs, seed, device, out, threads)
    else:
        cnn = train_network(*NETWORKS["cnn"], train_loader, epochs, seed, device, criterion)
    logits, labels = predict(cnn, test_loader)
    result = {"predictions": logits.argmax(1).tolist(), "labels": labels.tolist(), "train_counts": counts.tolist()}
    if method == "none":
        result["adjusted"] = adjusted_logits(logits, counts).argmax(1).tolist()
    return result


def class_metrics(labels, predictions):
    """Return accuracy, balanced accuracy, macro F1 and each class's recall, float64 (3 + 8,), NaN where undefined.

    Balanced accuracy is the mean recall, macro F1 the mean F1, over the classes with test images.
    """
    matrix = confusion_matrix(labels, predictions, labels=range(MAIN_CLASSES))
    tested, by_class = matrix.sum(1) > 0, metrics.per_class(matrix)
    means = np.trace(matrix) / matrix.sum(), by_class["recall"][tested].mean(), by_class["f1"][tested].mean()
    return np.array([*means, *by_class["recall"]])


def summarise(results, seeds):
    """Return each method's metrics and recalls, and their differences from those of `none`, with intervals.

    Differences are of the same seeds and images. Intervals of values end at 0 and 1.
    """
    samples = []
    for seed in seeds:
        none = results[f"seed-{seed}-none"]
        predictions = [results[f"seed-{seed}-{method}"]["predictions"] for method in TITLES if method != "adjusted"]
        samples.append(np.array([none["labels"], *predictions, none["adjusted"]]).T)

    def statistic(rows):
        values = np.array([class_metrics(rows[:, 0], column) for column in rows[:, 1:].T])
        return np.concatenate([values, values - values[0]]).ravel()

    bounds = [array.reshape(2, len(TITLES), -1) for array in bootstrap_interval(statistic, samples)]
    for array in bounds:
        array[0] = array[0].clip(0, 1)
    sides, summary = ("mean", "low", "high"), {}
    for place, method in enumerate(TITLES):
        summary[method] = {}
        for kind, name in enumerate(("value", "change")):
            intervals = [
                dict(zip(sides, map(float, each), strict=True))
                for each in zip(*(array[kind, place] for array in bounds), strict=True)
            ]
            summary[method][name] = dict(zip(METRICS, intervals, strict=False)) | {"recall": intervals[len(METRICS) :]}
    return summary


def describe(summary, class_names, train_counts, test_counts):
    """Return the answer in sentences; train_counts, test_counts: of each class."""
    none = summary["none"]["value"]
    sentences = ["The CNN as in Q3: " + ", ".join(f"{metric} {percent(none[metric])}" for metric in METRICS) + "."]
    for method, title in TITLES.items():
        if method != "none":
            change = summary[method]["change"]
            words = {1: "up", -1: "down", 0: "cannot be told"}
            changes = [f"{each} {points(change[each])} ({words[certain_sign(change[each])]})" for each in METRICS]
            sentences.append(f"{title[0].upper()}{title[1:]}: {', '.join(changes)}.")
    tested = [label for label, recall in enumerate(none["recall"]) if np.isfinite(recall["mean"])]
    for label in sorted(tested, key=lambda label: train_counts[label])[:2]:
        best = max(TITLES, key=lambda method: summary[method]["value"]["recall"][label]["mean"])
        before, after = (summary[method]["value"]["recall"][label] for method in ("none", best))
        change = summary[best]["change"]["recall"][label]
        images = f"{train_counts[label]:,} training and {test_counts[label]:,} test images"
        chosen = f", {points(change)}, not counting that the highest of five was chosen"
        sentences.append(
            f"{class_names[label]} ({images}): recall {percent(before)}; highest, {percent(after)}, {TITLES[best]}"
            f"{'' if best == 'none' else chosen}."
        )
    return sentences


def imbalance_figure(summary, class_names, train_counts, source):
    """Return a figure: the three metrics and each class's recall, by method."""
    none = summary["none"]["value"]
    order = np.argsort(train_counts)[::-1]
    classes = [label for label in order if np.isfinite(none["recall"][label]["mean"])]
    figure, axes = plt.subplots(1, 2, figsize=(15, 5.4), layout="constrained", width_ratios=(1, 2.3), sharey=True)
    for ax, names in zip(axes, (METRICS, classes), strict=True):
        for place, (method, found) in enumerate(summary.items()):
            value = found["value"]
            intervals = [value[name] if isinstance(name, str) else value["recall"][name] for name in names]
            mean, low, high = (100 * np.array([each[side] for each in intervals]) for side in ("mean", "low", "high"))
            x = np.arange(len(names)) + 0.15 * (place - 2)
            spread = np.nan_to_num([mean - low, high - mean])
            ax.errorbar(x, mean, spread, fmt="o", markersize=5, color=COLOURS[method], label=TITLES[method])
        ax.grid(alpha=0.25, axis="y")
    axes[0].set_xticks(range(len(METRICS)), [name.replace(" ", "\n") for name in METRICS])
    lines = [
        class_names[label].replace(", ", "\n").replace("-between ", "-between\n") + f"\n{train_counts[label]:,}"
        for label in classes
    ]
    axes[1].set_xticks(range(len(classes)), lines, fontsize=8.5)
    axes[0].set(ylabel="%", title="All classes", ylim=(-5, 105))
    axes[1].set(xlabel="class, and its training images", title="Recall by class")
    figure.legend(*axes[1].get_legend_handles_labels(), ncols=5, loc="outside lower center")
    figure.suptitle(plots.titled("Is it the imbalance? The CNN, trained against it", source))
    return figure


def main():
    args = get_args()
    data = load_data(args.out)
    methods = [method for method in TITLES if method != "adjusted"]
    keys = [f"seed-{seed}-{method}" for seed in args.seeds for method in methods]
    settings = {"epochs": args.epochs}
    compute = partial(measure, out=args.out, device=args.device, threads=torch.get_num_threads(), **settings)
    results = collect(args.out, "imbalance", keys, compute, settings, data["fingerprint"], args.device)
    summary = summarise(results, args.seeds)
    class_names = data["class_names"][:MAIN_CLASSES]
    train_counts = results[keys[0]]["train_counts"]
    test_counts = np.bincount(results[keys[0]]["labels"], minlength=MAIN_CLASSES).tolist()
    sentences = describe(summary, class_names, train_counts, test_counts)
    record = {"source": data["source"], "fingerprint": data["fingerprint"], "args": vars(args)}
    record |= {
        "class_names": class_names,
        "train_counts": train_counts,
        "test_counts": test_counts,
        "methods": summary,
        "answer": sentences,
    }
    figure = imbalance_figure(summary, class_names, train_counts, data["source"])
    save_study(args.out, "imbalance", figure, record)


if __name__ == "__main__":
    cli.run(main)
