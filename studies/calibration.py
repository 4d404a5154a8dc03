"""When a network says 80 %, is it right in 80 %? And does one number, the temperature, put that right?

For each seed: the split, initial weights and crops of `make all SEED=s`, but a part of the training images is kept out.
FCN and CNN are trained on the others. Then the temperature is fitted on the part kept out: the T with the lowest cross
entropy of logits / T (Guo et al. 2017). It changes no prediction, only the stated probabilities. The expected
calibration error on the test images is the mean gap between stated probability and share correct in ten bins of
equal number. As it is above 0 for any network at few images, an estimate with less of this bias
(Kumar et al. 2019) and what a calibrated network would get are given too.

Reads q1_data.pt under --out. Writes, in its folder studies/, calibration.json, calibration.png and a file per seed.
"""

from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from common import cli, plots
from common.data import make_loader, make_loaders
from common.galaxies.split import stratified_split
from common.hardware.device import choose_device
from common.storage.artifacts import load_data
from common.train import predict
from studies import reliability
from studies.runs import collect, draw_split, number_list, save_study
from studies.statistics import certain_sign, mean_interval, percent, points
from studies.training import COLOURS, NETWORKS, crop_and_normalise, train_network

EXAMPLES = (
    "python -m studies.calibration",
    "python -m studies.calibration --seeds 0-9",
    "python -m studies.calibration --seeds 3  # one of them, as a job of its own",
)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--out", default="artifacts", metavar="DIR", help="folder of all artifacts, read and written")
    add("--seeds", type=number_list, default="0-4", metavar="LIST", help="random seeds, such as 0-4 or 0,3")
    add("--epochs", type=cli.positive_int, default=50, metavar="N", help="passes over the training set")
    add("--held-out", type=cli.positive_float, default=0.1, metavar="SHARE", help="training images to fit T on")
    cli.add_device(parser)
    args = parser.parse_args(argv)
    if args.held_out >= 1:
        parser.error(f"--held-out {args.held_out}: must be below 1")
    return args


def measure(key, out, epochs, held_out, device):
    """Return the result of one seed, key seed-N: for each network its temperature and its test predictions.

    out: folder of q1_data.pt; held_out: share of the training images that the temperature is fitted on.
    """
    seed, device = int(key.removeprefix("seed-")), choose_device(device)
    data = draw_split(load_data(out), seed)
    images, labels = data["main_train_images"], data["main_train_labels"]
    train_size = len(labels) - max(1, round(held_out * len(labels)))
    kept, out_of_training = stratified_split(labels.numpy(), train_size, seed)
    data |= {"main_train_images": images[kept], "main_train_labels": labels[kept]}
    transform = crop_and_normalise(data)
    held_loader = make_loader(images[out_of_training], labels[out_of_training], transform)
    results = {"train_count": len(kept), "held_out_count": len(out_of_training)}
    for name, (make_network, lr) in NETWORKS.items():
        train_loader, test_loader = make_loaders(data, "main", transform, 64, device)
        network = train_network(make_network, lr, train_loader, epochs, seed, device)
        results[name] = test_result(predict(network.cpu(), held_loader), predict(network.to(device), test_loader))
    return results


def test_result(held_out, test):
    """Return the temperature of the held-out logits, and the test predictions with and without it.

    held_out, test: logits, float32 (n, k), and labels, int64 (n,), each.
    """
    temperature = reliability.fit_temperature(*(tensor.numpy() for tensor in held_out))
    logits, labels = (tensor.numpy().astype(np.float64 if i == 0 else int) for i, tensor in enumerate(test))
    result = {"temperature": temperature, "correct": (logits.argmax(1) == labels).tolist()}
    for when, scale in (("before", 1.0), ("after", temperature)):
        result[f"loss_{when}"] = reliability.negative_log_likelihood(logits, labels, scale)
        confidence = torch.from_numpy(logits / scale).softmax(1).amax(1)
        result[f"confidence_{when}"] = confidence.numpy().round(6).tolist()
    return result


def calibration(result):
    """Return the metrics of one network and seed, float each, from its `test_result`."""
    correct = np.array(result["correct"])
    metrics = {"accuracy": correct.mean(), "temperature": result["temperature"]}
    for when in ("before", "after"):
        confidence = np.array(result[f"confidence_{when}"])
        metrics |= {
            f"loss_{when}": result[f"loss_{when}"],
            f"overconfidence_{when}": confidence.mean() - correct.mean(),
            f"error_{when}": reliability.calibration_error(confidence, correct),
            f"debiased_error_{when}": reliability.debiased_calibration_error(confidence, correct),
            f"error_if_calibrated_{when}": reliability.error_if_calibrated(confidence)[0],
        }
    for metric in ("loss", "debiased_error"):
        metrics[f"{metric}_change"] = metrics[f"{metric}_after"] - metrics[f"{metric}_before"]
    return {name: float(value) for name, value in metrics.items()}


def summarise(results):
    """Return for each network its metrics, one list entry per seed and their mean with interval, and its bins."""
    networks = {}
    for name in NETWORKS:
        seeds = [calibration(result[name]) for result in results.values()]
        metrics = {metric: [seed[metric] for seed in seeds] for metric in seeds[0]}
        bins = {
            when: np.array(
                [
                    reliability.equal_bins(result[name][f"confidence_{when}"], result[name]["correct"])
                    for result in results.values()
                ]
            )[:, :2].tolist()  # (seeds, 2, bins): stated and correct
            for when in ("before", "after")
        }
        means = {metric: mean_interval(values) for metric, values in metrics.items()}
        networks[name] = {"mean": means, "seeds": metrics, "bins": bins}
    return networks


def describe(networks, count):
    """Return the answer in sentences; count: test images per seed."""
    sentences = []
    for name, network in networks.items():
        mean, name = network["mean"], name.upper()
        over = mean["overconfidence_before"]
        verdict = "whether it claims too much or too little cannot be told"
        if certain_sign(over):
            verdict = f"it claims too {'much' if over['mean'] > 0 else 'little'}"
        sentences.append(
            f"{name}: stated probability minus share correct is {points(over)} on average: {verdict}. "
            f"Expected calibration error, debiased: {percent(mean['debiased_error_before'])}; a calibrated network "
            f"would show {100 * mean['error_if_calibrated_before']['mean']:.1f} points without the debiasing, at "
            f"{count:,} images, and this one shows {100 * mean['error_before']['mean']:.1f}."
        )
        change, loss = mean["debiased_error_change"], mean["loss_change"]
        effect = "changes the error by an amount whose sign cannot be told"
        if certain_sign(change):
            effect = f"{'lowers' if change['mean'] < 0 else 'raises'} the error"
        sentences.append(
            f"{name}: the temperature, {number(mean['temperature'])}, {effect}: by {points(change)}, "
            f"to {percent(mean['debiased_error_after'])}. The test loss changes by {number(loss)} nats."
        )
    return sentences


def number(interval):
    """Return a mean and its interval, such as 1.52 [1.40, 1.64]; a single seed has no interval."""
    low, high = interval["low"], interval["high"]
    return f"{interval['mean']:.2f}" + (f" [{low:.2f}, {high:.2f}]" if np.isfinite(low) else " (one seed, no interval)")


def calibration_figure(networks, source):
    """Return a figure: reliability before and after the temperature, and each seed's calibration error."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained", width_ratios=(1, 1, 0.8))
    for ax, when, title in zip(axes, ("before", "after"), ("As trained", "With temperature"), strict=False):
        ax.plot([0, 100], [0, 100], color="0.6", linestyle="--")
        ax.text(21.5, 14, "calibrated", color="0.45")
        for place, (name, network) in enumerate(networks.items()):
            bins = 100 * np.array(network["bins"][when])  # (seeds, 2, bins)
            stated, correct = bins.mean(0)
            intervals = [mean_interval(column) for column in bins[:, 1].T]
            spread = [[abs(each["mean"] - each[side]) for each in intervals] for side in ("low", "high")]
            spread = np.nan_to_num(spread)
            ax.errorbar(stated, correct, spread, color=COLOURS[name], marker="o", markersize=5, elinewidth=1)
            ax.annotate(
                name.upper(), (0.97, 0.16 - 0.08 * place), xycoords="axes fraction", ha="right", color=COLOURS[name],
                fontweight="bold",
            )  # fmt: skip
        ax.set(xlabel="it says (%)", ylabel="it is right (%)", title=title, xlim=(20, 102), ylim=(0, 102))
        ax.grid(alpha=0.25)
    for place, (name, network) in enumerate(networks.items()):
        ends = np.array([network["seeds"][f"debiased_error_{when}"] for when in ("before", "after")]) * 100
        x = np.array([0, 1]) + 2.2 * place
        axes[2].plot(x, ends, color=COLOURS[name], marker="o", alpha=0.45)
        axes[2].plot(x, ends.mean(1), color=COLOURS[name], linewidth=3)
        temperature = network["mean"]["temperature"]["mean"]
        axes[2].text(
            x.mean(), -0.12, f"{name.upper()}\nT = {temperature:.2f}", color=COLOURS[name], ha="center", va="top",
            fontweight="bold", transform=axes[2].get_xaxis_transform(),
        )  # fmt: skip
    axes[2].axhline(0, color="0.6", linestyle="--")
    axes[2].set_xticks([0, 1, 2.2, 3.2], ["trained", "with T"] * 2)
    axes[2].set(ylabel="points", title="Calibration error, debiased")
    axes[2].grid(alpha=0.25, axis="y")
    figure.suptitle(plots.titled("When it says 80 %, is it right in 80 %?", source))
    return figure


def main():
    args = get_args()
    out = Path(args.out)
    data = load_data(out)
    settings = {"epochs": args.epochs, "held_out": args.held_out}
    keys = [f"seed-{seed}" for seed in args.seeds]
    compute = partial(measure, out=out, device=args.device, **settings)
    results = collect(out, "calibration", keys, compute, settings, data["fingerprint"], args.device)
    networks = summarise(results)
    test_count = len(data["main_test_labels"])
    answer = describe(networks, test_count)
    record = {
        "source": data["source"],
        "fingerprint": data["fingerprint"],
        "args": vars(args),
        "test_count": test_count,
        "held_out_count": results[keys[0]]["held_out_count"],
        "answer": answer,
        "networks": networks,
    }
    save_study(out, "calibration", calibration_figure(networks, data["source"]), record)


if __name__ == "__main__":
    cli.run(main)
