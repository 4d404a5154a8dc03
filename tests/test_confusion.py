"""Q4: the confusion matrix, its relation to the training counts, and the causes of the errors."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax
from scipy.stats import binomtest, spearmanr, t
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, recall_score

import q4_confusion
from common import confusion_sentences, imbalance, likeness
from common.metrics import holm
from common.storage.artifacts import without_nan
from submission import discuss

pairs = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=200)


@given(pairs)
def test_confusion_is_sklearns(answers):
    labels, predictions = (np.array(column) for column in zip(*answers, strict=True))
    matrix = q4_confusion.confusion_matrix(torch.from_numpy(predictions), torch.from_numpy(labels), 8)
    assert (matrix == confusion_matrix(labels, predictions, labels=range(8))).all()
    assert (matrix.sum(1) == np.bincount(labels, minlength=8)).all()
    assert np.trace(matrix) / matrix.sum() == (labels == predictions).mean()


def test_rows_are_the_truth_and_columns_the_predictions():
    assert q4_confusion.confusion_matrix([1], [0], 2).tolist() == [[0, 1], [0, 0]]


# The relation of recall and training count

CORRECT, TESTED = np.array([300, 500, 460, 12, 70, 1, 40, 60]), np.array([346, 700, 629, 35, 153, 2, 59, 112])
COUNTS = np.array([2860, 5781, 5199, 288, 1267, 14, 487, 926])


def matrix_of(correct, tested):
    """A confusion matrix with these correct predictions; all errors of a class go to the next one."""
    matrix = np.diag(correct)
    for label, errors in enumerate(np.asarray(tested) - correct):
        matrix[label, (label + 1) % len(matrix)] += errors
    return matrix


def test_the_fit_is_sklearns_logistic_regression_on_the_single_images():
    x = np.log10(COUNTS)
    fit = imbalance.logistic_fit(CORRECT, TESTED, x)
    images = np.repeat(x, TESTED)[:, None]
    right = np.concatenate([np.arange(tested) < correct for correct, tested in zip(CORRECT, TESTED, strict=True)])
    reference = LogisticRegression(C=1e12, tol=1e-10, max_iter=10_000).fit(images, right)
    assert fit["slope"] == pytest.approx(reference.coef_[0, 0], rel=1e-4)
    assert fit["intercept"] == pytest.approx(reference.intercept_[0], rel=1e-3)


def test_the_slopes_interval_is_that_of_the_curvature_times_the_dispersion():
    x = np.log10(COUNTS)
    fit = imbalance.logistic_fit(CORRECT, TESTED, x)
    best = np.array([fit["intercept"], fit["slope"]])

    def loss(weights):
        logits = weights[0] + weights[1] * x
        return (TESTED * np.logaddexp(0, logits) - CORRECT * logits).sum()

    step, unit = 1e-4, np.eye(2)
    gradient = [(loss(best + step * e) - loss(best - step * e)) / (2 * step) for e in unit]
    np.testing.assert_allclose(gradient, 0, atol=1e-4)
    hessian = [
        [
            (loss(best + step * (e + f)) - loss(best + step * (e - f)) - loss(best - step * (e - f))
             + loss(best - step * (e + f))) / (4 * step**2)
            for f in unit
        ]
        for e in unit
    ]  # fmt: skip
    share = 1 / (1 + np.exp(-(best[0] + best[1] * x)))
    pearson = ((CORRECT - TESTED * share) ** 2 / (TESTED * share * (1 - share))).sum()
    assert pearson / 6 > 2  # the classes do scatter more than their images
    half = t.ppf(0.975, 6) * np.sqrt(np.linalg.inv(hessian)[1, 1] * pearson / 6)
    np.testing.assert_allclose(fit["slope_interval"], [best[1] - half, best[1] + half], rtol=1e-4)


@pytest.mark.parametrize(("correct", "tested", "counts"), [
    ([10, 10, 10], [10, 10, 10], [10, 100, 1000]),  # all correct
    ([0, 0, 10], [10, 10, 10], [10, 100, 1000]),  # separated
    ([10, 4, 0], [10, 10, 10], [10, 100, 1000]),  # separated but for one class
    ([4, 5], [10, 10], [10, 100]),  # two classes
    ([4, 5, 6], [10, 10, 10], [100, 100, 100]),  # no difference in the counts
])  # fmt: skip
def test_what_cannot_be_fitted_is_undefined(correct, tested, counts):
    fit = imbalance.logistic_fit(correct, tested, np.log10(counts))
    assert np.isnan([fit["slope"], fit["intercept"], *fit["slope_interval"]]).all()
    against = imbalance.recall_against_count(matrix_of(correct, tested), counts)
    assert against["relation"] == "cannot be told"
    assert np.isnan(against["expected_recall"]).all()


def test_two_test_images_decide_nothing_and_no_recall_above_100_percent_is_expected():
    found = []
    for hits in (0, 1, 2):
        correct = np.where(TESTED == 2, hits, CORRECT)
        found.append(imbalance.recall_against_count(matrix_of(correct, TESTED), COUNTS))
    slopes = [against["slope"] for against in found]
    low, high = found[1]["slope_interval"]
    assert np.ptp(slopes) < (high - low) / 10
    assert len({against["relation"] for against in found}) == 1
    for against in found:
        assert 0 < min(against["expected_recall"]) < max(against["expected_recall"]) < 1


def test_a_class_without_training_or_test_images_is_left_out():
    correct, tested, counts = (np.append(values, extra) for values, extra in
                               ((CORRECT, [0, 0]), (TESTED, [50, 0]), (COUNTS, [0, 70])))  # fmt: skip
    whole, less = (imbalance.recall_against_count(matrix_of(*values[:2]), values[2])
                   for values in ((correct, tested, counts), (CORRECT, TESTED, COUNTS)))  # fmt: skip
    assert whole["classes"] == 8
    assert whole["slope"] == less["slope"]
    assert np.isnan(whole["expected_recall"][8:]).all()


def test_the_rank_correlation_is_scipys_and_its_interval_that_of_a_loop_over_resamples():
    x = np.log10(COUNTS)
    value, interval = imbalance.rank_correlation(CORRECT, TESTED, x, seed=3)
    assert value == pytest.approx(spearmanr(CORRECT / TESTED, COUNTS).statistic)
    resampled = np.random.default_rng(3).beta(CORRECT + 0.5, TESTED - CORRECT + 0.5, (2000, 8))
    values = [spearmanr(recall, x).statistic for recall in resampled[:300]]
    low, high = np.quantile(values, (0.025, 0.975))
    assert interval == pytest.approx([low, high], abs=0.15)
    assert interval[0] <= value <= interval[1]
    assert np.isnan(imbalance.rank_correlation([1, 1, 1], [2, 2, 2], x[:3], 0)[0])


@pytest.mark.parametrize(("recalls", "relation"), [
    ([0.80, 0.90, 0.88, 0.45, 0.7, 0.1, 0.55, 0.65], "rises"),
    ([0.40, 0.25, 0.30, 0.80, 0.5, 0.9, 0.75, 0.60], "falls"),
    ([0.60, 0.65, 0.70, 0.62, 0.5, 0.6, 0.75, 0.66], "cannot be told"),
])  # fmt: skip
def test_the_relation_is_told_where_both_intervals_agree(recalls, relation):
    tested = np.array([350, 700, 630, 200, 150, 100, 200, 110])
    correct = np.round(tested * recalls).astype(int)
    assert imbalance.recall_against_count(matrix_of(correct, tested), COUNTS)["relation"] == relation


# Logit adjustment


def test_adjusted_logits_are_the_log_posterior_of_a_balanced_training_set():
    generator = torch.Generator().manual_seed(0)
    logits, counts = torch.randn(200, 4, generator=generator, dtype=torch.float64), [700, 200, 90, 10]
    adjusted = log_softmax(q4_confusion.adjust_logits(logits, counts).numpy(), axis=1)
    likelihood = torch.softmax(logits, 1).numpy() / (np.array(counts) / 1000)  # times an equal prior
    np.testing.assert_allclose(np.exp(adjusted), likelihood / likelihood.sum(1, keepdims=True), rtol=1e-9)
    balanced = q4_confusion.adjust_logits(logits, [5, 5, 5, 5])
    assert (balanced.argmax(1) == logits.argmax(1)).all()


def test_a_class_without_training_images_is_never_predicted_after_adjusting():
    logits = torch.tensor([[9.0, 1.0, 0.0], [9.0, 0.0, 1.0]])
    adjusted = q4_confusion.adjust_logits(logits, [0, 10, 10])
    assert adjusted.argmax(1).tolist() == [1, 2]
    assert not adjusted.isnan().any()


def test_the_effect_of_adjustment_is_counted_image_by_image():
    rng = np.random.default_rng(0)
    labels, before, after = rng.integers(0, 3, (3, 400))
    after = np.where(rng.random(400) < 0.3, labels, after)
    effect = imbalance.effect_of_adjustment(
        *(confusion_matrix(labels, each, labels=range(4)) for each in (before, after)), labels, before, after
    )
    raw = []
    for label in range(3):
        gained = sum(b != label == a for y, b, a in zip(labels, before, after, strict=True) if y == label)
        lost = sum(a != label == b for y, b, a in zip(labels, before, after, strict=True) if y == label)
        assert (effect["gained"][label], effect["lost"][label]) == (gained, lost)
        raw.append(binomtest(gained, gained + lost).pvalue)
    np.testing.assert_allclose(effect["p_value"][:3], holm(raw))
    assert np.isnan([effect["p_value"][3], effect["recall"][3], *effect["recall_interval"][3]]).all()
    assert effect["accuracy"] == [(before == labels).mean(), (after == labels).mean()]
    assert effect["balanced_accuracy"] == pytest.approx(
        [balanced_accuracy_score(labels, each) for each in (before, after)]
    )
    assert effect["recall"][:3] == pytest.approx(recall_score(labels, after, average=None).tolist())


# Likeness


def test_distances_are_those_of_the_means_over_the_spread_along_their_line():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [4000, 3000, 9])
    features = rng.normal(0, [1, 5], (len(labels), 2)) + np.array([[0, 0], [3, 0], [9, 9]])[labels]
    distances = likeness.feature_distances(features, labels, 4)
    assert distances[0, 1] == distances[1, 0] == pytest.approx(3, abs=0.15)  # the other axis does not count
    assert np.isnan(distances[2:]).all()  # nine images, and none
    assert distances[0, 0] == 0
    exact = likeness.feature_distances(np.tile([[-1.0], [1.0]], (10, 1)) + np.repeat([[0], [4]], 10, axis=0),
                                       np.repeat([0, 1], 10), 2)  # fmt: skip
    assert exact[0, 1] == pytest.approx(4 / np.sqrt(10 / 9))
    same = likeness.feature_distances(np.zeros((40, 3)), np.repeat([0, 1], 20), 2)
    assert same[0, 1] == 0
    apart = likeness.feature_distances(np.repeat([[0.0], [1.0]], 20, axis=0), np.repeat([0, 1], 20), 2)
    assert np.isnan(apart[0, 1])  # no spread to measure in


def test_the_interval_of_a_distance_holds_it_in_95_percent():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        features = np.concatenate([rng.normal(0, 1, 40), rng.normal(1.5, 1, 60)])[:, None]
        low, high = likeness.distance_interval(
            likeness.feature_distances(features, np.repeat([0, 1], [40, 60]), 2)[0, 1], 40, 60
        )
        hits += low < 1.5 < high
    assert 0.92 < hits / 400 < 0.98


def random_matrix(rng, tested, recall, share):
    """A confusion matrix of the null model: errors go to the other classes in proportion to `share`."""
    matrix = np.zeros((len(tested), len(tested)), dtype=int)
    for label, count in enumerate(tested):
        others = np.where(np.arange(len(tested)) == label, 0, share)
        correct = rng.binomial(count, recall)
        matrix[label] = rng.multinomial(count - correct, others / others.sum())
        matrix[label, label] = correct
    return matrix


def test_expected_errors_follow_how_often_the_other_classes_are_predicted():
    matrix = np.array([[60, 30, 10], [10, 80, 10], [0, 0, 0]])
    expected = likeness.expected_confusions(matrix)
    # 70, 110 and 20 of 200 predictions; 40 errors of class 0, 20 of class 1
    np.testing.assert_allclose(
        expected, [[0, 40 * 110 / 130, 40 * 20 / 130], [20 * 70 / 90, 0, 20 * 20 / 90], [0, 0, 0]]
    )
    np.testing.assert_allclose(expected.sum(1), matrix.sum(1) - np.diag(matrix))
    assert (likeness.expected_confusions(np.array([[5, 0], [0, 0]])) == 0).all()


def test_by_frequency_alone_no_pair_is_confused_beyond_expectation():
    rng = np.random.default_rng(0)
    tested, near = np.array([350, 700, 630, 40, 150, 60, 60, 110]), np.ones((8, 8))
    found = 0
    for _ in range(60):
        matrix, other = (random_matrix(rng, tested, 0.7, tested) for _ in range(2))
        found += any(pair["alike"] for pair in likeness.confused_pairs(matrix, other, near))
    assert found <= 3  # 5 % of 60


def pair_of(matrix, distances, classes=(0, 1), adjusted=None):
    adjusted = matrix if adjusted is None else adjusted
    return next(
        pair for pair in likeness.confused_pairs(matrix, adjusted, distances) if pair["classes"] == list(classes)
    )


def test_a_pair_is_alike_if_confused_both_ways_and_near_or_it_cannot_be_told():
    matrix = np.array([[150, 40, 5, 5], [40, 150, 5, 5], [5, 5, 185, 5], [5, 5, 5, 185]])
    near, far, between, unknown = (np.full((4, 4), value) for value in (1.0, 3.0, 2.0, np.nan))
    pair = pair_of(matrix, near)
    assert pair["alike"] is True
    assert pair["plain"]["p_value"] == pair["adjusted"]["p_value"] < 1e-6
    assert pair["plain"]["confused"] == [40, 40]
    assert [pair_of(matrix, each)["alike"] for each in (far, between, unknown)] == [False, None, None]
    one_way = np.array([[188, 2, 5, 5], [78, 112, 5, 5], [5, 5, 185, 5], [5, 5, 5, 185]])
    assert pair_of(one_way, near)["beyond_expectation"] is not True
    assert pair_of(one_way, near, adjusted=matrix)["beyond_expectation"] is True  # it shows once adjusted
    few = np.array([[3, 2, 0, 0], [2, 3, 0, 0], [0, 0, 5, 0], [0, 0, 0, 5]])
    assert pair_of(few, near)["alike"] is None  # near, and too few to tell
    assert pair_of(few, far * 3)["alike"] is False
    even = np.array([[100, 50, 50, 50], [50, 100, 50, 50], [50, 50, 100, 50], [50, 50, 50, 100]])
    assert pair_of(even, near)["beyond_expectation"] is False


# The causes, on generated classes of which they are known

MEANS = np.array([[0, 0], [3, 0], [40, 0], [40.7, 0], [80, 0], [90, 0], [120, 0], [130, 0]])
TRAIN = np.array([8000, 80, 2000, 2000, 1500, 1200, 800, 900])  # class 1 is rare beside 0; 2 and 3 are twins


def generated(seed, tested, train=TRAIN, means=MEANS):
    """Q4's record for the ideal classifier of normal classes with these means, trained on these counts."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(8), tested)
    features = means[labels] + rng.normal(size=(len(labels), 2))
    log_likelihood = -0.5 * ((features[:, None] - means) ** 2).sum(-1)
    with np.errstate(divide="ignore"):
        logits = torch.from_numpy(np.maximum(log_likelihood + np.log(train / train.sum()), -1e4))
    distances = likeness.feature_distances(features, labels, 8)
    results = q4_confusion.analyse(logits, torch.from_numpy(labels), train.tolist(), distances, seed)
    return without_nan(
        {
            "source": "file:x",
            "class_names": [f"Class {letter}" for letter in "ABCDEFGH"],
            "train_counts": train.tolist(),
            "test_counts": np.bincount(labels, minlength=8).tolist(),
            "models": {"fcn": results},
        }
    )


def causes(record):
    return [found["cause"] for found in record["models"]["fcn"]["causes"]]


@pytest.mark.parametrize("seed", range(20))
def test_rarity_is_told_from_overlap_and_a_few_images_tell_neither(seed):
    assert causes(generated(seed, [600, 120, 400, 400, 50, 50, 50, 50]))[1:4] == ["imbalance", "likeness", "likeness"]
    few = causes(generated(seed, [60, 3, 4, 4, 5, 5, 5, 0]))
    assert few[1] in ("cannot be told", "no errors")
    assert set(few[2:4]) <= {"cannot be told", "no errors", "likeness"}
    medium = causes(generated(seed, [150, 15, 30, 30, 20, 20, 20, 20]))
    assert medium[1] in ("imbalance", "cannot be told", "no errors")
    assert set(medium[2:4]) <= {"likeness", "cannot be told"}


def test_a_rare_class_that_overlaps_a_frequent_one_has_both_causes():
    means = MEANS.copy()
    means[1] = [1.2, 0]
    assert causes(generated(0, [2000, 500, 400, 400, 50, 50, 50, 50], means=means))[1] == "both"


def test_a_class_without_training_images_has_that_cause_and_the_others_keep_theirs():
    train = np.where(np.arange(8) == 1, 0, TRAIN)
    record = generated(0, [600, 120, 400, 400, 50, 50, 50, 0], train)
    assert causes(record)[1:5] == ["no training images", "likeness", "likeness", "no errors"]
    assert causes(record)[7] == "no test images"
    assert record["models"]["fcn"]["adjusted"]["recall"][1] == 0


def cause_of(gained, lost, p_value, remaining, alike):
    """The flags and cause of class 0 with as many images gained, and as many errors remaining as class 1 and 2."""
    adjustment = {"gained": [gained, 0, 0], "lost": [lost, 0, 0], "p_value": [p_value, 1, 1]}
    before = np.array([2] * gained + [1] * remaining[0] + [2] * remaining[1] + [0] * 50)
    after = np.array([0] * gained + [1] * sum(remaining) + [0] * 50)
    pairs_ = [{"classes": [0, 1], "alike": alike}, {"classes": [0, 2], "alike": False}]
    found = likeness.error_causes(np.zeros(len(before), int), before, after, adjustment, pairs_, [9, 9, 9])[0]
    assert found["errors"] == gained + sum(remaining)
    return found["imbalance"], found["likeness"], found["cause"]


@pytest.mark.parametrize(("arguments", "expected"), [
    ((40, 2, 1e-6, (30, 5), True), (True, True, "both")),
    ((40, 2, 1e-6, (5, 30), True), (True, False, "imbalance")),
    ((40, 2, 1e-6, (17, 18), True), (True, None, "imbalance")),
    ((40, 2, 1e-6, (30, 5), None), (True, None, "imbalance")),
    ((2, 1, 1.0, (30, 5), True), (False, True, "likeness")),
    ((20, 18, 1.0, (20, 2), True), (None, True, "likeness")),
    ((2, 40, 1e-6, (30, 5), False), (False, False, "neither")),
    ((2, 40, 1e-6, (30, 5), None), (False, None, "cannot be told")),
    ((1, 0, 1.0, (1, 0), True), (None, None, "cannot be told")),
    ((0, 0, 1.0, (0, 0), True), (False, False, "no errors")),
])  # fmt: skip
def test_the_cause_follows_from_both_measurements(arguments, expected):
    assert cause_of(*arguments) == expected


# The sentences and the table


@pytest.fixture(scope="module")
def record():
    return generated(0, [600, 120, 400, 400, 50, 50, 50, 0])


def test_the_table_has_every_class_with_its_cause_in_120_columns(record):
    long = copy.deepcopy(record)
    long["class_names"] = ["Disk, Edge-on, Rounded Bulge"] * 8
    long["train_counts"][1] = 0
    long["models"]["fcn"]["causes"][1]["cause"] = "no training images"
    for each in (record, long):
        lines = confusion_sentences.recall_table(each, "fcn").splitlines()
        assert len(lines) == 9
        assert max(map(len, lines)) <= 120
        for line, cause in zip(lines[1:], causes(each), strict=True):
            assert line.endswith(cause)
    assert "3 (" in confusion_sentences.recall_table(record, "fcn").splitlines()[3]


def test_errors_go_to_the_most_frequent_other_class_or_to_several():
    assert confusion_sentences.most_predicted_as([5, 9, 3, 0], 1) == ([0], 5)
    assert confusion_sentences.most_predicted_as([5, 9, 5, 0], 1) == ([0, 2], 5)
    assert confusion_sentences.most_predicted_as([0, 9, 0, 0], 1)[0] == []


def test_the_discussion_names_lowest_recalls_with_interval_and_counts(record):
    text = discuss.discuss_confusion(record)
    low, high = record["models"]["fcn"]["recall_interval"][1]
    assert f"95 % interval {low:.1%} to {high:.1%}; 80 training images; errors most often predicted as Class A" in text
    assert "of 120 test images" in text
    assert not text.startswith("**SYNTHETIC")
    assert discuss.discuss_confusion(record | {"source": "synthetic"}).startswith("**SYNTHETIC")
    perfect = copy.deepcopy(record)
    perfect["models"]["fcn"]["recall"] = [1.0] * 7 + [None]
    assert confusion_sentences.describe_lowest(perfect, "fcn") == "The FCN makes no error."
    assert "makes no error" not in text


def against(spearman, interval, slope, slope_interval, relation):
    return {"classes": 7, "spearman": spearman, "spearman_interval": interval, "slope": slope,
            "slope_interval": slope_interval, "relation": relation}  # fmt: skip


UNSURE = "whether recall depends on the training count cannot be told from 7 classes"


@pytest.mark.parametrize(("values", "told", "not_told"), [
    ((0.95, [0.8, 1], 2.0, [1, 3], "rises"), ["a strong direct relation", "recall rises", "1.83 times"], [UNSURE]),
    ((-0.95, [-1, -0.8], -2.0, [-3, -1], "falls"), ["a strong inverse relation", "recall falls"], ["rises", UNSURE]),
    ((-0.95, [-1, -0.8], -2.0, [-5, 1], "cannot be told"), ["a strong inverse relation", UNSURE], ["recall falls"]),
    ((0.6, [0.2, 0.8], 2.0, [1, 3], "rises"), ["show a direct relation", "recall rises"], ["strong"]),
    ((-0.6, [-0.8, -0.2], -2.0, [-3, -1], "falls"), ["show an inverse relation", "recall falls"], ["strong"]),
    ((0.3, [-0.2, 0.8], 2.0, [1, 3], "cannot be told"), ["no relation whose sign is", UNSURE], ["recall rises"]),
    ((0.9, [0.7, 1], None, [None, None], "cannot be told"), ["strong direct", "No logistic curve"], ["times as high"]),
    ((None, [None, None], None, [None, None], "cannot be told"), ["cannot be related", "only 7 classes"], ["ranks"]),
])  # fmt: skip
def test_the_relation_is_worded_as_its_intervals_allow(values, told, not_told):
    text = confusion_sentences.describe_relation(against(*values))
    assert all(words in text for words in told)
    assert not any(words in text for words in not_told)


@pytest.mark.parametrize(
    ("p_value", "words"), [(0.001, "unlikely by chance alone"), (0.4, "no significant difference")]
)
def test_adjustment_is_reported_with_both_accuracies(p_value, words):
    adjusted = {"accuracy": [0.7, 0.6], "balanced_accuracy": [0.5, 0.65], "accuracy_p_value": p_value}
    text = confusion_sentences.describe_adjustment(adjusted)
    assert "accuracy goes from 70.0% to 60.0%" in text
    assert "recall of the classes from 50.0% to 65.0%" in text
    assert words in text
    assert text.count("chance alone") + text.count("no significant") == 1


STARTS = {
    "imbalance": "so imbalance causes errors, in: ",
    "likeness": "so likeness causes them, in: ",
    "both": "and likeness most of those that remain, in: ",
    "neither": "Neither imbalance nor likeness explains half of the errors in: ",
    "cannot be told": "From these test images the cause cannot be told in: ",
    "no training images": "Without training images, never to be recognised: ",
    "no errors": "No errors in: ",
    "no test images": "No test images of: ",
}


@pytest.mark.parametrize("cause", STARTS)
def test_each_cause_has_its_sentence_and_no_others(cause):
    found = {"cause": cause, "errors": 1, "remaining": 9, "remaining_alike": 7, "imbalance": True,
             "likeness": cause in ("likeness", "both")}  # fmt: skip
    results = {"adjusted": {"gained": [5], "lost": [1]}, "causes": [found]}
    sentences = confusion_sentences.describe_classes(["Round"], results)
    assert len(sentences) == 1
    assert [key for key, start in STARTS.items() if start + "Round" in sentences[0]] == [cause]
    assert "cannot be told)" not in sentences[0]
    assert "1 errors" not in sentences[0]
    assert ("7 of the remaining 9 errors" in sentences[0]) == (cause == "both")
    found |= {"imbalance": None if cause == "likeness" else True, "likeness": None if cause == "imbalance" else True}
    open_too = {"imbalance": "whether the rest is likeness", "likeness": "whether imbalance adds to it"}
    if cause in open_too:
        assert open_too[cause] in confusion_sentences.describe_classes(["Round"], results)[0]


def test_pairs_are_named_with_how_much_more_they_are_confused_and_how_near_they_are():
    tests = {"plain": {"confused": [30, 25], "expected": [5.1, 6], "p_value": 0.001},
             "adjusted": {"confused": [40, 5], "expected": [6, 5], "p_value": 0.9}}  # fmt: skip
    pair = {"classes": [0, 1], "distance": 1.2, "near": True, "beyond_expectation": True, **tests}
    text = confusion_sentences.describe_pairs(["Cigar", "Edge-on"], [pair])
    assert "Cigar and Edge-on (30 where 5.1 are expected and 25 where 6.0 are expected; " in text
    swapped = confusion_sentences.describe_pairs(
        ["Cigar", "Edge-on"], [pair | {"plain": tests["adjusted"], "adjusted": tests["plain"]}]
    )
    assert "25 where 6.0 are expected, with adjusted logits; " in swapped
    assert "1.2 spreads apart, near)" in text
    assert "not near)" in confusion_sentences.describe_pairs(["Cigar", "Edge-on"], [pair | {"near": False}])
    unknown = confusion_sentences.describe_pairs(["Cigar", "Edge-on"], [pair | {"near": None, "distance": None}])
    assert "whether near cannot be told" in unknown
    assert "spreads apart" not in unknown
    for beyond in (False, None):
        none = confusion_sentences.describe_pairs(["Cigar", "Edge-on"], [pair | {"beyond_expectation": beyond}])
        assert none.startswith("No pair of classes is certain")


def test_a_record_of_an_earlier_version_is_refused_in_a_sentence(record):
    old = copy.deepcopy(record)
    del old["models"]["fcn"]["causes"]
    with pytest.raises(ValueError, match="earlier version of q4_confusion"):
        discuss.discuss_confusion(old)
