"""What do the networks see? Shifted crops, over seeds; confident mistakes, filters and features of one run.

The networks of `OMP_NUM_THREADS=1 make all SEED=s` predict the test images of seed s, with all crops shifted from the
centre by the same number of pixels, in each of four directions.

Reads q1_data.pt, q2_fcn.pt, q3_cnn.pt and q5_transfer.pt under --out. Writes inside.json, inside.png (the shifts),
inside_mistakes.png, inside_filters.png, inside_features.png and a file per run into {out}/studies.
"""

from pathlib import Path

from common import cli, plots
from common.data import load_data
from common.galaxies.split import task_names
from common.storage.checkpoint import load_trained
from common.train import predict
from q3_cnn import make_backbone
from studies.methods.runs import collect, resplit, save_study, select, study_parser
from studies.methods.statistics import draw_band, judged, mean_interval, mean_intervals, share_text, table_lines
from studies.methods.training import COLOURS, NETWORKS, make_loader, seed_network

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

SHIFTS = (0, 1, 2, 3, 4, 6, 8, 10)  # pixels from the centre; 10 is the most that images of 69 pixels allow
BARE = {"xticks": [], "yticks": [], "frame_on": False}  # axes of pictures


def crop_at(data, right, down):
    """Return the main test images, normalised float32, cropped `right` and `down` pixels off the centre."""
    images = data["main_test_images"]
    top, left = ((side - 48) // 2 for side in images.shape[2:])
    crops = images[:, :, top + down :, left + right :][:, :, :48, :48].float()
    return (crops - data["mean"][:, None, None]) / data["std"][:, None, None]


def measure(out, device, seed, network, epochs):
    """Return a network's accuracy and share of changed predictions per shift, means over images and directions."""
    data = resplit(load_data(out), seed)
    model = seed_network(network, data, out, seed, epochs, device).cpu()
    labels, predictions = data["main_test_labels"], []
    for shift in SHIFTS:
        ways = [(shift, 0), (-shift, 0), (0, shift), (0, -shift)]
        with torch.no_grad():
            predictions.append(torch.stack([model(crop_at(data, *way)).argmax(1) for way in ways]))
    predictions = torch.stack(predictions)  # (shifts, 4, n)
    return {
        "accuracy": (predictions == labels).double().mean((1, 2)).tolist(),
        "changed": (predictions != predictions[0, 0]).double().mean((1, 2)).tolist(),
    }


def summarise(rows):
    """Return accuracy and changed predictions by network and shift, and FCN minus CNN at the last, with intervals."""
    networks, furthest = {}, {}
    for name in NETWORKS:
        values = {key: np.array([row[key] for row in select(rows, network=name)]) for key in ("accuracy", "changed")}
        networks[name] = {key: mean_intervals(each) for key, each in values.items()}
        furthest[name] = values["changed"][:, -1]
    return {"networks": networks, "fcn_minus_cnn": mean_interval(np.subtract(furthest["fcn"], furthest["cnn"]))}


def describe(record):
    """Return the answer."""
    changed = {name: share_text(each["changed"][-1]) for name, each in record["networks"].items()}
    return [
        f"Shifting all test crops by {SHIFTS[-1]} pixels changes {changed['fcn']} of the FCN's predictions and "
        f"{changed['cnn']} of the CNN's: a difference of {judged(record['fcn_minus_cnn'])}."
    ]


def tables(record):
    """Return the table of docs/studies.md: both networks by the shift of the test crops."""
    columns = [each[key] for each in record["networks"].values() for key in ("accuracy", "changed")]
    rows = [(shift, *map(share_text, each)) for shift, *each in zip(record["shifts"], *columns, strict=True)]
    titles = [f"{name.upper()}, {what}" for name in record["networks"] for what in ("accuracy", "changed")]
    return table_lines(("shift (pixels)", *titles), rows)


def shifts_figure(networks):
    """Return a figure of both networks by shift; networks: from `summarise`."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for ax, key, title in zip(axes, ("accuracy", "changed"), ("Accuracy", "Predictions that change"), strict=True):
        for (name, each), marker in zip(networks.items(), "os", strict=True):
            draw_band(ax, SHIFTS, each[key], COLOURS[name], name.upper(), marker=marker)
        ax.set(xlabel="shift of all test crops off the centre (pixels)", ylabel="%", title=title)
        ax.legend()
    figure.suptitle("The same test pictures, shifted")
    return figure


def confident_mistakes(logits, labels, most=6):
    """Return (index, predicted class, probability) of the most confident mistakes, in descending order."""
    probability, predicted = logits.softmax(1).max(1)
    surest = torch.where(predicted == labels, -1, probability).argsort(descending=True)[:most].tolist()
    return [(i, predicted[i].item(), probability[i].item()) for i in surest if predicted[i] != labels[i]]


def mistakes_figure(confident, data):
    """Return a figure of the most confident mistakes; confident: `confident_mistakes` by network."""
    options = {"figsize": (12, 6.4), "layout": "constrained", "squeeze": False, "subplot_kw": BARE}
    figure, grid = plt.subplots(len(confident), 6, **options)
    for row, (name, mistakes) in zip(grid, confident.items(), strict=True):
        for ax, (index, predicted, probability) in zip(row, mistakes, strict=False):
            true = data["class_names"][int(data["main_test_labels"][index])]
            ax.imshow(data["main_test_images"][index].permute(1, 2, 0))
            text = f"{name.upper()}, {probability:.0%} sure:\n{plots.wrap_name(data['class_names'][predicted])}"
            ax.set_title(text, fontsize=9.5, color=plots.TEST_COLOUR)
            ax.set_xlabel(f"is {plots.wrap_name(true)}", fontsize=9.5)
    figure.suptitle("The most confident mistakes")
    return figure


def filters_figure(cnn, data):
    """Return a figure of the eight first-layer filters and their responses to three test crops."""
    crops, labels = crop_at(data, 0, 0), data["main_test_labels"]
    shown = [torch.nonzero(labels == label).flatten()[0].item() for label in labels.unique()[[0, -2, -1]]]
    with torch.no_grad():
        responses = cnn[0][:2](crops[shown])
    figure, grid = plt.subplots(len(shown) + 1, 9, figsize=(12, 5.8), layout="constrained", subplot_kw=BARE)
    grid[0, 0].text(0.5, 0.5, "filters\n(5 x 5)", ha="center", va="center")
    weights = cnn[0][0].weight.detach()
    for ax, kernel in zip(grid[0, 1:], weights / weights.abs().max() / 2 + 0.5, strict=True):
        ax.imshow(kernel.permute(1, 2, 0))
    for row, index, maps in zip(grid[1:], shown, responses, strict=True):
        row[0].imshow(data["main_test_images"][index].permute(1, 2, 0))
        row[0].set_title(plots.wrap_name(data["class_names"][int(labels[index])]), fontsize=9.5)
        for ax, response in zip(row[1:], maps, strict=True):
            ax.imshow(response, cmap="magma", vmin=0, vmax=maps.max())
    figure.suptitle("First layer of the CNN: filters, and where they respond")
    return figure


def features_in_a_plane(features, head):
    """Project features, float32 (n, 64), onto the head's decision direction and the widest orthogonal one: (n, 2).

    The first coordinate is the difference of the two logits, so the decision line is at zero.
    """
    direction = head.weight[1] - head.weight[0]
    logit_difference = features @ direction + head.bias[1] - head.bias[0]
    unit = direction / direction.norm()
    across = features - features.mean(0)
    across = across - (across @ unit)[:, None] * unit
    _, _, principal = torch.linalg.svd(across, full_matrices=False)
    return torch.stack((logit_difference, across @ principal[0]), dim=1)


def features_figure(network, data):
    """Return a figure of the transfer test features in a plane, by class, with the decision line of Q5's network."""
    features, labels = predict(network[0], make_loader(data, "transfer_test"))
    with torch.no_grad():
        plane = features_in_a_plane(features, network[1])
    class_names = task_names(data)["transfer"]
    figure, ax = plt.subplots(figsize=(8, 5), layout="constrained")
    for label, (name, colour, marker) in enumerate(zip(class_names, plots.COLOURS, "os", strict=True)):
        of_class = plane[labels == label]
        ax.scatter(of_class[:, 0], of_class[:, 1], s=16, alpha=0.6, color=colour, marker=marker, label=name)
    ax.axvline(0, color="black", linestyle="--", label="decision line")
    ax.set(xlabel=f"logit of {class_names[1]} minus the other's", ylabel="widest direction across it")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)
    figure.suptitle("Test features of the frozen backbone")
    return figure


def main():
    args = get_args()
    data = load_data(args.out)
    num_main, num_transfer = (len(names) for names in task_names(data).values())
    networks, notes = {name: make_network(num_main) for name, make_network in NETWORKS.items()}, []
    if num_transfer == 2:
        networks["transfer"] = nn.Sequential(make_backbone(), nn.Linear(64, 2))
    else:
        notes = [f"inside_features.png needs two held-back classes: with {num_transfer} it is left out."]
    for script, network in zip(("q2_fcn", "q3_cnn", "q5_transfer"), networks.values(), strict=False):
        load_trained(network, Path(args.out) / f"{script}.pt", data, f"{script}.py", args.force)
    runs = [{"seed": seed, "network": name} for seed in args.seeds for name in NETWORKS]
    summary = summarise(collect(__file__, measure, runs, args, data, epochs=args.epochs))

    test_loader = make_loader(data, "main_test")
    confident = {name: confident_mistakes(*predict(networks[name], test_loader)) for name in NETWORKS}
    figures = {"mistakes": mistakes_figure(confident, data), "filters": filters_figure(networks["cnn"], data)}
    if "transfer" in networks:
        figures["features"] = features_figure(networks["transfer"], data)
    record = {"shifts": SHIFTS, **summary, "confident_mistakes": confident}
    sentences = [*describe(record), *notes]
    save_study(__file__, args, data, shifts_figure(summary["networks"]), sentences, figures, **record)


def get_args(argv=None):
    parser = study_parser(__doc__, "python -m studies.inside --seeds 0-9")
    cli.add_force(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, resumes="")
