"""The rule that tells a trend of the test loss from its noise."""

import math

import numpy as np
import scipy

MIN_EPOCHS = 10  # with fewer, no verdict is given
STRETCH = 3  # epochs, the shortest stretch whose mean is compared
FALSE_TREND = 0.001  # how often noise alone may pass for a fall or a rise, per comparison
FALSE_LEVEL = 0.01  # how often a change of LEVEL or more may pass for none, per direction
CORRELATION_ALLOWANCE = 1.4  # covers a correlation of 0.2 between neighbouring epochs; EFIGI's losses: -0.2 to 0.14
NOTABLE = 0.01  # share by which a loss must change to be called falling or rising, however little it scatters
LEVEL = 0.05  # share within which a loss must surely stay to be called level
DIVERGED = 0.1  # share by which the training loss must rise to be called diverged


def stretch_length(epochs):
    """Return the number of epochs per stretch: a fifth of all, at least STRETCH."""
    return max(epochs // 5, STRETCH)


def stretch_means(losses):
    """Return the mean loss, float64 (m,), of each stretch, in order; the first epochs that fill none are left out."""
    length = stretch_length(len(losses))
    return np.asarray(losses)[len(losses) % length :].reshape(-1, length).mean(1)


def change(losses, stretch, comparisons=1):
    """Return how the last stretch of `losses` differs from another one, as shares of that one's mean.

    Three numbers: the change; how large noise alone makes it with probability FALSE_TREND, shared among
    `comparisons`; and the same for FALSE_LEVEL. The yardstick is the scatter between neighbouring epochs, by how
    much each differs from the mean of the two beside it: such a difference has 1.5 times the variance of one
    epoch's noise, whatever the trend (Gasser, Sroka and Jennen-Steinmetz 1986, Biometrika 73, 625).
    """
    losses, means = np.asarray(losses), stretch_means(losses)
    epochs, length = len(losses), stretch_length(len(losses))
    first = min(epochs % length + stretch % len(means) * length, epochs // 2)
    since = losses[first:]
    residuals = since[1:-1] - (since[:-2] + since[2:]) / 2
    noise = math.sqrt((residuals**2).mean() / 1.5)
    error = CORRELATION_ALLOWANCE * noise * math.sqrt(2 / length)
    freedom = len(residuals) / 2  # overlapping differences count about half
    trend, level = (scipy.stats.t.isf(rate, freedom) * error for rate in (FALSE_TREND / comparisons, FALSE_LEVEL))
    return (means[-1] - means[stretch]) / means[stretch], trend / means[stretch], level / means[stretch]


def lowest_stretch(losses):
    """Return the index of the stretch with the lowest mean, the last one left out."""
    return int(stretch_means(losses)[:-1].argmin())


def is_trend(share, noise):
    """Say whether a change is larger than noise alone makes it, and worth a word."""
    return abs(share) > max(noise, NOTABLE)


def verdict(history):
    """Return what the losses of a history show, in one word.

    The epochs are divided into fifths, and the last one's mean test loss is compared with the lowest other
    one's (has it risen?) and with the one before (does it still fall?). A difference counts when the scatter
    between neighbouring epochs would produce it by chance once in 1,000 times, and when it is at least 1 %.

    - overfits: the test loss has risen since its lowest fifth, the training loss has fallen and is the lower
    - diverged: the test loss has risen since its lowest fifth, and the training loss too, by 10 % or more
    - risen: the test loss has risen, and the training loss does neither
    - falling: the last fifth is lower than the one before
    - level: none of these, and differences of 5 % or more would have been noticed, 99 times in 100
    - unclear: none of these can be told: there are fewer than 10 epochs, or the scatter is too large
    """
    train, test = history["train_loss"], history["test_loss"]
    if len(test) < MIN_EPOCHS:
        return "unclear"
    lowest = lowest_stretch(test)
    if min(stretch_means(train)[lowest], *stretch_means(test)) <= 0:  # no share of it can be given
        return "unclear"
    rise, noise, rise_level = change(test, lowest, comparisons=len(stretch_means(test)) - 1)
    if rise > 0 and is_trend(rise, noise):
        share, noise, _ = change(train, lowest)
        if share < 0 and is_trend(share, noise) and stretch_means(train)[-1] < stretch_means(test)[-1]:
            return "overfits"
        return "diverged" if share > max(noise, DIVERGED) else "risen"
    share, noise, level = change(test, -2)
    if share < 0 and is_trend(share, noise):
        return "falling"
    return "level" if abs(share) + level < LEVEL and rise + rise_level < LEVEL else "unclear"
