"""A temperature for the probabilities of a network, fitted on training images that are kept out of its training."""

import math

from common.ensemble import CROP_SIZE, CropEnsemble
from common.galaxies.split import stratified_split

import torch

BATCH = 64  # images that are computed together


def hold_out(data, fraction, seed):
    """Return Q1's data without a fraction of the main training images, and those kept out: images and labels.

    Every class is divided in the same proportion, by the seed. With None for the fraction all images stay, and None is
    kept out. Raises ValueError when that leaves no image of a class on one of the sides.
    """
    if fraction is None:
        return data, None
    images, labels = data["main_train_images"], data["main_train_labels"]
    size = len(labels) - max(1, round(fraction * len(labels)))
    try:
        kept, out = stratified_split(labels.numpy(), size, seed)
    except ValueError as error:
        raise ValueError(f"{fraction:g} of {len(labels):,} training images kept out leaves {error}") from None
    return data | {"main_train_images": images[kept], "main_train_labels": labels[kept]}, (images[out], labels[out])


def calibrate(network, record, held_out):
    """Return the temperature of a network, as a dict to add to its record; an empty one if no images were kept out.

    It is that of the mean over nine crops, as predict.py computes it. record: the network's; held_out: images, uint8
    (n, 3, size, size), and labels, int64 (n,), or None.
    """
    if held_out is None:
        return {}
    images, labels = held_out
    logits = crop_logits(network, record["mean"], record["std"], images)
    temperature = fit_temperature(logits, labels)
    before, after = (negative_log_likelihood(logits, labels, each) for each in (1, temperature))
    losses = f"the log loss of their mean probabilities over nine crops falls from {before:.3f} to {after:.3f}"
    print(f"Temperature {temperature:.3f}, fitted on {len(labels):,} training images kept out: {losses}.")
    return {"temperature": temperature, "calibration_images": len(labels)}


def crop_logits(network, mean, std, images, crops=9):
    """Return the logits, float32 (crops, n, classes), of a grid of crops of images, uint8 (n, 3, size, size).

    mean, std: three values each. Images that have no room for as many crops get fewer.
    """
    size, device = images.shape[-1], next(network.parameters()).device
    crops = min(crops, (size - CROP_SIZE + 1) ** 2)
    ensemble = CropEnsemble(network, mean, std, size, crops, device=device)
    return torch.cat([ensemble.views(batch)[1].cpu() for batch in images.split(BATCH)], dim=1).numpy()


def negative_log_likelihood(logits, labels, temperature=1.0):
    """Return the mean cross entropy, in nats, of the mean probabilities over views: float.

    Of each view they are the softmax of logits / temperature. logits: float (views, n, k), or (n, k) of one view;
    labels: int (n,).
    """
    logits = torch.as_tensor(logits, dtype=torch.float64)
    scaled = (logits.reshape(-1, *logits.shape[-2:]) / temperature).log_softmax(2)
    true = scaled[:, torch.arange(len(labels)), torch.as_tensor(labels)]
    return math.log(len(true)) - true.logsumexp(0).mean().item()


def fit_temperature(logits, labels):
    """Return the temperature with the lowest `negative_log_likelihood` (Guo et al. 2017).

    Between e^-5 and e^5: with every prediction correct the lowest would be at 0. For one view there is one minimum, as
    the cross entropy is convex in 1 / temperature.
    """
    from scipy.optimize import minimize_scalar  # here, as it takes 0.3 s, which most runs of Q3 need not wait for

    result = minimize_scalar(
        lambda log_temperature: negative_log_likelihood(logits, labels, math.exp(log_temperature)),
        bounds=(-5, 5),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return math.exp(result.x)
