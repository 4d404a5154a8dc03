from studies.calibration import calibration_error, equal_bins
from studies.methods.statistics import judged, mean_interval, variance_components
from studies.methods.training import head_accuracy
from studies.seeds import nearest_neighbours
from studies.transfer import epochs_for
from use.temperature import fit_temperature, negative_log_likelihood

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from torch.nn.functional import cross_entropy


def test_the_interval_of_a_mean_matches_a_t_test():
    values = np.random.default_rng(0).normal(0.7, 0.02, 7)
    interval = mean_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (interval["low"], interval["high"]) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert interval["sd"] == pytest.approx(stats.tstd(values), rel=1e-12)
    assert (interval["lowest"], interval["highest"], interval["n"]) == (values.min(), values.max(), 7)


@pytest.mark.parametrize(("values", "significant"), [
    ([0.1, 0.11], True), ([-0.1, -0.11, -0.1], True), ([-0.1, 0.2], False),
    ([0.5, 0.5], False), ([0.1, 0.1, 0.1], False)])  # fmt: skip
def test_a_difference_is_judged_by_its_interval_but_never_from_equal_values(values, significant):
    assert judged(mean_interval(values)).endswith(", not distinguishable from zero") != significant


def test_a_single_value_has_no_interval_and_no_judgement():
    interval = mean_interval([0.4])
    assert np.isnan([interval["sd"], interval["low"], interval["high"]]).all()
    from_json = interval | dict.fromkeys(("sd", "low", "high"))
    assert judged(interval) == judged(from_json) == "+40.0 points (one seed, no interval)"


def test_variance_components_match_an_analysis_of_variance():
    groups = np.random.default_rng(3).normal(size=(4, 5)) + np.array([0, 1, 2, 3])[:, None]
    parts, anova = variance_components(groups), stats.f_oneway(*groups)
    within = np.mean([np.var(group, ddof=1) for group in groups])
    assert parts["within_sd"] ** 2 == pytest.approx(within, rel=1e-12)
    assert parts["between_sd"] ** 2 == pytest.approx((anova.statistic - 1) * within / 5, rel=1e-9)
    assert parts["share"] == pytest.approx(parts["between_sd"] ** 2 / (parts["between_sd"] ** 2 + within), rel=1e-9)
    assert 0 <= parts["low"] < parts["share"] < parts["high"] <= 1


def test_the_interval_covers_the_share_of_the_variance():
    rng, covered = np.random.default_rng(4), []
    for _ in range(500):
        groups = rng.normal(0, 2, (4, 1)) + rng.normal(0, 1, (4, 4))
        parts = variance_components(groups)
        covered.append(parts["low"] <= 0.8 <= parts["high"])
    assert np.mean(covered) >= 0.93


def test_variance_components_without_variance_within_groups_or_at_all():
    parts = variance_components([[1.0, 1.0], [2.0, 2.0]])
    assert (parts["share"], parts["low"], parts["high"], parts["within_sd"]) == (1, 1, 1, 0)
    assert np.isnan(variance_components([[1.0, 1.0], [1.0, 1.0]])["share"])


def test_the_calibration_error_matches_a_loop_over_bins():
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.6, 1, 203)
    correct = rng.random(203) < confidence - 0.1
    order, error = sorted(range(203), key=lambda i: confidence[i]), 0
    for group in np.array_split(order, 10):
        error += abs(sum(correct[i] for i in group) - sum(confidence[i] for i in group)) / 203
    assert calibration_error(confidence, correct) == pytest.approx(error, rel=1e-12)
    with pytest.raises(ValueError, match="9 predictions are too few for 10 reliability bins"):
        equal_bins(confidence[:9], correct[:9])


def test_a_known_temperature_is_recovered_and_agrees_with_a_grid_search():
    rng = np.random.default_rng(0)
    calibrated = rng.normal(0, 2, (20000, 4))
    labels = (rng.random((20000, 1)) > softmax(calibrated, axis=1).cumsum(1)).sum(1).clip(max=3)
    logits = (2.5 * calibrated).astype(np.float32)  # over-confident by a factor of 2.5
    assert fit_temperature(logits, labels) == pytest.approx(2.5, rel=0.03)
    few = logits[:150], labels[:150]
    grid = np.exp(np.linspace(-1, 3, 4001))
    losses = [negative_log_likelihood(*few, temperature) for temperature in grid]
    assert fit_temperature(*few) == pytest.approx(grid[np.argmin(losses)], rel=0.001)
    expected = cross_entropy(torch.from_numpy(few[0]).double() / 1.7, torch.from_numpy(few[1])).item()
    assert negative_log_likelihood(*few, 1.7) == pytest.approx(expected, rel=1e-12)


def slow_head_accuracy(features, labels, test_features, test_labels, seed):
    """Return the result of `head_accuracy`, computed step by step, and the losses by strength."""

    def fitted(rows, strength):
        mean, sd = features[rows].mean(0), features[rows].std(0)
        head = LogisticRegression(C=strength, max_iter=1000).fit((features[rows] - mean) / sd, labels[rows])
        return head, lambda some: (some - mean) / sd

    counts = np.bincount(labels)
    several = np.flatnonzero(counts[labels] > 1)
    folds = StratifiedKFold(min(5, counts[counts > 1].min()), shuffle=True, random_state=seed)
    losses = []
    for strength in (1e-4, 1e-3, 1e-2, 1e-1, 1, 10):
        total = 0
        for kept, left_out in folds.split(features[several], labels[several]):
            head, scaled = fitted(several[kept], strength)
            rows = several[left_out]
            logits = head.decision_function(scaled(features[rows]))
            logits = np.stack((np.zeros_like(logits), logits), axis=1) if logits.ndim == 1 else logits
            places = np.searchsorted(head.classes_, labels[rows])
            total -= log_softmax(logits, axis=1)[range(len(rows)), places].mean()
        losses.append(total)
    head, scaled = fitted(np.arange(len(labels)), (1e-4, 1e-3, 1e-2, 1e-1, 1, 10)[np.argmin(losses)])
    return (head.predict(scaled(test_features)) == test_labels).mean(), losses


@pytest.mark.parametrize(("counts", "distance"), [((60, 40), 0.3), ((20, 30, 3), 1.0), ((40, 40, 1), 3.0)])
def test_a_heads_regularisation_minimises_the_cross_entropy_in_cross_validation(counts, distance):
    rng = np.random.default_rng(5)
    labels, test_labels = np.repeat(range(len(counts)), counts), np.arange(300) % len(counts)
    train, test = (
        (rng.normal(size=(len(each), 12)) + distance * np.eye(12)[each]).astype(np.float32)
        for each in (labels, test_labels)
    )
    expected, losses = slow_head_accuracy(train.astype(float), labels, test.astype(float), test_labels, seed=2)
    assert len(set(np.round(losses, 6))) == 6  # the losses differ, so the choice matters
    pairs = [tuple(map(torch.from_numpy, pair)) for pair in ((train, labels), (test, test_labels))]
    assert head_accuracy(*pairs, seed=2) == expected


def test_a_head_trained_on_one_class_predicts_it():
    features, labels = torch.randn(3, 4), torch.tensor([0, 1, 1])
    assert head_accuracy((features, torch.ones(3, dtype=torch.int64)), (features, labels), seed=0) == 2 / 3


def test_fewer_galaxies_get_more_epochs_for_the_same_number_of_steps():
    assert epochs_for(800, 800, 50, batch_size=64) == 50
    for size in (25, 50, 100, 200, 400):
        batches = -(-size // 64)
        assert 650 <= epochs_for(size, 800, 50, batch_size=64) * batches < 650 + batches


def test_nearest_neighbours_recognize_identical_images():
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(256, (8, 3, 69, 69), dtype=torch.uint8, generator=generator)
    data = {}
    for subset, count in (("train", 80), ("test", 16)):
        data[f"main_{subset}_labels"] = torch.arange(count) % 8
        data[f"main_{subset}_images"] = patterns[torch.arange(count) % 8]
    assert nearest_neighbours(data, seed=0)["test_accuracy"] == 1
