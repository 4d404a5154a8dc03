"""When a network says 80%, is it right 80% of the time? And does one number, the temperature, fix it?

For each seed: the split, initial weights and crops of `make all SEED=s`, but a part of the training images is kept out.
FCN and CNN are trained on the others. Then the temperature is fitted on the part kept out: the T with the lowest cross
entropy of logits / T (Guo et al. 2017). Of one crop it changes no prediction, only the probabilities. The expected
calibration error on the test images is the mean gap between confidence and accuracy in ten bins of equal number. All of
this once for one random crop per image, as in Q2 to Q4 and in the figure, and once for means over nine crops, as of
predict.py, with a temperature of their own.

Reads q1_data.pt under --out. Writes, in its folder studies/, calibration.json, calibration.png and a file per run.
"""

from common import cli, plots
from common.calibration import crop_logits, fit_temperature, hold_out, negative_log_likelihood
from common.data import load_data, make_loader
from common.train import predict
from studies.methods.page import table
from studies.methods.runs import add_study_options, collect, resplit, save_study, select
from studies.methods.statistics import judged, mean_interval, percent, points
from studies.methods.training import COLOURS, NETWORKS, crop_and_normalise, main_task, network_of, train_network

import matplotlib.pyplot as plt
import numpy as np
import torch

EXAMPLES = (
    "python -m studies.calibration",
    "python -m studies.calibration --seeds 0-9",
    "python -m studies.calibration --seeds 3  # one of them, as a job of its own",
)
WHEN = ("before", "after")  # dividing the logits by the temperature
CORRECT = {"before": "correct", "after": "correct_after"}  # of means over crops the prediction may change
NINE = "nine_crops_"
BINS = 10


def measure(out, device, seed, network, epochs, held_out, crops=9):
    """Return the temperature of a network and its test predictions: whether correct, and their confidence.

    Of one random crop, and of means over a grid of `crops`, with names that begin with NINE. held_out: share of the
    training images that the temperature is fitted on.
    """
    data, (images, labels) = hold_out(resplit(load_data(out), seed), held_out, seed)
    held_loader = make_loader(images, labels, crop_and_normalise(data))
    task = main_task(data, device)
    model = train_network(*network_of(network, data), task.train_loader, epochs, seed, device)
    test, test_labels = predict(model, task.test_loader)
    nine = [crop_logits(model, data["mean"].tolist(), data["std"].tolist(), each, crops)
            for each in (data["main_test_images"], images)]  # fmt: skip
    nine = fit_and_test(nine[0], test_labels.numpy(), nine[1], labels.numpy())
    held, labels = predict(model.cpu(), held_loader)
    one = fit_and_test(test.numpy(), test_labels.numpy(), held.numpy(), labels.numpy())
    return one | {f"{NINE}{key}": value for key, value in nine.items()}


def fit_and_test(logits, labels, held_logits, held_labels):
    """Return the temperature of the held-out logits, and of each test prediction whether it is correct, and confidence.

    logits: float (n, k), or (crops, n, k), of which the probabilities are averaged; labels: int (n,).
    """
    result = {"temperature": fit_temperature(held_logits, held_labels)}
    for when, temperature in zip(WHEN, (1.0, result["temperature"]), strict=True):
        result[f"loss_{when}"] = negative_log_likelihood(logits, labels, temperature)
        views = torch.from_numpy(logits).double().div(temperature).softmax(-1)
        confidence, predicted = views.view(-1, *logits.shape[-2:]).mean(0).max(1)
        result[f"confidence_{when}"] = confidence.numpy().round(6).tolist()
        result[CORRECT[when]] = (predicted.numpy() == labels).tolist()
    return result


def equal_bins(confidence, correct):
    """Return mean confidence, accuracy and number of predictions, float64 (BINS,) each, in bins of equal number.

    confidence: float (n,), the probability of the predicted class; correct: bool (n,).
    Raises ValueError for fewer predictions than bins.
    """
    if len(confidence) < BINS:
        raise ValueError(f"{len(confidence)} predictions are too few for {BINS} reliability bins")
    confidence, correct = np.asarray(confidence), np.asarray(correct)
    groups = np.array_split(np.argsort(confidence, kind="stable"), BINS)
    means = [(np.mean(confidence[group]), np.mean(correct[group]), len(group)) for group in groups]
    return tuple(np.array(column, dtype=float) for column in zip(*means, strict=True))


def calibration_error(confidence, correct):
    """Return the expected calibration error: the mean over predictions of |accuracy - confidence| by bin.

    (Naeini et al. 2015, Guo et al. 2017.) Above 0 at few images even for a calibrated network: 4 to 5 points with 500.
    """
    mean_confidence, accuracy, counts = equal_bins(confidence, correct)
    return float(np.average(np.abs(accuracy - mean_confidence), weights=counts))


def calibration(row, path=""):
    """Return the metrics of one run, float each; path: empty for one crop, or NINE."""
    metrics = {"accuracy": np.mean(row[f"{path}correct"]), "temperature": row[f"{path}temperature"]}
    for when in WHEN:
        confidence, correct = np.array(row[f"{path}confidence_{when}"]), np.array(row[f"{path}{CORRECT[when]}"])
        metrics |= {
            f"loss_{when}": row[f"{path}loss_{when}"],
            f"overconfidence_{when}": confidence.mean() - correct.mean(),
            f"error_{when}": calibration_error(confidence, correct),
        }
    metrics["error_change"] = metrics["error_after"] - metrics["error_before"]
    return {name: float(value) for name, value in metrics.items()}


def summarise(rows):
    """Return for each network its metrics, of each seed and their mean with interval, and its bins."""
    networks = {}
    for name in NETWORKS:
        mine = select(rows, network=name)
        seeds = [
            calibration(row) | {f"{NINE}{key}": value for key, value in calibration(row, NINE).items()} for row in mine
        ]
        metrics = {metric: [seed[metric] for seed in seeds] for metric in seeds[0]}
        bins = {
            when: [
                [column.tolist() for column in equal_bins(row[f"confidence_{when}"], row["correct"])[:2]]
                for row in mine
            ]
            for when in WHEN
        }  # (seeds, 2, bins): confidence and accuracy
        means = {metric: mean_interval(values) for metric, values in metrics.items()}
        networks[name] = {"mean": means, "seeds": metrics, "bins": bins}
    return networks


def describe(networks):
    """Return the answer in a sentence."""
    over = {name: judged(network["mean"]["overconfidence_before"]) for name, network in networks.items()}
    change = judged(networks["cnn"]["mean"]["error_change"])
    return (
        f"Confidence minus accuracy is {over['cnn']}, for the CNN and {over['fcn']}, for the FCN; a temperature "
        f"changes the CNN's calibration error by {change}."
    )


def tables(record):
    """Return the table of docs/studies.md: each network before and after dividing by its temperature, by both paths."""
    rows = []
    paths = [(name, path) for path in ("", NINE) for name in record["networks"]]
    for name, path in paths:
        means = record["networks"][name]["mean"].items()
        mean = {key.removeprefix(path): value for key, value in means if key.startswith(path)}
        for when, title in zip(WHEN, ("", f", temperature {mean['temperature']['mean']:.2f}"), strict=True):
            values = points(mean[f"overconfidence_{when}"]), percent(mean[f"error_{when}"])
            crops = ", nine crops" if path else ""
            rows.append((name.upper() + crops + title, *values, f"{mean[f'loss_{when}']['mean']:.3f}"))
    return table(("network", "confidence minus accuracy", "calibration error", "test loss"), rows)


def calibration_figure(networks, source):
    """Return a figure: reliability before and after the temperature, and each seed's calibration error."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained", width_ratios=(1, 1, 0.8))
    for ax, when, title in zip(axes, WHEN, ("As trained", "With temperature"), strict=False):
        ax.plot([0, 100], [0, 100], color="0.6", linestyle="--", label="calibrated")
        for name, network in networks.items():
            bins = 100 * np.array(network["bins"][when])  # (seeds, 2, bins)
            confidence, accuracy = bins.mean(0)
            intervals = [mean_interval(column) for column in bins[:, 1].T]
            spread = [[abs(each["mean"] - each[side]) for each in intervals] for side in ("low", "high")]
            spread = np.nan_to_num(spread)
            style = {"color": COLOURS[name], "marker": "o", "markersize": 5, "elinewidth": 1}
            ax.errorbar(confidence, accuracy, spread, label=name.upper(), **style)
        ax.set(xlabel="confidence (%)", ylabel="accuracy (%)", title=title, xlim=(20, 102), ylim=(0, 102))
        ax.grid(alpha=0.25)
        ax.legend(loc="lower right")
    for place, (name, network) in enumerate(networks.items()):
        ends = np.array([network["seeds"][f"error_{when}"] for when in WHEN]) * 100
        x = np.array([0, 1]) + 2.2 * place
        axes[2].plot(x, ends, color=COLOURS[name], marker="o", alpha=0.45)
        axes[2].plot(x, ends.mean(1), color=COLOURS[name], linewidth=3)
        temperature = network["mean"]["temperature"]["mean"]
        axes[2].text(
            x.mean(), -0.12, f"{name.upper()}\nT = {temperature:.2f}", color=COLOURS[name], ha="center", va="top",
            fontweight="bold", transform=axes[2].get_xaxis_transform(),
        )  # fmt: skip
    axes[2].set_xticks([0, 1, 2.2, 3.2], ["trained", "with T"] * 2)
    axes[2].set(ylabel="points", title="Calibration error", ylim=(0, None))
    axes[2].grid(alpha=0.25, axis="y")
    figure.suptitle(plots.titled("When it says 80%, is it right 80% of the time?", source))
    return figure


def main():
    args = get_args()
    data = load_data(args.out)
    runs = [{"seed": seed, "network": name} for seed in args.seeds for name in ("cnn", "fcn")]
    rows = collect("calibration", measure, runs, args, data, epochs=args.epochs, held_out=args.held_out, crops=9)
    networks = summarise(rows)
    figure = calibration_figure(networks, data["source"])
    save_study("calibration", args, data, figure, describe(networks), networks=networks)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add_study_options(parser)
    help = "share of the training images to fit T on"
    parser.add_argument("--held-out", type=cli.fraction, default=0.1, metavar="SHARE", help=help)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, resumes="")
