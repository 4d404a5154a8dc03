"""Measure how pictures look, to mark those unlike the training images, and hash them, to recognize training images."""

import hashlib

import torch

# What is measured, each with its unit or range.
MEASURES = {
    "brightness": "mean of all pixels, 0 to 1",
    "contrast": "standard deviation of the grey values, 0 to 0.5",
    "colour": "mean of red minus mean of blue, -1 to 1",
    "central light": "share of the light above the border's within a central disk of half the width, 0 to 1",
}
PERCENTILES = (0.5, 99.5)
MARGIN = 0.1  # tolerance beyond the percentiles, as a fraction of the distance between them
MOST = 2000  # images to measure, enough for percentiles with an error of a fraction of a percent


def appearance(images):
    """Return MEASURES of each image: uint8 (n, 3, size, size) to float32 (n, 4)."""
    pixels = images.float() / 255
    grey = pixels.mean(1)
    size = grey.shape[-1]
    border = torch.cat((grey[:, 0], grey[:, -1], grey[:, :, 0], grey[:, :, -1]), dim=1).median(1).values
    light = (grey - border[:, None, None]).clamp(min=0)
    place = torch.arange(size, device=grey.device) - (size - 1) / 2
    central = place.square() + place.square()[:, None] < (size / 4) ** 2
    share = light[:, central].sum(1) / light.sum((1, 2)).clamp(min=1e-6)
    colour = pixels[:, 0].mean((1, 2)) - pixels[:, 2].mean((1, 2))
    return torch.stack((grey.mean((1, 2)), grey.std((1, 2), unbiased=False), colour, share), dim=1)


def appearance_range(images):
    """Return the range of 99% of training images: [low, high] for each of MEASURES, by name.

    images: uint8 (n, 3, size, size); at most MOST, evenly spaced, are measured.
    """
    chosen = images[:: max(1, -(-len(images) // MOST))]
    percentiles = torch.tensor(PERCENTILES, device=images.device) / 100
    measured = torch.cat([appearance(part) for part in chosen.split(100)])  # in parts: all at once take 230 MB
    low, high = measured.quantile(percentiles, dim=0).tolist()
    return {name: list(pair) for name, pair in zip(MEASURES, zip(low, high, strict=True), strict=True)}


def out_of_range(images, ranges):
    """Return a list of phrases for each image, uint8 (n, 3, size, size), on how it differs from the training images.

    ranges: from `appearance_range`, or None if unknown, in which case all lists are empty.
    """
    if ranges is None:
        return [[] for _ in images]
    return [
        [
            f"{name} {value:.3f}, for 99% of the training images {low:.3f} to {high:.3f}"
            for value, (name, (low, high)) in zip(values, ranges.items(), strict=True)
            if not -MARGIN * (high - low) <= value - low <= (1 + MARGIN) * (high - low)
        ]
        for values in appearance(images).tolist()
    ]


def image_hashes(images):
    """Return a short hash of each image, uint8 (n, 3, size, size): a list of strings of 16 hexadecimal digits.

    These are the first 64 bits of the SHA-256 of its pixels, rows of red, green and blue. Two of a million different
    images have the same hash with a probability of 3e-8.
    """
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16] for image in images.cpu().permute(0, 2, 3, 1)]
