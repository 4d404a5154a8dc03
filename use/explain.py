"""Occlusion maps: how far the probability of a prediction falls when a part of the picture is covered."""

import os
import re
from pathlib import Path

from common.plots import titled
from common.storage.artifacts import save_figure
from common.storage.atomic import identity
from common.storage.packages import require

import matplotlib.pyplot as plt
import torch

WINDOW, STRIDE = 9, 4  # pixels: the part that is covered, and the steps in which it moves


def check_explain(folder, files, dask):
    """Raise ValueError if maps cannot be computed, or one in `folder` could overwrite one of the pictures, `files`."""
    if dask is not None:
        raise ValueError("--explain computes in this process: leave --dask out")
    require("--explain", "captum")
    for file in files:
        where, name = os.path.split(file)
        if re.fullmatch(r"\d{5,}_.*\.png", name) and identity(where or ".") == identity(folder):
            raise ValueError(f"--explain {folder}: holds the picture {file}, which is read: name another folder")


def occlusion(answer, image, label):
    """Return how far the probability of class `label` falls when each place is covered, float32 (size, size).

    Zeiler & Fergus (2014), by captum: a square of WINDOW pixels in the colour of the border, the sky, moves over the
    image; each pixel gets the mean over the squares that cover it. answer: from images (n, 3, size, size) to
    probabilities (n, classes); image: uint8 (3, size, size).
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


def explain(folder, number, record, answer, image, source):
    """Write a PNG into `folder`: the picture and its occlusion map; `number` makes its name unique."""
    effect = occlusion(answer, image, record["class"])
    most = max(effect.abs().max().item(), 1e-6)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
    pixels = image.permute(1, 2, 0)
    left.imshow(pixels)
    left.set_title(Path(record["file"]).name)
    right.imshow(pixels.float().mean(2), cmap="gray")
    shown = right.imshow(effect, cmap="PuOr_r", vmin=-most, vmax=most, alpha=0.6)
    right.set_title(f"{WINDOW} x {WINDOW} pixels covered")
    figure.colorbar(shown, ax=right, label=f"fall of p({record['class_name']})")
    for axes in (left, right):
        axes.axis("off")
    figure.suptitle(titled(f"{record['class_name']}, {record['probability']:.0%}", source))
    stem = re.sub(r"\.[A-Za-z]+$", "", Path(record["file"]).name)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("._") or "picture"
    save_figure(figure, Path(folder) / f"{number:05d}_{stem[:80]}.png")
    plt.close(figure)
