"""The temperature that fits the probabilities of a network to true classes (Guo et al. 2017)."""

import math

import torch
from scipy.optimize import minimize_scalar


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
    """Return the temperature with the lowest `negative_log_likelihood`.

    Between e^-5 and e^5: with every prediction correct the lowest would be at 0. For one view there is one minimum, as
    the cross entropy is convex in 1 / temperature.
    """
    result = minimize_scalar(
        lambda log_temperature: negative_log_likelihood(logits, labels, math.exp(log_temperature)),
        bounds=(-5, 5),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return math.exp(result.x)
