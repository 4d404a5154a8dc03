"""What the networks see: confident mistakes, filters, shifted crops, and the transfer's features in a plane.

Reads q1_data.pt, q2_fcn.pt, q3_cnn.pt and q5_transfer.pt under --out. Writes, in its folder studies/,
inside_mistakes.png, inside_filters.png, inside_shifts.png, inside_features.png and inside.json.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn
from torchvision import transforms

from common import cli, plots
from common.data import Normalize, RandomCrop, make_loaders
from common.storage import artifacts
from common.storage.checkpoint import load_trained
from common.train import predict
from q2_fcn import make_fcn
from q3_cnn import make_backbone, make_cnn
from studies.shifts import (
    compare_shifts,
    crop_at,
    describe_changes,
    possible_shifts,
    shifted_predictions,
    shifts_figure,
    under_shifts,
)

EXAMPLES = ("python -m studies.inside", "python -m studies.inside --out artifacts")
CPU = torch.device("cpu")


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    cli.add_out_and_seed(parser)
    cli.add_force(parser)
    return parser.parse_args(argv)


def mistakes_figure(confident, data):
    """Return a figure of each network's most confident mistakes; confident: (index, predicted, probability) by name."""
    columns = 6
    figure, grid = plt.subplots(len(confident), columns, figsize=(12, 6.4), layout="constrained", squeeze=False)
    for row, (name, mistakes) in zip(grid, confident.items(), strict=True):
        for ax, (index, predicted, probability) in zip(row, mistakes, strict=False):
            true = data["class_names"][int(data["main_test_labels"][index])]
            ax.imshow(data["main_test_images"][index].permute(1, 2, 0))
            text = f"{name.upper()}, {probability:.0%} sure of\n{lines(data['class_names'][predicted])}"
            ax.set_title(text, fontsize=9.5, color=plots.TEST_COLOUR)
            ax.set_xlabel(f"is {lines(true)}", fontsize=9.5)
            ax.set(xticks=[], yticks=[])
        for ax in row[len(mistakes) :]:
            ax.axis("off")
    figure.suptitle(plots.titled("The most confident mistakes", data["source"]))
    return figure


def lines(name):
    """Return a class name broken into two lines."""
    return "\n".join(name.rsplit(", ", 1))


def filters_figure(cnn, data):
    """Return a figure of the eight first-layer filters and what they answer to three test crops."""
    crops, labels = crop_at(data, "main", 0, 0), data["main_test_labels"]
    shown = [torch.nonzero(labels == label).flatten()[0].item() for label in labels.unique()[[0, -2, -1]]]
    with torch.no_grad():
        responses = cnn[0][:2](crops[shown])
    figure, grid = plt.subplots(len(shown) + 1, 9, figsize=(12, 5.8), layout="constrained")
    grid[0, 0].text(0.5, 0.5, "filters\n(5 x 5)", ha="center", va="center")
    weights = cnn[0][0].weight.detach()
    for ax, kernel in zip(grid[0, 1:], weights / weights.abs().max() / 2 + 0.5, strict=True):
        ax.imshow(kernel.permute(1, 2, 0))
    for row, index, maps in zip(grid[1:], shown, responses, strict=True):
        row[0].imshow(data["main_test_images"][index].permute(1, 2, 0))
        row[0].set_title(lines(data["class_names"][int(labels[index])]), fontsize=9.5)
        for ax, response in zip(row[1:], maps, strict=True):
            ax.imshow(response, cmap="magma", vmin=0, vmax=maps.max())
    for ax in grid.flat:
        ax.axis("off")
    figure.suptitle(plots.titled("First layer of the CNN: filters, and where they respond", data["source"]))
    return figure


def features_in_a_plane(features, head):
    """Project features, float32 (n, 64), onto the head's decision direction and the widest one across it: (n, 2).

    The first coordinate is the difference of the two logits, so that the decision line is at zero.
    """
    direction = head.weight[1] - head.weight[0]
    logit_difference = features @ direction + head.bias[1] - head.bias[0]
    unit = direction / direction.norm()
    across = features - features.mean(0)
    across = across - (across @ unit)[:, None] * unit
    _, _, principal = torch.linalg.svd(across, full_matrices=False)
    return torch.stack((logit_difference, across @ principal[0]), dim=1)


def features_figure(plane, labels, class_names, source):
    """Return a figure of test features, (n, 2), by class, with the decision line."""
    figure, ax = plt.subplots(figsize=(8, 5), layout="constrained")
    for label, (name, colour, marker) in enumerate(zip(class_names, plots.COLOURS, "os", strict=True)):
        points = plane[labels == label]
        ax.scatter(points[:, 0], points[:, 1], s=16, alpha=0.6, color=colour, marker=marker, label=name)
    ax.axvline(0, color="black", linestyle="--", label="decision line")
    ax.set(xlabel=f"logit of {class_names[1]} minus the other's", ylabel="widest direction across it")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)
    figure.suptitle(plots.titled("Test features of the frozen backbone", source))
    return figure


def main():
    args = get_args()
    out = Path(args.out)
    data = artifacts.load_data(out)
    networks = {"fcn": make_fcn(), "cnn": make_cnn()}
    for script, network in zip(("q2_fcn", "q3_cnn"), networks.values(), strict=True):
        load_trained(network, out / f"{script}.pt", data, f"{script}.py", args.force)
    transform = transforms.Compose([RandomCrop(48), Normalize(data["mean"], data["std"])])
    shifts = possible_shifts(data)
    confident, measured, shifted, answer = {}, {}, {}, []
    for name, network in networks.items():
        _, test_loader = make_loaders(data, "main", transform, 64, CPU)
        logits, labels = predict(network, test_loader)
        probability, predicted = logits.softmax(1).max(1)
        surest = torch.where(predicted == labels, -1, probability).argsort(descending=True)[:6].tolist()
        wrong = [index for index in surest if predicted[index] != labels[index]]
        confident[name] = [(index, predicted[index].item(), probability[index].item()) for index in wrong]
        shifted[name] = shifted_predictions(network, data, shifts)
        measured[name] = under_shifts(shifted[name], data["main_test_labels"])
        at_centre, furthest = (f"{measured[name]['accuracy'][place]:.1%}" for place in (0, -1))
        sentence = f"{name.upper()}: accuracy {at_centre} at the centre, {furthest} with a shift of {shifts[-1]} pixels"
        answer.append(f"{sentence}, the furthest in these images.")
    paired = compare_shifts(**shifted)
    answer.append(describe_changes(measured, paired, shifts[-1]))
    print(*answer, sep="\n")

    transfer = nn.Sequential(make_backbone(), nn.Linear(64, 2))
    load_trained(transfer, out / "q5_transfer.pt", data, "q5_transfer.py", args.force)
    _, test_loader = make_loaders(data, "transfer", transform, 64, CPU)
    features, labels = predict(transfer[0], test_loader)
    with torch.no_grad():
        plane = features_in_a_plane(features, transfer[1])
    figures = {
        "mistakes": mistakes_figure(confident, data),
        "filters": filters_figure(networks["cnn"], data),
        "shifts": shifts_figure(measured, shifts, data["source"]),
        "features": features_figure(plane, labels, data["class_names"][8:], data["source"]),
    }
    for name, figure in figures.items():
        artifacts.save_figure(figure, out / "studies" / f"inside_{name}.png")
    record = {
        "source": data["source"],
        "fingerprint": data["fingerprint"],
        "shifts": shifts,
        "under_shifts": measured,
        "paired": paired,
        "confident_mistakes": confident,
        "answer": answer,
    }
    artifacts.save_json(record, out / "studies" / "inside.json")


if __name__ == "__main__":
    cli.run(main)
