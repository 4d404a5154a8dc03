"""Fit a temperature to the probabilities of a network and true classes (Guo et al. 2017)."""

import math

import scipy  # its optimize takes 0.3 s to import, so it is loaded on first use
import torch


def negative_log_likelihood(logits, labels, temperature=1.0):
    """Return the mean cross entropy of probabilities averaged over views, in nats: float.

    The probabilities of a view are the softmax of logits / temperature. logits: float (views, n, k), or (n, k) for a
    single view; labels: int (n,).
    """
    logits = torch.as_tensor(logits, dtype=torch.float64)
    scaled = (logits.reshape(-1, *logits.shape[-2:]) / temperature).log_softmax(2)
    true = scaled[:, torch.arange(len(labels)), torch.as_tensor(labels)]
    return math.log(len(true)) - true.logsumexp(0).mean().item()


def fit_temperature(logits, labels):
    """Return the temperature from e^-5 to e^5 with the lowest `negative_log_likelihood`.

    If all predictions are correct, the optimum is at 0. With a single view there is one minimum, because the cross
    entropy is convex in 1 / temperature.
    """
    result = scipy.optimize.minimize_scalar(
        lambda log_temperature: negative_log_likelihood(logits, labels, math.exp(log_temperature)),
        bounds=(-5, 5),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return math.exp(result.x)
