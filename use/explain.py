"""Occlusion maps: how much the probability of a prediction decreases if a part of the picture is covered."""

import re
from functools import partial
from pathlib import Path

from common.plots import titled
from common.storage.artifacts import save_figure
from use.pieces import probabilities_of

import matplotlib.pyplot as plt
import torch

WINDOW, STRIDE = 9, 4  # pixels: size and step of the covered square


def occlusion(answer, image, label):
    """Return how much the probability of class `label` decreases if each pixel is covered, float32 (size, size).

    The method is Zeiler & Fergus's (2014), computed by captum: a square of WINDOW pixels in the colour of the border,
    the sky, moves over the image; each pixel gets the mean over the squares that cover it. answer: function from images
    (n, 3, size, size) to probabilities (n, classes); image: uint8 (3, size, size).
    """
    from captum.attr import Occlusion

    border = torch.cat((image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]), dim=1)
    sky = border.float().median(1).values[None, :, None, None].expand(1, *image.shape)
    effect = Occlusion(answer).attribute(
        image[None].float(),
        sliding_window_shapes=(3, WINDOW, WINDOW),
        strides=(3, STRIDE, STRIDE),
        baselines=sky,
        target=label,
        perturbations_per_eval=64,
    )
    return effect[0, 0]


def explain(folder, number, found, classifier, record):
    """Write a PNG of a picture and its occlusion map to `folder`; `number` makes the file name unique.

    found: the picture's dict from `describe` in use/pieces.py; record: of the network.
    """
    label = record["class_names"].index(found["class_name"])
    effect = occlusion(partial(probabilities_of, classifier), found["image"], label)
    most = max(effect.abs().max().item(), 1e-6)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
    pixels = found["image"].permute(1, 2, 0)
    left.imshow(pixels)
    left.set_title(Path(found["file"]).name)
    right.imshow(pixels.float().mean(2), cmap="gray")
    shown = right.imshow(effect, cmap="PuOr_r", vmin=-most, vmax=most, alpha=0.6)
    right.set_title(f"{WINDOW} x {WINDOW} pixels covered")
    figure.colorbar(shown, ax=right, label=f"fall of p({found['class_name']})")
    for axes in (left, right):
        axes.axis("off")
    figure.suptitle(titled(f"{found['class_name']}, {found['probability']:.0%}", record["source"]))
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", found["id"])[:80]
    save_figure(figure, Path(folder) / f"{number:05d}_{name}.png")
    plt.close(figure)
