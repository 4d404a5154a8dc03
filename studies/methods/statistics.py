"""Statistics over seeds: means with Student's t intervals, variance components, and their text, tables and figures."""

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


def mean_interval(values):
    """Return the mean of a metric over seeds with its 95% t-interval: keys n, mean, sd, low, high, lowest, highest.

    values: float (n,). For a single value, sd, low and high are NaN. The interval is for the mean over all possible
    seeds with the same file of galaxies.
    """
    values = np.asarray(values, dtype=float)
    n, mean = len(values), values.mean()
    sd = values.std(ddof=1) if n > 1 else np.nan
    low, high = stats.t.interval(CONFIDENCE, n - 1, mean, sd / np.sqrt(n)) if n > 1 and sd > 0 else (mean + 0 * sd,) * 2
    summary = {"mean": mean, "sd": sd, "low": low, "high": high, "lowest": values.min(), "highest": values.max()}
    return {"n": n, **{name: float(value) for name, value in summary.items()}}


def mean_intervals(values):
    """Return `mean_interval` of each column of `values`, float (n, columns)."""
    return [mean_interval(column) for column in np.transpose(values)]


def variance_components(groups):
    """Return the variance components of a metric, between and within groups, by one-way analysis of variance.

    groups: float (groups, n). Keys: between_sd (0 if the estimate is negative), within_sd, and share, the variance
    between groups divided by the sum of both, with its 95% interval low and high, which is exact for normal values
    (Searle, Linear Models, 1971, ch. 9). The last three are NaN if all values are equal.
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


def share_text(interval, digits=1):
    """Return a mean share with its interval, between 0 and 100%, as text, such as 72.1% [71.0, 73.2]."""
    return f"{100 * interval['mean']:.{digits}f}%{bounds_text(interval, digits, lowest=0, highest=100)}"


def points(interval):
    """Return a difference with its sign and interval in percentage points, such as +3.1 points [2.0, 4.2]."""
    return f"{100 * interval['mean']:+.1f} points{bounds_text(interval, 1)}"


def judged(interval):
    """Return a difference as `points` does, with a remark if its interval does not exclude zero.

    An interval of zero width does not count: equal values do not show how much others may differ. A single seed has no
    interval.
    """
    low, high = low_and_high(interval)
    if np.isnan(low):
        return points(interval)
    excludes_zero = (low > 0 or high < 0) and not np.isclose(low, high, rtol=0, atol=1e-9)
    return points(interval) + ("" if excludes_zero else ", not distinguishable from zero")


def low_and_high(interval):
    """Return low and high, float (2,), which are NaN, in a JSON record None, for a single seed."""
    return np.array([interval["low"], interval["high"]], dtype=float)


def bounds_text(interval, digits, lowest=-np.inf, highest=np.inf):
    """Return low and high as text, in percent, clipped to `lowest` and `highest`; a single seed has no interval."""
    low, high = (100 * low_and_high(interval)).clip(lowest, highest)
    if np.isnan(low):
        return " (one seed, no interval)"
    return f" [{low:.{digits}f}, {high:.{digits}f}]"


def table_lines(header, rows):
    """Return a Markdown table as a list of lines; header, rows: values of any type."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines] + [""]


def in_percent(intervals):
    """Return mean, low and high of intervals of shares, float (3, n), in percent, between 0 and 100."""
    shares = np.array([[each[key] for each in intervals] for key in ("mean", "low", "high")], dtype=float)
    return 100 * shares.clip(0, 1)


def draw_band(ax, x, intervals, colour, label, line="-", marker="o", alpha=1.0):
    """Draw means with a band for their intervals; x: float (n,); intervals: n dicts from `mean_interval`."""
    mean, low, high = in_percent(intervals)
    ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    ax.plot(x, mean, line, color=colour, marker=marker, alpha=alpha, label=label)
    ax.grid(alpha=0.25)


def draw_seeds(ax, row, values, interval, colour):
    """Draw accuracies in one row: a point per seed, the mean and its interval; return the right end, in percent."""
    values, (mean, low, high) = 100 * np.array(values), in_percent([interval])
    ax.plot(values, np.full(len(values), row), "o", color=colour, alpha=0.35, markersize=5)
    ax.plot([low[0], high[0]], [row, row], color=colour, linewidth=2)
    ax.plot(mean, [row], "|", color=colour, markersize=14, markeredgewidth=2)
    ax.set_xlabel("test accuracy (%): a point per seed; the line is the 95% interval of their mean")
    ax.grid(alpha=0.25, axis="x")
    return np.nanmax([values.max(), high[0]])
