"""Which classes are confused because they look alike, and why each class is misclassified."""

from itertools import combinations

import numpy as np
import scipy

from common.metrics import accuracy_interval, holm

NEAR = 2  # spreads between two class means: halfway, a normal class has 16 % of its images on the wrong side
FEWEST = 10  # test images of a class for its mean feature to be measured
SIGNIFICANT = 0.05


def feature_distances(features, labels, num_classes):
    """Return how far the classes' mean features lie apart, float64 (num_classes, num_classes), in spreads.

    features: float (n, d); labels: int (n,). The distance of two classes is that of their means, divided by the
    standard deviation within the classes along the line that joins the means (the root of both variances' mean): the
    sensitivity index d' of that line. NaN where a class has fewer than FEWEST images, or no spread.
    """
    features, labels = np.asarray(features, dtype=float), np.asarray(labels)
    distances = np.full((num_classes, num_classes), np.nan)
    groups = {label: features[labels == label] for label in range(num_classes)}
    measured = [label for label, group in groups.items() if len(group) >= FEWEST]
    distances[measured, measured] = 0
    for i, j in combinations(measured, 2):
        difference = groups[i].mean(0) - groups[j].mean(0)
        length = np.linalg.norm(difference)
        if length == 0:
            distances[i, j] = distances[j, i] = 0
            continue
        spread = np.sqrt(np.mean([(groups[label] @ difference / length).var(ddof=1) for label in (i, j)]))
        distances[i, j] = distances[j, i] = length / spread if spread > 0 else np.nan
    return distances


def expected_confusions(matrix):
    """Return how many errors of each class would go to each other class by frequency alone, float64 (k, k).

    The null model: a network that errs on an image of class i predicts class j with probability q_j / (1 - q_i),
    q_j being the share of all its predictions that are j. So classes that are predicted often receive many errors.
    """
    predicted = matrix.sum(0) / matrix.sum()
    errors = matrix.sum(1) - np.diag(matrix)
    others = 1 - predicted[:, None]
    expected = errors[:, None] * np.divide(predicted, others, out=np.zeros(matrix.shape), where=others > 0)
    np.fill_diagonal(expected, 0)
    return expected


def distance_interval(distance, first_count, second_count):
    """Return the 95 % interval of a distance between classes with so many images (Hedges & Olkin 1985, section 5.E)."""
    error = np.sqrt(1 / first_count + 1 / second_count + distance**2 / (2 * (first_count + second_count)))
    return [float(distance - 1.96 * error), float(distance + 1.96 * error)]


def two_way_p_value(confused, errors, expected):
    """Return the larger binomial p-value of two directions: small only if both exceed what is expected.

    confused, errors, expected: two numbers each, of the direction i as j and of j as i.
    """
    directions = zip(confused, errors, expected, strict=True)
    return max(
        float(scipy.stats.binom.sf(count - 1, total, mean / total)) if total else 1.0
        for count, total, mean in directions
    )


def both(first, second):
    """Return the logical and of True, False and None, which stands for unknown."""
    if first is False or second is False:
        return False
    return None if first is None or second is None else True


def two_way_confusions(matrix, pairs):
    """Return, for each pair of classes, its errors in both directions, the expected ones, and whether they exceed them.

    Keys: confused and expected, [i as j, j as i]; p_value, of `two_way_p_value`; detectable: whether twice the expected
    confusions would be significant after Bonferroni's correction for the number of pairs.
    """
    errors, expected = matrix.sum(1) - np.diag(matrix), expected_confusions(matrix)
    found = []
    for i, j in pairs:
        confused, mean = np.array([matrix[i, j], matrix[j, i]]), np.array([expected[i, j], expected[j, i]])
        total = errors[[i, j]]
        doubled = two_way_p_value(np.minimum(np.floor(2 * mean), total), total, mean)
        found.append(
            {
                "confused": confused.tolist(),
                "expected": mean.tolist(),
                "p_value": two_way_p_value(confused, total, mean),
                "detectable": doubled * len(pairs) < SIGNIFICANT,
            }
        )
    return found


def confused_pairs(matrix, adjusted_matrix, distances):
    """Return every pair of classes with test images: whether they are confused more than frequencies imply, and near.

    matrix, adjusted_matrix: confusion matrices, int (k, k), without and with adjusted logits. Both are tested: with
    plain logits a rare class that looks like a frequent one is hardly ever predicted, so that confusion in both
    directions cannot show. distances: of `feature_distances`. Keys of a pair: classes [i, j]; plain and adjusted, of
    `two_way_confusions`, with the p-values after Holm's correction for all tests; beyond_expectation: whether either
    is below 0.05, None if not and either would go undetected; distance, in spreads, with its interval; near: whether
    the interval lies below NEAR, None if it holds it; alike: whether both are so, None if too few images tell.
    """
    pairs = list(combinations(np.flatnonzero(matrix.sum(1)).tolist(), 2))
    plain, adjusted = (two_way_confusions(each, pairs) for each in (matrix, adjusted_matrix))
    for test, p_value in zip(plain + adjusted, holm([test["p_value"] for test in plain + adjusted]), strict=True):
        test["p_value"] = float(p_value)
    found = []
    for (i, j), *tests in zip(pairs, plain, adjusted, strict=True):
        low, high = distance_interval(float(distances[i, j]), *matrix.sum(1)[[i, j]])
        beyond = False if all(test["detectable"] for test in tests) else None
        if min(test["p_value"] for test in tests) < SIGNIFICANT:
            beyond = True
        near = True if high < NEAR else False if low > NEAR else None
        found.append(
            {
                "classes": [i, j],
                "plain": tests[0],
                "adjusted": tests[1],
                "beyond_expectation": beyond,
                "distance": float(distances[i, j]),
                "distance_interval": [low, high],
                "near": near,
                "alike": both(beyond, near),
            }
        )
    return found


def more_than_half(sure, possible, count):
    """Say whether more than half of `count` images are of a kind: True, False, or None if the 95 % interval holds 1/2.

    sure, possible: the images known to be of that kind, and those that may be.
    """
    if count and accuracy_interval(sure, count)[0] > 0.5:
        return True
    return False if not count or accuracy_interval(possible, count)[1] < 0.5 else None


CAUSES = {(True, True): "both", (True, False): "imbalance", (True, None): "imbalance", (False, True): "likeness",
          (None, True): "likeness", (False, False): "neither"}  # fmt: skip


def partners(pairs, label, alike):
    """Return the classes that form a pair with class `label` whose key alike is `alike`: True, False or None."""
    return [sum(pair["classes"]) - label for pair in pairs if label in pair["classes"] and pair["alike"] is alike]


def error_causes(labels, before, after, adjustment, pairs, train_counts):
    """Return, for each class, which of imbalance and likeness its errors come from, or that this cannot be told.

    labels, before, after: int (n,), the predictions without and with adjusted logits; adjustment: of
    `imbalance.effect_of_adjustment`; pairs: of `confused_pairs`. Keys: errors, of the plain predictions; remaining,
    those that adjusting does not correct; remaining_alike, those of them predicted (plainly) as an alike class;
    imbalance: True if adjusting raises the recall significantly, False if it does not and corrects surely less than
    half of the errors; likeness: True if surely more than half of the remaining errors are predicted as an alike
    class, False if surely fewer than half are; None where the 95 % interval leaves it open. cause: imbalance,
    likeness, both, neither or cannot be told; no errors, no test images or no training images where that is it.
    """
    labels, before, after = (np.asarray(values) for values in (labels, before, after))
    causes = []
    for label, count in enumerate(train_counts):
        mine, wrong = labels == label, before != label
        errors, remaining = int((mine & wrong).sum()), before[mine & wrong & (after != label)]
        alike = int(np.isin(remaining, partners(pairs, label, True)).sum())
        unlike = int(np.isin(remaining, partners(pairs, label, False)).sum())
        gained, lost = adjustment["gained"][label], adjustment["lost"][label]
        rises = gained > lost and adjustment["p_value"][label] < SIGNIFICANT
        imbalance = True if rises else False if more_than_half(gained, gained, errors) is False else None
        likeness = more_than_half(alike, len(remaining) - unlike, len(remaining))
        cause = CAUSES.get((imbalance, likeness), "cannot be told")
        if not mine.any():
            cause = "no test images"
        elif not errors:
            cause = "no errors"
        elif not count:
            cause = "no training images"
        causes.append(
            {
                "errors": errors,
                "remaining": len(remaining),
                "remaining_alike": alike,
                "imbalance": imbalance,
                "likeness": likeness,
                "cause": cause,
            }
        )
    return causes
