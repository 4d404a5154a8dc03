"""Is it the imbalance? The CNN trained against it in four ways, for overall accuracy and for the rare classes.

none: Q3's CNN as it is. root and inverse: nn.CrossEntropyLoss with class weights 1/sqrt(n) and 1/n, n the training
images of the class. sampler: images sampled so that all classes are equally frequent. adjusted: the logits of `none`
minus the logarithm of the class frequencies (Menon et al. 2021), without training again. If the rare classes were
hard only for being rare, these would bring their recall to that of the others.

Reads q1_data.pt under --out. Writes, in its folder studies/, imbalance.json, imbalance.png and a file per run.
"""

from common import cli, metrics, plots
from common.data import load_data
from common.galaxies.split import task_names
from common.train import predict
from studies.methods.page import table
from studies.methods.runs import add_study_options, collect, resplit, save_study, select
from studies.methods.statistics import judged, mean_interval, percent, points
from studies.methods.training import main_task, network_of, seed_network, train_network

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from torch import nn

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


def measure(out, device, seed, method, epochs):
    """Return the test predictions of the CNN trained in one way, and for none also those of the adjusted logits."""
    data = resplit(load_data(out), seed)
    labels = data["main_train_labels"]
    counts = torch.bincount(labels, minlength=len(task_names(data)["main"]))
    task = main_task(data, device, weights=class_weights(counts, 1)[labels] if method == "sampler" else None)
    if method == "none":
        cnn = seed_network("cnn", data, out, seed, epochs, device)
    else:
        power = {"root": 0.5, "inverse": 1}.get(method, 0)
        criterion = nn.CrossEntropyLoss(class_weights(counts, power)).to(device) if power else None
        cnn = train_network(*network_of("cnn", data), task.train_loader, epochs, seed, device, criterion)
    logits, labels = predict(cnn, task.test_loader)
    result = {"predictions": logits.argmax(1).tolist(), "labels": labels.tolist(), "train_counts": counts.tolist()}
    if method == "none":
        result["adjusted"] = adjusted_logits(logits, counts).argmax(1).tolist()
    return result


def class_metrics(labels, predictions, num_classes=8):
    """Return METRICS and each class's recall, float64 (3 + num_classes,), NaN where undefined.

    Balanced accuracy is the mean recall, macro F1 the mean F1, over the classes with test images.
    """
    matrix = confusion_matrix(labels, predictions, labels=range(num_classes))
    tested, by_class = matrix.sum(1) > 0, metrics.per_class(matrix)
    recall, f1 = np.array(by_class["recall"]), np.array(by_class["f1"])
    return np.array([np.trace(matrix) / matrix.sum(), recall[tested].mean(), f1[tested].mean(), *recall])


def summarise(rows):
    """Return each method's METRICS and recalls, and their differences from those of `none`, with intervals."""
    none = select(rows, method="none")

    def metrics_of(rows, key):
        return np.array([class_metrics(row["labels"], row[key], len(row["train_counts"])) for row in rows])

    values = {method: metrics_of(select(rows, method=method), "predictions") for method in list(TITLES)[:-1]}
    values["adjusted"] = metrics_of(none, "adjusted")
    summary = {}
    for method, seeds in values.items():
        intervals = {
            "value": [mean_interval(column) for column in seeds.T],
            "change": [mean_interval(column) for column in (seeds - values["none"]).T],
        }
        summary[method] = {
            name: dict(zip(METRICS, each, strict=False)) | {"recall": each[len(METRICS) :]}
            for name, each in intervals.items()
        }
    return summary


def describe(summary):
    """Return the answer in a sentence."""
    change = summary["sampler"]["change"]
    return (
        f"A balanced sampler changes the CNN's mean recall by {judged(change['balanced accuracy'])}, and its accuracy "
        f"by {judged(change['accuracy'])}."
    )


def describe_adjustment(summary, class_names, train_counts):
    """Return sentences on what adjusting the logits changes, and which class it costs most."""
    change = summary["adjusted"]["change"]
    sentences = [
        f"Adjusting the logits changes the mean recall by {judged(change['balanced accuracy'])}, and the accuracy by "
        f"{judged(change['accuracy'])}."
    ]
    worst = min(
        (label for label, each in enumerate(change["recall"]) if np.isfinite(each["mean"])),
        key=lambda label: change["recall"][label]["mean"],
    )
    if change["recall"][worst]["mean"] < 0:
        recall = (percent(summary[method]["value"]["recall"][worst], 0) for method in ("none", "adjusted"))
        sentences.append(
            f"The recall falls most for {class_names[worst]} ({train_counts[worst]:,} training images): from "
            f"{' to '.join(recall)}, {judged(change['recall'][worst])}."
        )
    return sentences


def tables(record):
    """Return the tables of docs/studies.md: the metrics, and the recalls by class."""
    methods = record["methods"]
    rows = [(TITLES[method], *(percent(each["value"][name]) for name in METRICS)) for method, each in methods.items()]
    rows += [
        (f"{TITLES[method]}, minus {TITLES['none']}", *(points(each["change"][name]) for name in METRICS))
        for method, each in methods.items()
        if method != "none"
    ]
    recalls = [
        (name, train, test, *(percent(each["value"]["recall"][label], 0) for each in methods.values()))
        for label, (name, train, test) in enumerate(
            zip(record["class_names"], record["train_counts"], record["test_counts"], strict=True)
        )
        if test
    ]
    return table(("method", *METRICS), rows) + table(("recall", "train", "test", *TITLES.values()), recalls)


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
            spread = np.nan_to_num([mean - low.clip(0, 100), high.clip(0, 100) - mean])
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
    runs = [{"seed": seed, "method": method} for seed in args.seeds for method in TITLES if method != "adjusted"]
    rows = collect("imbalance", measure, runs, args, data, epochs=args.epochs)
    summary = summarise(rows)
    class_names, train_counts = task_names(data)["main"], rows[0]["train_counts"]
    test_counts = np.bincount(rows[0]["labels"], minlength=len(class_names)).tolist()
    figure = imbalance_figure(summary, class_names, train_counts, data["source"])
    counts = {"class_names": class_names, "train_counts": train_counts, "test_counts": test_counts}
    notes = describe_adjustment(summary, class_names, train_counts)
    save_study("imbalance", args, data, figure, describe(summary), notes, **counts, methods=summary)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add_study_options(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, resumes="")
