"""Why is the CNN better? Both networks trained on crops with shuffled pixels, the same permutation for all images.

The FCN treats all pixels alike, so a fixed permutation does not affect it. The CNN's filters see neighbouring pixels
and use the same weights everywhere; after shuffling, neighbours no longer belong together and a shape no longer looks
the same elsewhere. Seed s has the split, initial weights and crops of `make all SEED=s`.

Reads q1_data.pt under --out. Writes locality.json, locality.png and a file per run into {out}/studies.
"""

from common import cli
from common.data import load_data
from studies.methods.runs import collect, resplit, save_study, select, study_parser
from studies.methods.statistics import draw_seeds, judged, mean_interval, points, share_text, table_lines
from studies.methods.training import COLOURS, NETWORKS, accuracy_of, make_loader, seed_network, train_on_main

import matplotlib.pyplot as plt
import numpy as np
import torch

PERMUTATION_SEED = 467  # one permutation for all images, epochs and seeds
PIXELS = {"as_is": "as is", "shuffled": "shuffled"}


def shuffle_pixels(crops):
    """Return crops, float32 (n, 3, h, w), with their pixels shuffled by a fixed permutation."""
    _, _, height, width = crops.shape
    order = torch.randperm(height * width, generator=torch.Generator().manual_seed(PERMUTATION_SEED))
    return crops.flatten(2)[:, :, order.to(crops.device)].view(crops.shape)


def measure(out, device, seed, network, epochs):
    """Return a network's accuracy on unchanged crops and, after retraining, on shuffled crops."""
    data = resplit(load_data(out), seed)
    plain = seed_network(network, data, out, seed, epochs, device)
    other = train_on_main(network, data, epochs, seed, device, augmentations=[shuffle_pixels])
    return {
        "as_is": accuracy_of(plain, make_loader(data, "main_test", device)),
        "shuffled": accuracy_of(other, make_loader(data, "main_test", device, [shuffle_pixels])),
    }


def summarise(rows):
    """Return each network's accuracies and CNN minus FCN, as is and shuffled, and their changes, with intervals."""
    networks, seeds = {}, {}
    for name in NETWORKS:
        values = {key: np.array([row[key] for row in select(rows, network=name)]) for key in PIXELS}
        networks[name], seeds[name] = compare(values), {key: each.tolist() for key, each in values.items()}
    lead = {key: np.subtract(seeds["cnn"][key], seeds["fcn"][key]) for key in PIXELS}
    return {"networks": networks, "cnn_minus_fcn": compare(lead), "seeds": seeds}


def compare(values):
    """Return intervals for a metric, float (seeds,) for each of PIXELS, and for its change."""
    change = values["shuffled"] - values["as_is"]
    return {key: mean_interval(each) for key, each in (values | {"change": change}).items()}


def describe(record):
    """Return the answer, and a sentence on the effect of shuffling on each network."""
    lead, change = record["cnn_minus_fcn"], {name: each["change"] for name, each in record["networks"].items()}
    return [
        f"CNN minus FCN is {judged(lead['as_is'])}, with the pixels as they are, and {judged(lead['shuffled'])}, with "
        f"shuffled pixels: a change of {judged(lead['change'])}.",
        f"Shuffling changes the FCN's accuracy by {judged(change['fcn'])}; the CNN's by {judged(change['cnn'])}.",
    ]


def tables(record):
    """Return the table of docs/studies.md: both networks and their difference, as is and shuffled."""
    rows = [
        (name.upper(), share_text(each["as_is"]), share_text(each["shuffled"]), points(each["change"]))
        for name, each in record["networks"].items()
    ]
    rows.append(("CNN minus FCN", *map(points, record["cnn_minus_fcn"].values())))
    return table_lines(("network", *PIXELS.values(), "shuffled minus as is"), rows)


def locality_figure(summary, image):
    """Return a figure of all accuracies and, next to them, one galaxy, uint8 (3, h, w), as is and shuffled."""
    layout = [["accuracy", *PIXELS]]
    figure, axes = plt.subplot_mosaic(layout, figsize=(10.6, 3.6), layout="constrained", width_ratios=(2.2, 1, 1))
    accuracy, rows = axes["accuracy"], [(name, key) for name in NETWORKS for key in PIXELS]
    for row, (name, key) in enumerate(rows):
        draw_seeds(accuracy, -row, summary["seeds"][name][key], summary["networks"][name][key], COLOURS[name])
    accuracy.set_yticks(-np.arange(len(rows)), [f"{name.upper()}, {PIXELS[key]}" for name, key in rows])
    top, left = ((side - 48) // 2 for side in image.shape[1:])
    crop = image[None, :, top : top + 48, left : left + 48]
    for key, picture in (("as_is", crop), ("shuffled", shuffle_pixels(crop))):
        axes[key].imshow(picture[0].permute(1, 2, 0))
        axes[key].set(title=f"one galaxy, {PIXELS[key]}", xticks=[], yticks=[])
    figure.suptitle("Shuffled pixels: the same in every image")
    return figure


def main():
    args = get_args()
    data = load_data(args.out)
    runs = [{"seed": seed, "network": name} for name in ("cnn", "fcn") for seed in args.seeds]  # the longest runs first
    summary = summarise(collect(__file__, measure, runs, args, data, epochs=args.epochs))
    figure = locality_figure(summary, data["main_test_images"][0])
    save_study(__file__, args, data, figure, describe(summary), **summary)


def get_args(argv=None):
    return study_parser(__doc__, "python -m studies.locality --seeds 0-9").parse_args(argv)


if __name__ == "__main__":
    cli.run(main, resumes="")
