"""What studies.transfer found: its table, the answer in sentences, and the picture."""

import matplotlib.pyplot as plt
import numpy as np

from common import plots
from studies.statistics import bounds, certain_sign, mean_interval, percent

LABELS = {
    "frozen": "trained backbone, frozen",
    "tuned": "trained backbone, all fine-tuned",
    "scratch": "from scratch",
    "random": "random backbone, frozen",
    "encoder": "encoder, frozen",
}
# The CNN's own colour for Q5's network, as in studies.seeds; the others are of Okabe & Ito too.
COLOURS = {
    "frozen": plots.TEST_COLOUR,
    "tuned": "#CC79A7",
    "scratch": "#009E73",
    "random": "#777777",
    "encoder": "#000000",
}
PAIRS = (("frozen", "random"), ("frozen", "scratch"), ("tuned", "scratch"), ("tuned", "frozen"))


def summarise(results, encoded, sizes, test_count):
    """Return the means with intervals over samples: accuracies, paired differences and the comparison of heads.

    results: the dicts of studies.transfer's `measure` by key; encoded: those of `measure_encoder`, or None.
    """
    results = list(results.values())
    accuracy = {name: np.array([result["accuracy"][name] for result in results]) for name in results[0]["accuracy"]}
    record = {"sizes": sizes, "samples": len(results), "test_count": test_count}
    record["majority"] = float(np.mean([result["majority"] for result in results]))
    if encoded:
        by_method = {name: np.array([each[name] for each in encoded.values()]) for name in ("encoder", "trained")}
        record["logistic_regression_on_trained"] = by_size(by_method["trained"])
        record["encoder_difference"] = by_size(by_method["encoder"] - by_method["trained"])
        accuracy["encoder"] = by_method["encoder"]
    record["accuracy"] = {name: by_size(values) for name, values in accuracy.items()}
    record["differences"] = {
        f"{first} - {second}": by_size(accuracy[first] - accuracy[second]) for first, second in PAIRS
    }
    record["head"] = {name: head_means(results, name) for name in ("trained", "random")}
    return record


def head_means(results, name):
    """Return how Adam's heads on a backbone, trained or random, compare with the optimum, over samples that have one.

    Keys: separable_samples, the number of those that have none, and if there are others the means with intervals.
    """
    compared = [result["head"][name] for result in results if name in result["head"]]
    means = {"separable_samples": len(results) - len(compared)}
    if not compared:
        return means
    gaps = {
        f"{subset}_loss_gap": [head[f"{subset}_loss"][0] - head[f"{subset}_loss"][1] for head in compared]
        for subset in ("train", "test")
    }
    values = gaps | {key: [head[key] for head in compared] for key in ("agreement", "angle", "correlation")}
    optimum = [result["optimum_accuracy"][name] for result in results if name in result["head"]]
    return means | {key: mean_interval(each) for key, each in (values | {"optimum_accuracy": optimum}).items()}


def by_size(values):
    """Return the mean with its interval of each column of values, float (samples, sizes)."""
    return [mean_interval(column) for column in values.T]


def describe(record):
    """Return the answer in sentences, each of them computed from the record of `summarise`."""
    sizes, test_count = record["sizes"], record["test_count"]
    sentences = [
        f"Means over {record['samples']} samples with 95 % t-intervals; {test_count:,} test images each. "
        f"The majority class alone: {record['majority']:.1%}."
    ]
    for pair, differences in record["differences"].items():
        first, second = (LABELS[name] for name in pair.split(" - "))
        sentences.append(f"{first.capitalize()} against {second}: {verdicts(differences, sizes)}.")
    for name, head in record["head"].items():
        if head["separable_samples"]:
            sentences.append(
                f"In {head['separable_samples']} samples a plane separates the classes of the {name} backbone's "
                "training features, so that logistic regression has no finite optimum to compare with."
            )
        if "angle" in head:
            gap = head["test_loss_gap"]["mean"]
            sentences.append(
                f"Adam's head on all galaxies, {name} backbone: its training loss is "
                f"{head['train_loss_gap']['mean']:.4f} nats above that of the exact optimum of logistic regression, "
                f"its test loss {abs(gap):.4f} {'above' if gap > 0 else 'below'}; they agree on "
                f"{head['agreement']['mean']:.1%} of the test images. The decision directions are "
                f"{head['angle']['mean']:.0f} degrees apart, the logit differences correlate with "
                f"{head['correlation']['mean']:.3f}. The optimum's test accuracy: {percent(head['optimum_accuracy'])}."
            )
    if record.get("encoder"):
        sentences.append(
            f"{record['encoder']['encoder']}, frozen, at {record['encoder']['input_size'][1]} pixels, against the "
            f"trained backbone with the same logistic regression: {verdicts(record['encoder_difference'], sizes)}; "
            f"its accuracy with all: {percent(record['accuracy']['encoder'][-1])}."
        )
    return sentences


def verdicts(differences, sizes):
    """Return in words where a difference of accuracies, an interval by size, is clear of 0."""
    parts = []
    for sign, words in ((1, "ahead with"), (-1, "behind with"), (0, "cannot be told with")):
        chosen = [
            f"{size} ({100 * each['mean']:+.1f}{bounds(each, 1)})"
            for size, each in zip(sizes, differences, strict=True)
            if certain_sign(each) == sign
        ]
        if chosen:
            parts.append(f"{words} {', '.join(chosen)}")
    return "; ".join(parts) + " points"


def transfer_figure(record):
    """Return a figure of accuracy against the number of labelled galaxies, with 95 % bands over samples."""
    figure, ax = plt.subplots(figsize=(9.5, 5.2), layout="constrained")
    sizes, ends = record["sizes"], {}
    for name, intervals in record["accuracy"].items():
        mean, low, high = (100 * np.array([each[key] for each in intervals]) for key in ("mean", "low", "high"))
        ax.fill_between(sizes, low, high, color=COLOURS[name], alpha=0.15, linewidth=0)
        ax.plot(sizes, mean, color=COLOURS[name], marker="o")
        ends[name] = mean[-1]
    ax.axhline(100 * record["majority"], color="0.6", linestyle="--")
    ends["majority"] = 100 * record["majority"]
    texts = LABELS | {"majority": "majority class"}
    if record.get("encoder"):
        texts["encoder"] = f"{record['encoder']['encoder'].rpartition(':')[2].rpartition('/')[2]}, frozen"
    ax.set_xscale("log")
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.minorticks_off()
    heights = apart(ends, (ax.get_ylim()[1] - ax.get_ylim()[0]) / 20)
    for name, height in heights.items():
        ax.annotate(
            texts[name], (sizes[-1], ends[name]), (sizes[-1] * 1.2, height), va="center", annotation_clip=False,
            color=COLOURS.get(name, "0.45"),
            arrowprops={"arrowstyle": "-", "color": "0.7", "relpos": (0, 0.5), "shrinkA": 0},
        )  # fmt: skip
    ax.set(xlabel="labelled galaxies of the two new classes", ylabel="test accuracy (%)")
    ax.grid(alpha=0.25)
    figure.suptitle(plots.titled("What is the pretrained backbone worth?", record["source"]))
    return figure


def apart(heights, least):
    """Return heights by name, in order from the lowest, moved up so that neighbours are at least `least` apart."""
    moved, last = {}, -np.inf
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        moved[name] = last = max(height, last + least)
    return moved
