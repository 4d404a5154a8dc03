"""The answer of a network on whole images: probabilities over a fixed grid of crops, and how far they disagree."""

import math

import torch

from common.data import Normalize
from common.hardware.layers import reorder_layers
from use.trained import CROP_SIZE


def grid(size, crops):
    """Return the (top, left) corners of `crops` windows, evenly spread over an image, as a list; one is the centre.

    Raises ValueError unless `crops` is a square number, and the image has that many places.
    """
    side = math.isqrt(crops)
    if side * side != crops:
        raise ValueError(f"--crops {crops}: must be a square number, for a grid: 1, 4, 9, 16, ...")
    room = size - CROP_SIZE
    if side > room + 1:
        raise ValueError(f"--crops {crops}: images of {size} pixels have room for {(room + 1) ** 2} crops at most")
    places = [round(room * i / (side - 1)) for i in range(side)] if side > 1 else [room // 2]
    return [(top, left) for top in places for left in places]


def symmetries(images):
    """Return the images (n, 3, size, size) in the eight ways in which a square can be turned and mirrored."""
    turned = [torch.rot90(images, turns, (2, 3)) for turns in range(4)]
    return turned + [image.flip(3) for image in turned]


class Answerer:
    """A network, `network(normalised crops)`, that answers on whole images.

    mean, std: of 0-255 pixels, 3 values each; size: the images' side; crops, all_symmetries: what to average over.
    """

    def __init__(self, network, mean, std, size, crops=9, all_symmetries=False, device="cpu"):
        self.network = reorder_layers(network.to(device).eval())
        self.normalize = Normalize(torch.tensor(mean), torch.tensor(std)).to(device)
        self.corners = grid(size, crops)
        self.all_symmetries = all_symmetries
        self.device = device

    @torch.no_grad()
    def views(self, images):
        """Return the probabilities, (views, n, classes), of every crop of images, uint8 or float (n, 3, size, size)."""
        images = images.to(self.device)
        ways = symmetries(images) if self.all_symmetries else [images]
        layout = {"dtype": torch.float32, "memory_format": torch.channels_last, "copy": True}
        logits = [
            self.network(self.normalize(way[:, :, top : top + CROP_SIZE, left : left + CROP_SIZE].to(**layout)))
            for way in ways
            for top, left in self.corners
        ]
        return torch.stack(logits).softmax(2).cpu()

    def __call__(self, images):
        """Return the mean probabilities, float32 (n, classes), and the share of crops that disagree with them, (n,)."""
        views = self.views(images)
        probabilities = views.mean(0)
        disagreement = (views.argmax(2) != probabilities.argmax(1)).float().mean(0)
        return probabilities, disagreement


def records(names, probabilities, disagreement, unlike, class_names):
    """Return one dict per picture, as predict.py's --json writes it, from what the network says of a batch."""
    order = probabilities.argsort(dim=1, descending=True, stable=True).tolist()
    return [
        {
            "file": names[row],
            "class": order[row][0],
            "class_name": class_names[order[row][0]],
            "probability": values[order[row][0]],
            "probabilities": values,
            "second": order[row][1],
            "second_name": class_names[order[row][1]],
            "disagreement": disagreement[row].item(),
            "unlike": unlike[row],
        }
        for row, values in enumerate(probabilities.tolist())
    ]
