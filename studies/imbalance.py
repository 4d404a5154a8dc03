"""Is it the imbalance? Four remedies, and their effect on the overall accuracy and on the rare classes.

none: Q3's CNN, unchanged. root and inverse: nn.CrossEntropyLoss with class weights 1/sqrt(n) and 1/n, where n is the
number of training images of the class. sampler: all classes are sampled equally often. adjusted: the logits of `none`
minus the logarithm of the class frequencies (Menon et al. 2021), without retraining. If rare classes were hard only
because they are rare, these methods would raise their recall to the level of the others.

Reads q1_data.pt under --out. Writes imbalance.json, imbalance.png and a file per run into {out}/studies.
"""

from common import cli, metrics, plots
from common.data import load_data
from common.galaxies.split import task_names
from common.train import predict
from studies.methods.runs import collect, resplit, save_study, select, study_parser
from studies.methods.statistics import in_percent, judged, mean_intervals, points, share_text, table_lines
from studies.methods.training import make_loader, seed_network, train_on_main

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from torch import nn

TITLES = {
    "none": "as in Q3",
    "root": "loss weights 1/√n",
    "inverse": "loss weights 1/n",
    "sampler": "balanced sampler",
    "adjusted": "logits adjusted",
}
METRICS = ("accuracy", "balanced accuracy", "macro F1")
# A colour per method (Okabe & Ito); Q3's has the CNN's.
COLOURS = dict(zip(TITLES, ("#D55E00", "#56B4E9", "#009E73", "#CC79A7", "#E69F00"), strict=True))


def class_weights(counts, power):
    """Return n^-power per class, float32 (k,), scaled to a mean of 1 over the training images; 0 for an empty class."""
    counts = counts.double()
    weights = torch.where(counts > 0, counts.clamp(min=1) ** -power, 0)
    return (weights * counts.sum() / (weights * counts).sum()).float()


def adjusted_logits(logits, counts):
    """Return logits minus the logarithm of the class frequencies; -inf for a class without training images.

    Menon et al. (2021), Long-tail learning via logit adjustment, eq. 9 with tau = 1.
    """
    return logits - torch.where(counts > 0, (counts / counts.sum()).log(), torch.inf)


def measure(out, device, seed, method, epochs):
    """Return the test predictions of the CNN trained by `method`; for none, also with adjusted logits."""
    data = resplit(load_data(out), seed)
    labels = data["main_train_labels"]
    counts = torch.bincount(labels, minlength=len(task_names(data)["main"]))
    if method == "none":
        cnn = seed_network("cnn", data, out, seed, epochs, device)
    elif method == "sampler":
        cnn = train_on_main("cnn", data, epochs, seed, device, weights=class_weights(counts, 1)[labels])
    else:
        criterion = nn.CrossEntropyLoss(class_weights(counts, {"root": 0.5, "inverse": 1}[method]))
        cnn = train_on_main("cnn", data, epochs, seed, device, criterion)
    logits, labels = predict(cnn, make_loader(data, "main_test", device))
    result = {"predictions": logits.argmax(1).tolist(), "labels": labels.tolist(), "train_counts": counts.tolist()}
    if method == "none":
        result["adjusted"] = adjusted_logits(logits, counts).argmax(1).tolist()
    return result


def class_metrics(labels, predictions, num_classes=8):
    """Return METRICS and the recall of each class, float64 (3 + num_classes,); NaN without test images.

    Balanced accuracy is the mean recall, macro F1 the mean F1, over the classes with test images.
    """
    matrix = confusion_matrix(labels, predictions, labels=range(num_classes))
    tested, by_class = matrix.sum(1) > 0, metrics.per_class(matrix)
    recall, f1 = np.array(by_class["recall"]), np.array(by_class["f1"])
    return np.array([np.trace(matrix) / matrix.sum(), recall[tested].mean(), f1[tested].mean(), *recall])


def summarise(rows):
    """Return each method's METRICS and recalls, and their differences from `none`, with intervals."""
    values, summary = {}, {}
    for method in TITLES:
        key, trained_as = ("adjusted", "none") if method == "adjusted" else ("predictions", method)
        mine = select(rows, method=trained_as)
        values[method] = np.array([class_metrics(row["labels"], row[key], len(row["train_counts"])) for row in mine])
        summary[method] = {}
        for name, seeds in (("value", values[method]), ("change", values[method] - values["none"])):
            intervals = mean_intervals(seeds)
            summary[method][name] = dict(zip(METRICS, intervals, strict=False)) | {"recall": intervals[len(METRICS) :]}
    return summary


def describe(record):
    """Return the answer, and sentences on the effect of adjusting the logits and on the largest loss of recall."""
    methods = record["methods"]
    sampler, change = (methods[method]["change"] for method in ("sampler", "adjusted"))
    sentences = [
        f"A balanced sampler changes the CNN's mean recall by {judged(sampler['balanced accuracy'])}, and its accuracy "
        f"by {judged(sampler['accuracy'])}.",
        f"Adjusting the logits changes the mean recall by {judged(change['balanced accuracy'])}, and the accuracy by "
        f"{judged(change['accuracy'])}.",
    ]
    worst = int(np.nanargmin([each["mean"] for each in change["recall"]]))
    if change["recall"][worst]["mean"] < 0:
        before, after = (share_text(methods[method]["value"]["recall"][worst], 0) for method in ("none", "adjusted"))
        name, count = record["class_names"][worst], record["train_counts"][worst]
        sentences.append(
            f"The recall falls most for {name} ({count:,} training images): from {before} to {after}, "
            f"{judged(change['recall'][worst])}."
        )
    return sentences


def tables(record):
    """Return the tables of docs/studies.md: metrics, and recall by class."""
    methods = record["methods"]
    rows, changes = [], []
    for method, each in methods.items():
        rows.append((TITLES[method], *(share_text(each["value"][name]) for name in METRICS)))
        minus = f"{TITLES[method]}, minus {TITLES['none']}"
        changes.append((minus, *(points(each["change"][name]) for name in METRICS)))
    recalls = []
    counts = zip(record["class_names"], record["train_counts"], record["test_counts"], strict=True)
    for label, (name, train, test) in enumerate(counts):
        if test:
            cells = (share_text(each["value"]["recall"][label], 0) for each in methods.values())
            recalls.append((name, train, test, *cells))
    by_class = table_lines(("recall", "train", "test", *TITLES.values()), recalls)
    return table_lines(("method", *METRICS), rows + changes[1:]) + by_class


def imbalance_figure(summary, class_names, train_counts):
    """Return a figure of the three metrics and the recall of each class, by method."""
    recalls = summary["none"]["value"]["recall"]
    classes = [label for label in np.argsort(train_counts)[::-1] if np.isfinite(recalls[label]["mean"])]
    figure, axes = plt.subplots(1, 2, figsize=(15, 5.4), layout="constrained", width_ratios=(1, 2.3), sharey=True)
    for ax, names in zip(axes, (METRICS, classes), strict=True):
        for place, (method, found) in enumerate(summary.items()):
            values = found["value"] if names is METRICS else found["value"]["recall"]
            mean, low, high = in_percent([values[name] for name in names])
            x, spread = np.arange(len(names)) + 0.15 * (place - 2), np.nan_to_num([mean - low, high - mean])
            ax.errorbar(x, mean, spread, fmt="o", markersize=5, color=COLOURS[method], label=TITLES[method])
        ax.grid(alpha=0.25, axis="y")
    axes[0].set_xticks(range(len(METRICS)), [name.replace(" ", "\n") for name in METRICS])
    lines = [f"{plots.wrap_name(class_names[label])}\n{train_counts[label]:,}" for label in classes]
    axes[1].set_xticks(range(len(classes)), lines, fontsize=8.5)
    axes[0].set(ylabel="%", title="All classes", ylim=(-5, 105))
    axes[1].set(xlabel="class, and its training images", title="Recall by class")
    figure.legend(*axes[1].get_legend_handles_labels(), ncols=5, loc="outside lower center")
    figure.suptitle("Is it the imbalance? The CNN trained in four ways against it")
    return figure


def main():
    args = get_args()
    data = load_data(args.out)
    runs = [{"seed": seed, "method": method} for seed in args.seeds for method in TITLES if method != "adjusted"]
    rows = collect(__file__, measure, runs, args, data, epochs=args.epochs)
    summary, names, train_counts = summarise(rows), task_names(data)["main"], rows[0]["train_counts"]
    test_counts = np.bincount(rows[0]["labels"], minlength=len(names)).tolist()
    record = {"class_names": names, "train_counts": train_counts, "test_counts": test_counts, "methods": summary}
    save_study(__file__, args, data, imbalance_figure(summary, names, train_counts), describe(record), **record)


def get_args(argv=None):
    return study_parser(__doc__, "python -m studies.imbalance --seeds 0-9").parse_args(argv)


if __name__ == "__main__":
    cli.run(main, resumes="")
