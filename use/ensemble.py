"""Predict on whole images: mean probabilities over a grid of crops, and the share of crops that disagree."""

import math
from types import SimpleNamespace

from common.data import normalize_rows
from common.hardware.layers import memory_format, reorder_layers
from common.symmetries import transformed

import numpy as np
import torch
from torch import nn

CROP_SIZE = 48  # pixels: input of all networks of the assignment
CROPS = [side**2 for side in range(1, 12)]  # grids whose corners are at even positions in an image of 69 pixels


def grid(size, crops):
    """Return the (top, left) corners of a square grid of `crops` windows in an image, as a list.

    A single window is central. Several windows are at even positions, so that pooling by 2 groups the same pixels in a
    window as in the whole image, and overlapping windows can share their convolutions.
    """
    side, room = math.isqrt(crops), size - CROP_SIZE
    places = [room * i // (side - 1) // 2 * 2 for i in range(side)] if side > 1 else [room // 2]
    return [(top, left) for top in places for left in places]


def share_layers(network, corners, size):
    """Split a network into layers to compute once per image, and layers to compute once per window.

    Unpadded convolutions, ReLU, and pooling at corners that are multiples of its stride give the same values in a
    window as in the whole image. Return both parts, and the corners and size of the windows in the output of the first
    part, which is empty if the windows have fewer pixels in total than the image.
    """
    layers, side, shared = flat(network), CROP_SIZE, []
    for layer in layers if len(corners) * CROP_SIZE**2 > size**2 else []:
        if type(layer) is nn.Conv2d and (layer.padding, layer.stride, layer.dilation) == ((0, 0), (1, 1), (1, 1)):
            side -= layer.kernel_size[0] - 1
        elif type(layer) is nn.MaxPool2d and layer.kernel_size == layer.stride == 2 and not np.any(corners % 2):
            corners, side = corners // 2, side // 2
        elif type(layer) is not nn.ReLU:
            break
        shared.append(layer)
    return nn.Sequential(*shared), nn.Sequential(*layers[len(shared) :]), corners, side


def flat(layer):
    """Return the layers of nested nn.Sequential as a list."""
    return [each for child in layer for each in flat(child)] if type(layer) is nn.Sequential else [layer]


class CropEnsemble:
    """A network that predicts on whole images.

    mean, std: 3 values each, for pixel values 0-255; size: of the images; crops, all_symmetries: the views to average
    over.
    """

    def __init__(self, network, mean, std, size, crops=9, all_symmetries=False, device="cpu"):
        network = reorder_layers(network.to(device).eval())
        self.normalize = normalize_rows(SimpleNamespace(mean=mean, std=std), size, device)
        self.shared, rest, self.corners, self.side = share_layers(network, np.array(grid(size, crops)), size)
        self.rest, self.head = rest[:-1], rest[-1]
        self.symmetries = range(8 if all_symmetries else 1)
        self.device = torch.device(device)

    @torch.no_grad()
    def views(self, images):
        """Return the input and output of the last layer for every view of images, uint8 or float (n, 3, size, size).

        Features, float32 (views, n, 64), and logits, float32 (views, n, classes).
        """
        images, layout = images.to(self.device), memory_format(self.device)
        features = []
        for symmetry in self.symmetries:
            view = transformed(images, symmetry).to(dtype=torch.float32, memory_format=layout, copy=True)
            maps = self.shared(self.normalize(view))
            windows = (maps[:, :, top : top + self.side, left : left + self.side] for top, left in self.corners)
            features += map(self.rest, windows)
        return torch.stack(features), torch.stack(list(map(self.head, features)))

    def __call__(self, images):
        """Return mean probabilities (n, classes), the share of views that disagree (n,), mean features (n, 64)."""
        features, logits = self.views(images)
        views = logits.softmax(2).cpu()
        probabilities = views.mean(0)
        disagreement = (views.argmax(2) != probabilities.argmax(1)).float().mean(0)
        return probabilities, disagreement, features.mean(0).cpu()
