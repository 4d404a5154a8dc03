"""How sure a mean over seeds is: Student's intervals, paired differences, components of a variance."""

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


def mean_interval(values):
    """Return the mean of a metric over seeds with its 95% t-interval: keys n, mean, sd, low, high, lowest, highest.

    values: float (n,). With one value sd, low and high are NaN. The interval is for the mean over all seeds on the
    same file of galaxies.
    """
    values = np.asarray(values, dtype=float)
    n, mean = len(values), values.mean()
    sd = values.std(ddof=1) if n > 1 else np.nan
    low, high = stats.t.interval(CONFIDENCE, n - 1, mean, sd / np.sqrt(n)) if n > 1 and sd > 0 else (mean + 0 * sd,) * 2
    summary = {"mean": mean, "sd": sd, "low": low, "high": high, "lowest": values.min(), "highest": values.max()}
    return {"n": n, **{name: float(value) for name, value in summary.items()}}


def paired_difference(first, second):
    """Return `mean_interval` of first - second, float (n,) each, of the same seeds in the same order."""
    return mean_interval(np.subtract(first, second))


def is_significant(interval):
    """Return whether a 95% interval lies wholly above or below 0; interval: a dict with low and high.

    One without width, but for rounding, does not: equal values do not show how far others may lie.
    """
    has_width = not np.isclose(interval["low"], interval["high"], rtol=0, atol=1e-9)
    return bool(has_width and (interval["low"] > 0 or interval["high"] < 0))


def variance_components(groups):
    """Split a metric's variance into that between groups and that within them, by one-way analysis of variance.

    groups: float (groups, n), n values each. Keys: between_sd (0 when the estimate is negative), within_sd, and share
    (between, of the sum of both variances) with its 95% interval low and high, exact for normal values (Searle,
    Linear Models, 1971, ch. 9). The last three are NaN for equal values.
    """
    groups = np.asarray(groups, dtype=float)
    count, n = groups.shape
    degrees = count - 1, count * (n - 1)
    between, within = n * groups.mean(1).var(ddof=1), groups.var(axis=1, ddof=1).mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = between / within
        bounds = [ratio / stats.f.ppf(quantile, *degrees) for quantile in (0.5 + CONFIDENCE / 2, 0.5 - CONFIDENCE / 2)]
        share, low, high = (float(np.clip(1 - n / (f + n - 1), 0, 1)) for f in (ratio, *bounds))
    between_sd = float(np.sqrt(max(between - within, 0) / n))
    return {"between_sd": between_sd, "within_sd": float(np.sqrt(within)), "share": share, "low": low, "high": high}


def percent(interval, digits=1):
    """Return a mean share with its interval as text, such as 72.1% [71.0, 73.2]; a single seed has no interval."""
    return f"{100 * interval['mean']:.{digits}f}%{bounds(interval, digits, clip=True)}"


def points(interval):
    """Return a difference with its sign and interval in percentage points, such as +3.1 points [2.0, 4.2]."""
    return f"{100 * interval['mean']:+.1f} points{bounds(interval, 1)}"


def judged(interval):
    """Return a difference as `points` does, and that it is not distinguishable from zero where its interval says so."""
    return points(interval) + ("" if is_significant(interval) else ", not distinguishable from zero")


def bounds(interval, digits, clip=False):
    """Return the bounds of an interval of shares as text, in percent; clip: to what a share can be.

    In a study's JSON record None stands for NaN.
    """
    ends = np.array([interval["low"], interval["high"]], dtype=float) * 100
    if not np.isfinite(ends).all():
        return " (one seed, no interval)"
    low, high = ends.clip(0, 100) if clip else ends
    return f" [{low:.{digits}f}, {high:.{digits}f}]"
