"""How sure a mean over seeds is: intervals, differences, parts of a variance."""

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
REPLICATES = 500  # of a bootstrap: its standard deviation is then known to 3 %


def mean_interval(values):
    """Return the mean of a metric over seeds with its 95 % t-interval: keys n, mean, sd, low, high, lowest, highest.

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


def certain_sign(interval):
    """Return 1 or -1 when a 95 % interval lies wholly above or below 0, else 0; interval: a dict with low and high.

    Also 0 for an interval without width, of equal values: from these nothing tells how far others may lie.
    """
    if interval["low"] == interval["high"]:
        return 0
    return int(interval["low"] > 0) - int(interval["high"] < 0)


def variance_parts(groups):
    """Split a metric's variance into that between groups and that within them, by one-way analysis of variance.

    groups: float (groups, n), n values each. Keys: between_sd (0 when the estimate is negative), within_sd, share
    (between, of the sum of both variances) with its 95 % interval low and high, exact for normal values (Searle,
    Linear Models, 1971, ch. 9), and p_value, of no variance between. The last four are NaN for equal values.
    """
    groups = np.asarray(groups, dtype=float)
    count, n = groups.shape
    degrees = count - 1, count * (n - 1)
    between, within = n * groups.mean(1).var(ddof=1), groups.var(axis=1, ddof=1).mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = between / within
        bounds = [ratio / stats.f.ppf(quantile, *degrees) for quantile in (0.5 + CONFIDENCE / 2, 0.5 - CONFIDENCE / 2)]
        share, low, high = (float(np.clip(1 - n / (f + n - 1), 0, 1)) for f in (ratio, *bounds))
    return {
        "between_sd": float(np.sqrt(max(between - within, 0) / n)),
        "within_sd": float(np.sqrt(within)),
        "share": share,
        "low": low,
        "high": high,
        "p_value": float(stats.f.sf(ratio, *degrees)),
    }


def bootstrap_interval(statistic, samples, seed=0):
    """Return the mean over seeds of a statistic, and its 95 % interval by a bootstrap over seeds and images.

    statistic: from an array of rows to float (k,); samples: for each of n seeds, an array with a row per image.
    Each replicate resamples the seeds, and of each the images. Half the interval is the replicates' standard deviation,
    times sqrt(n / (n - 1)), which resampling n seeds makes too small, times the quantile of t with n - 1 degrees of
    freedom. A few seeds' percentiles would be too narrow; this is never narrower than the t-interval
    on average. Returns three arrays, float (k,): mean, low, high. With one seed only images are resampled.
    """
    rng, n = np.random.default_rng(seed), len(samples)
    replicates = []
    for _ in range(REPLICATES):
        chosen = [samples[i] for i in rng.integers(n, size=n)]
        replicates.append(nan_mean([statistic(each[rng.integers(len(each), size=len(each))]) for each in chosen]))
    mean = nan_mean([statistic(sample) for sample in samples])
    with np.errstate(invalid="ignore"):
        sd = np.sqrt(nan_mean((np.array(replicates) - nan_mean(replicates)) ** 2))
    quantile = stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1) * np.sqrt(n / (n - 1)) if n > 1 else stats.norm.ppf(0.975)
    return mean, mean - quantile * sd, mean + quantile * sd


def nan_mean(rows):
    """Return the mean over rows, float (k,), without NaN; NaN where there is nothing else."""
    rows = np.asarray(rows, dtype=float)
    there = ~np.isnan(rows)
    with np.errstate(invalid="ignore"):
        return np.where(there, rows, 0).sum(0) / there.sum(0)


def percent(interval, digits=1):
    """Return a mean with its interval as text, such as 72.1 % [71.0, 73.2]; a single seed has no interval."""
    return f"{100 * interval['mean']:.{digits}f} %{bounds(interval, digits)}"


def points(interval, digits=1):
    """Return a difference with its sign and interval in percentage points, such as +3.1 points [2.0, 4.2]."""
    return f"{100 * interval['mean']:+.{digits}f} points{bounds(interval, digits)}"


def bounds(interval, digits):
    """Return the bounds of an interval of shares as text, in percent."""
    low, high = 100 * interval["low"], 100 * interval["high"]
    return f" [{low:.{digits}f}, {high:.{digits}f}]" if np.isfinite(low) else " (one seed, no interval)"
