"""When a network says 80%, is it right 80% of the time? And does one number, the temperature, fix it?

Seed s has the split, initial weights and crops of `make all SEED=s`, but the FCN and the CNN are trained without some
of the training images, which are held out. The temperature is the T with the lowest cross entropy of logits / T on the
held-out images (Guo et al. 2017). With one crop per image, it changes the probabilities, not the predictions. The
expected calibration error is the mean gap between confidence and accuracy on the test images, in ten bins of equal
size. Everything is measured for one random crop per image, as in Q2 to Q4 (and in the figure), and, with a separate
temperature, for the mean over nine crops, as in predict.py.

Reads q1_data.pt under --out. Writes calibration.json, calibration.png and a file per run into {out}/studies.
"""

from common import cli
from common.data import load_data
from common.galaxies.split import stratified_split
from common.train import predict
from studies.methods.runs import collect, resplit, save_study, select, study_parser
from studies.methods.statistics import draw_band, judged, mean_interval, mean_intervals, points, share_text, table_lines
from studies.methods.training import COLOURS, NETWORKS, make_loader, train_on_main
from use.ensemble import CropEnsemble
from use.temperature import fit_temperature, negative_log_likelihood

import matplotlib.pyplot as plt
import numpy as np
import torch

WHEN = ("before", "after")  # dividing the logits by the temperature
CORRECT = {"before": "correct", "after": "correct_after"}  # these can differ for the mean over crops
NINE = "nine_crops_"  # prefix of the results for the mean over nine crops
BINS = 10


def measure(out, device, seed, network, epochs, held_out, crops):
    """Return the results of `fit_and_test` for one random crop and, with the prefix NINE, for a grid of `crops`.

    held_out: fraction of the training images to hold out and fit the temperature on.
    """
    data = resplit(load_data(out), seed)
    images, labels = data["main_train_images"], data["main_train_labels"]
    kept, held = stratified_split(labels.numpy(), len(labels) - max(1, round(held_out * len(labels))), seed)
    for subset, chosen in (("main_train", kept), ("held_out", held)):
        data |= {f"{subset}_images": images[chosen], f"{subset}_labels": labels[chosen]}
    model = train_on_main(network, data, epochs, seed, device)
    mean, std = data["mean"].tolist(), data["std"].tolist()
    ensemble = CropEnsemble(model, mean, std, images.shape[-1], crops, device=device)

    def one_crop(subset):
        return predict(model, make_loader(data, subset, device))[0]

    def grid(subset):
        views = [ensemble.views(batch)[1].cpu() for batch in data[f"{subset}_images"].split(64)]
        return torch.cat(views, dim=1)

    result = {}
    for prefix, logits_of in (("", one_crop), (NINE, grid)):
        pairs = [(logits_of(subset).numpy(), data[f"{subset}_labels"].numpy()) for subset in ("main_test", "held_out")]
        result |= {f"{prefix}{key}": value for key, value in fit_and_test(*pairs).items()}
    return result


def fit_and_test(test_pair, held_out_pair):
    """Return the temperature fitted on held-out images, and each test prediction's confidence and correctness.

    The pairs are logits, float (n, k), or (crops, n, k) to average the probabilities, and labels, int (n,).
    """
    logits, labels = test_pair
    result = {"temperature": fit_temperature(*held_out_pair)}
    for when, temperature in zip(WHEN, (1.0, result["temperature"]), strict=True):
        result[f"loss_{when}"] = negative_log_likelihood(logits, labels, temperature)
        views = torch.from_numpy(logits).double().div(temperature).softmax(-1)
        confidence, predicted = views.view(-1, *logits.shape[-2:]).mean(0).max(1)
        result[f"confidence_{when}"] = confidence.numpy().round(6).tolist()
        result[CORRECT[when]] = (predicted.numpy() == labels).tolist()
    return result


def equal_bins(confidence, correct):
    """Return mean confidence, accuracy and count, float64 (3, BINS), in bins with equally many predictions.

    confidence: float (n,), the probability of the predicted class; correct: bool (n,).
    Raises ValueError for fewer predictions than bins.
    """
    if len(confidence) < BINS:
        raise ValueError(f"{len(confidence)} predictions are too few for {BINS} reliability bins")
    confidence, correct = np.asarray(confidence), np.asarray(correct)
    groups = np.array_split(np.argsort(confidence, kind="stable"), BINS)
    return np.array([(confidence[group].mean(), correct[group].mean(), len(group)) for group in groups]).T


def calibration_error(confidence, correct):
    """Return the expected calibration error: |accuracy - confidence| by bin, averaged over the predictions.

    See Naeini et al. 2015 and Guo et al. 2017. With few images it is above 0 even for a calibrated network: with 500,
    by 4 to 5 points.
    """
    mean_confidence, accuracy, counts = equal_bins(confidence, correct)
    return float(np.average(np.abs(accuracy - mean_confidence), weights=counts))


def run_metrics(row, prefix):
    """Return the metrics of one run, floats, with the prefix in their names; prefix: "" for one crop, or NINE."""
    metrics = {"accuracy": np.mean(row[f"{prefix}correct"]), "temperature": row[f"{prefix}temperature"]}
    for when in WHEN:
        confidence, correct = np.array(row[f"{prefix}confidence_{when}"]), np.array(row[f"{prefix}{CORRECT[when]}"])
        metrics |= {
            f"loss_{when}": row[f"{prefix}loss_{when}"],
            f"overconfidence_{when}": confidence.mean() - correct.mean(),
            f"error_{when}": calibration_error(confidence, correct),
        }
    metrics["error_change"] = metrics["error_after"] - metrics["error_before"]
    return {f"{prefix}{name}": float(value) for name, value in metrics.items()}


def summarise(rows):
    """Return each network's metrics by seed, their means with intervals, and its bins."""
    networks = {}
    for name in NETWORKS:
        mine, bins = select(rows, network=name), {}
        seeds = [run_metrics(row, "") | run_metrics(row, NINE) for row in mine]
        metrics = {metric: [seed[metric] for seed in seeds] for metric in seeds[0]}
        for when in WHEN:  # (seeds, 2, BINS): confidence and accuracy
            bins[when] = [equal_bins(row[f"confidence_{when}"], row["correct"])[:2].tolist() for row in mine]
        means = {metric: mean_interval(values) for metric, values in metrics.items()}
        networks[name] = {"mean": means, "seeds": metrics, "bins": bins}
    return networks


def describe(record):
    """Return the answer."""
    networks = record["networks"]
    over = {name: judged(network["mean"]["overconfidence_before"]) for name, network in networks.items()}
    change = judged(networks["cnn"]["mean"]["error_change"])
    return [
        f"Confidence minus accuracy is {over['cnn']}, for the CNN and {over['fcn']}, for the FCN; a temperature "
        f"changes the CNN's calibration error by {change}."
    ]


def tables(record):
    """Return the table of docs/studies.md: one and nine crops, before and after dividing by the temperature."""
    rows = []
    for prefix, crops in (("", ""), (NINE, ", nine crops")):
        for name, network in record["networks"].items():
            mean = network["mean"]
            temperature = f", temperature {mean[f'{prefix}temperature']['mean']:.2f}"
            for when, title in zip(WHEN, ("", temperature), strict=True):
                over, error, loss = (mean[f"{prefix}{key}_{when}"] for key in ("overconfidence", "error", "loss"))
                rows.append((name.upper() + crops + title, points(over), share_text(error), f"{loss['mean']:.3f}"))
    return table_lines(("network", "confidence minus accuracy", "calibration error", "test loss"), rows)


def calibration_figure(networks):
    """Return a figure of the reliability before and after the temperature, and of each seed's calibration error."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained", width_ratios=(1, 1, 0.8))
    for ax, when, title in zip(axes, WHEN, ("As trained", "With temperature"), strict=False):
        ax.plot([0, 100], [0, 100], color="0.6", linestyle="--", label="calibrated")
        for name, network in networks.items():
            bins = np.array(network["bins"][when])  # (seeds, 2, bins)
            draw_band(ax, 100 * bins[:, 0].mean(0), mean_intervals(bins[:, 1]), COLOURS[name], name.upper())
        ax.set(xlabel="confidence (%)", ylabel="accuracy (%)", title=title, xlim=(20, 102), ylim=(0, 102))
        ax.legend(loc="lower right")
    for place, (name, network) in enumerate(networks.items()):
        ends = np.array([network["seeds"][f"error_{when}"] for when in WHEN]) * 100
        x = np.array([0, 1]) + 2.2 * place
        axes[2].plot(x, ends, color=COLOURS[name], marker="o", alpha=0.45)
        label = f"{name.upper()}, T = {network['mean']['temperature']['mean']:.2f}"
        axes[2].plot(x, ends.mean(1), color=COLOURS[name], linewidth=3, label=label)
    axes[2].set_xticks([0, 1, 2.2, 3.2], ["trained", "with T"] * 2)
    axes[2].set(ylabel="points", title="Calibration error", ylim=(0, None))
    axes[2].legend()
    axes[2].grid(alpha=0.25, axis="y")
    figure.suptitle("When it says 80%, is it right 80% of the time?")
    return figure


def main():
    args = get_args()
    data = load_data(args.out)
    runs = [{"seed": seed, "network": name} for seed in args.seeds for name in ("cnn", "fcn")]
    rows = collect(__file__, measure, runs, args, data, epochs=args.epochs, held_out=args.held_out, crops=9)
    record = {"networks": summarise(rows)}
    save_study(__file__, args, data, calibration_figure(record["networks"]), describe(record), **record)


def get_args(argv=None):
    parser = study_parser(__doc__, "python -m studies.calibration --seeds 0-9")
    help = "fraction of the training images to hold out and fit the temperature on"
    parser.add_argument("--held-out", type=cli.fraction, default=0.1, metavar="SHARE", help=help)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, resumes="")
