"""How far the number of training images explains which classes a network recognises."""

import numpy as np
import scipy

from common import metrics

RESAMPLES = 2000
UNDEFINED = float("nan")


def logistic_fit(correct, tested, x):
    """Return the logistic regression of correct/incorrect on `x`, one value per class, by maximum likelihood.

    correct, tested: int (m,), correct predictions among the test images of each class; x: float (m,). A class weighs
    what its images weigh. Keys: intercept, slope, and slope_interval, 95 %, with the classes as units: the standard
    error is that of the quasi-binomial model (McCullagh & Nelder 1989, section 4.5), scaled by Pearson's dispersion
    where the classes scatter more than their images do, and Student's t has m - 2 degrees of freedom. Simulated with
    classes that scatter by 0 to 1.5 in log odds, at Galaxy10's and EFIGI's counts, the interval holds the true slope
    in 94 to 99 % of 1,500 runs, where the binomial one does in 17 to 99 %. NaN where nothing can be fitted: fewer
    than three classes, or one value of x that separates all correct predictions from all incorrect ones.
    """
    correct, tested, x = (np.asarray(values, dtype=float) for values in (correct, tested, x))
    hit, missed = x[correct > 0], x[correct < tested]
    separable = not (len(hit) and len(missed)) or hit.min() >= missed.max() or hit.max() <= missed.min()
    if len(x) < 3 or separable:
        return {"intercept": UNDEFINED, "slope": UNDEFINED, "slope_interval": [UNDEFINED, UNDEFINED]}
    scale = np.ptp(x)
    design = np.column_stack([np.ones_like(x), (x - x.mean()) / scale])
    weights = np.zeros(2)
    for _ in range(100):  # Newton's method; steps of at most 2 keep the first ones from overshooting
        share = scipy.special.expit(design @ weights)
        information = design.T @ (design * (tested * share * (1 - share))[:, None])
        step = np.linalg.solve(information, design.T @ (correct - tested * share))
        weights += step * min(1, 2 / np.abs(step).max()) if step.any() else 0
        if np.abs(step).max() < 1e-12:
            break
    share = scipy.special.expit(design @ weights)
    spread = tested * share * (1 - share)
    dispersion = max(1, ((correct - tested * share) ** 2 / spread).sum() / (len(x) - 2))
    error = np.sqrt(dispersion * np.linalg.inv(design.T @ (design * spread[:, None]))[1, 1]) / scale
    slope, half = weights[1] / scale, scipy.stats.t.ppf(0.975, len(x) - 2) * error
    return {
        "intercept": float(weights[0] - slope * x.mean()),
        "slope": float(slope),
        "slope_interval": [float(slope - half), float(slope + half)],
    }


def rank_correlation(correct, tested, x, seed):
    """Return Spearman's correlation of recall and `x` over the classes, and its 95 % interval by resampling.

    Each of 2,000 resamples generates every class's recall from Beta(correct + 1/2, incorrect + 1/2): the Bayesian
    bootstrap of its test images, with Jeffreys' prior, which also lets a recall of 0 or 100 % on few images vary.
    The interval (quantiles, widened to hold the value itself) covers other test images of the same classes. It does
    not cover other classes, of which there are at most eight, nor another training. NaN where recall or x is constant.
    """
    correct, tested, x = (np.asarray(values, dtype=float) for values in (correct, tested, x))
    recall = correct / tested
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(recall) == 0:
        return UNDEFINED, [UNDEFINED, UNDEFINED]
    value = float(scipy.stats.spearmanr(x, recall).statistic)
    resampled = np.random.default_rng(seed).beta(correct + 0.5, tested - correct + 0.5, (RESAMPLES, len(x)))
    ranks, x_ranks = (scipy.stats.rankdata(each, axis=-1) - (len(x) + 1) / 2 for each in (resampled, x))
    values = ranks @ x_ranks / np.sqrt((ranks**2).sum(1) * (x_ranks**2).sum())
    low, high = np.quantile(values, (0.025, 0.975))
    return value, [float(min(low, value)), float(max(high, value))]


def recall_against_count(matrix, train_counts, seed=0):
    """Return how recall goes with the number of training images, over the classes that have both.

    matrix: confusion matrix, int (k, k); train_counts: int (k,). Keys: classes, the number of classes; spearman and
    spearman_interval (`rank_correlation`); slope, of the log odds of a correct prediction per factor of ten in the
    count, and slope_interval (`logistic_fit`); expected_recall, that of the fit, float (k,), NaN where undefined; and
    relation: rises or falls, where both intervals exclude zero on the same side, or else cannot be told.
    """
    counts, tested = np.asarray(train_counts), matrix.sum(1)
    used = np.flatnonzero((tested > 0) & (counts > 0))
    x, correct = np.log10(counts[used]), np.diag(matrix)[used]
    spearman, spearman_interval = rank_correlation(correct, tested[used], x, seed)
    fit = logistic_fit(correct, tested[used], x)
    expected = np.full(len(matrix), np.nan)
    expected[used] = scipy.special.expit(fit["intercept"] + fit["slope"] * x)
    intervals = (spearman_interval, fit["slope_interval"])
    relation = "cannot be told"
    if all(low > 0 for low, _ in intervals):
        relation = "rises"
    elif all(high < 0 for _, high in intervals):
        relation = "falls"
    return {
        "classes": len(used),
        "spearman": spearman,
        "spearman_interval": spearman_interval,
        "slope": fit["slope"],
        "slope_interval": fit["slope_interval"],
        "expected_recall": expected.tolist(),
        "relation": relation,
    }


def effect_of_adjustment(matrix, adjusted_matrix, labels, before, after):
    """Return what the adjusted predictions change, paired on the same test images.

    matrix, adjusted_matrix: confusion matrices, int (k, k), of before and after, the predictions, int (n,), of images
    with these labels. Keys: accuracy, balanced_accuracy, each [before, after]; accuracy_p_value (McNemar); and per
    class recall and recall_interval after; gained and lost, images that only the adjusted or only the plain
    prediction gets right; p_value, McNemar's exact one after Holm's correction for the number of classes.
    """
    labels, before, after = (np.asarray(values) for values in (labels, before, after))
    tests = [
        metrics.mcnemar(after[labels == label] == label, before[labels == label] == label)
        for label in range(len(matrix))
    ]
    tested = np.flatnonzero(matrix.sum(1))
    p_values = np.full(len(matrix), np.nan)
    p_values[tested] = metrics.holm([tests[label]["p_value"] for label in tested])
    return {
        "accuracy": [int(np.trace(each)) / len(labels) for each in (matrix, adjusted_matrix)],
        "balanced_accuracy": [metrics.balanced_accuracy(each) for each in (matrix, adjusted_matrix)],
        "accuracy_p_value": metrics.mcnemar(after == labels, before == labels)["p_value"],
        "confusion": adjusted_matrix.tolist(),
        "recall": metrics.per_class(adjusted_matrix)["recall"].tolist(),
        "recall_interval": metrics.recall_intervals(adjusted_matrix).tolist(),
        "gained": [test["first_only"] for test in tests],
        "lost": [test["second_only"] for test in tests],
        "p_value": p_values.tolist(),
    }
