"""Predictions on whole images: mean probabilities over a fixed grid of crops, and how far these disagree."""

import math

from common.data import normalize_rows
from common.hardware.layers import memory_format, reorder_layers
from common.symmetries import transformed

import numpy as np
import torch
from torch import nn
from torchvision import transforms

CROP_SIZE = 48  # pixels: what all networks of the assignment see of an image


def grid(size, crops):
    """Return the (top, left) corners of `crops` windows, evenly spread over an image, as a list.

    A single one is in the centre. Where there is room, at even places: there pooling by 2 sees the same squares in
    the window and in the whole image, and overlapping windows can share their convolutions. Raises ValueError unless
    `crops` is a square number, and the image has that many places.
    """
    side = math.isqrt(crops)
    if side * side != crops:
        raise ValueError(f"--crops {crops}: must be a square number, for a grid: 1, 4, 9, 16, ...")
    room = size - CROP_SIZE
    if side > room + 1:
        raise ValueError(f"--crops {crops}: images of {size} pixels have room for {(room + 1) ** 2} crops at most")
    step = 2 if side <= room // 2 + 1 else 1
    places = [room * i // (side - 1) // step * step for i in range(side)] if side > 1 else [room // 2]
    return [(top, left) for top in places for left in places]


def share_layers(network, corners, size):
    """Split a network into the layers computed once for a whole image, and the others, computed for each window.

    Convolution without padding, ReLU and pooling, where all corners are multiples of its stride, give in a window what
    they give in the same place of the whole image. Return both parts, and corners and side of the windows in the
    output of the first. It is empty where the windows have fewer pixels, together, than the image, `size` squared.
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
    """Return the layers of an nn.Sequential, and of those in it, as a list."""
    return [each for child in layer for each in flat(child)] if type(layer) is nn.Sequential else [layer]


class CropEnsemble:
    """A network, `network(normalised crops)`, that predicts on whole images.

    mean, std: of 0-255 pixels, 3 values each; size: the images' side; crops, all_symmetries: what to average over.
    """

    def __init__(self, network, mean, std, size, crops=9, all_symmetries=False, device="cpu"):
        network = reorder_layers(network.to(device).eval())
        self.normalize = normalize_rows(transforms.Normalize(mean, std), size, device)
        self.shared, rest, self.corners, self.side = share_layers(network, np.array(grid(size, crops)), size)
        self.rest, self.head = rest[:-1], rest[-1]
        self.all_symmetries = all_symmetries
        self.device = torch.device(device)

    @torch.no_grad()
    def views(self, images):
        """Return what the last layer gets and gives of every crop of images, uint8 or float (n, 3, size, size).

        Features, float32 (views, n, 64), and logits (views, n, classes).
        """
        images = images.to(self.device)
        features = []
        for symmetry in range(8 if self.all_symmetries else 1):
            way = transformed(images, symmetry).to(
                dtype=torch.float32, memory_format=memory_format(self.device), copy=True
            )
            maps = self.shared(self.normalize(way))
            windows = (maps[:, :, top : top + self.side, left : left + self.side] for top, left in self.corners)
            features += map(self.rest, windows)
        return torch.stack(features), torch.stack(list(map(self.head, features)))

    def __call__(self, images):
        """Return mean probabilities, float32 (n, classes), the share of crops that disagree, (n,), and mean features.

        The last are what the last layer gets, (n, 64).
        """
        features, logits = self.views(images)
        views = logits.softmax(2).cpu()
        probabilities = views.mean(0)
        disagreement = (views.argmax(2) != probabilities.argmax(1)).float().mean(0)
        return probabilities, disagreement, features.mean(0).cpu()
