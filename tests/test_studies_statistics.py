import numpy as np
import pytest
from scipy import stats

from studies.statistics import (
    bootstrap_interval,
    certain_sign,
    mean_interval,
    nan_mean,
    paired_difference,
    variance_parts,
)


def test_the_interval_of_a_mean_is_that_of_a_t_test():
    values = np.random.default_rng(0).normal(0.7, 0.02, 7)
    interval = mean_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (interval["low"], interval["high"]) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert interval["sd"] == pytest.approx(stats.tstd(values), rel=1e-12)
    assert (interval["lowest"], interval["highest"], interval["n"]) == (values.min(), values.max(), 7)


def test_a_paired_difference_is_that_of_the_paired_t_test():
    first, second = np.random.default_rng(1).normal(0.7, 0.02, (2, 5))
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    interval = paired_difference(first, second)
    assert (interval["low"], interval["high"]) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_one_value_has_no_interval_and_equal_ones_tell_no_sign():
    one = mean_interval([0.4])
    assert one["mean"] == 0.4
    assert np.isnan([one["sd"], one["low"], one["high"]]).all()
    assert certain_sign(one) == 0
    equal = mean_interval([0.5, 0.5, 0.5])
    assert (equal["sd"], equal["low"], equal["high"]) == (0, 0.5, 0.5)
    assert certain_sign(equal) == 0
    assert certain_sign({"low": 0.1, "high": 0.2}) == 1
    assert certain_sign({"low": -0.2, "high": -0.1}) == -1
    assert certain_sign({"low": -0.2, "high": 0.1}) == 0


def test_the_interval_of_a_mean_covers_the_truth():
    rng = np.random.default_rng(2)
    sets = [mean_interval(rng.normal(0.7, 0.02, 5)) for _ in range(500)]
    assert np.mean([each["low"] <= 0.7 <= each["high"] for each in sets]) >= 0.93


def test_the_parts_of_a_variance_are_those_of_the_analysis_of_variance():
    groups = np.random.default_rng(3).normal(size=(4, 5)) + np.array([0, 1, 2, 3])[:, None]
    parts, anova = variance_parts(groups), stats.f_oneway(*groups)
    assert parts["p_value"] == pytest.approx(anova.pvalue, rel=1e-9)
    within = np.mean([np.var(group, ddof=1) for group in groups])
    assert parts["within_sd"] ** 2 == pytest.approx(within, rel=1e-12)
    assert parts["between_sd"] ** 2 == pytest.approx((anova.statistic - 1) * within / 5, rel=1e-9)
    assert parts["share"] == pytest.approx(parts["between_sd"] ** 2 / (parts["between_sd"] ** 2 + within), rel=1e-9)
    assert 0 <= parts["low"] < parts["share"] < parts["high"] <= 1


def test_the_share_of_a_variance_is_covered_by_its_interval():
    rng, covered = np.random.default_rng(4), []
    for _ in range(500):
        groups = rng.normal(0, 2, (4, 1)) + rng.normal(0, 1, (4, 4))
        parts = variance_parts(groups)
        covered.append(parts["low"] <= 0.8 <= parts["high"])
    assert np.mean(covered) >= 0.93


def test_without_variance_within_all_is_between():
    parts = variance_parts([[1.0, 1.0], [2.0, 2.0]])
    assert (parts["share"], parts["low"], parts["high"]) == (1, 1, 1)
    assert parts["within_sd"] == 0


def test_means_leave_out_what_is_undefined():
    assert nan_mean([[1.0, np.nan], [3.0, 5.0]]).tolist() == [2, 5]
    assert np.isnan(nan_mean([[np.nan], [np.nan]])).all()


def accuracy(rows):
    return np.array([rows.mean()])


@pytest.mark.parametrize(("seed_sd", "images"), [(0.05, 2000), (0.0, 100), (0.03, 300)])
def test_the_bootstrap_covers_the_truth_whichever_varies_more_seeds_or_images(monkeypatch, seed_sd, images):
    monkeypatch.setattr("studies.statistics.REPLICATES", 60)
    rng, covered = np.random.default_rng(5), []
    for repeat in range(500):
        samples = [rng.random(images) < 0.7 + seed_sd * rng.uniform(-(3**0.5), 3**0.5) for _ in range(5)]
        _, low, high = bootstrap_interval(accuracy, samples, seed=repeat)
        covered.append(low[0] <= 0.7 <= high[0])
    assert np.mean(covered) >= 0.93


def test_the_bootstrap_of_one_seed_is_scipys_over_images():
    sample = np.random.default_rng(6).random(400) < 0.7
    mean, low, high = bootstrap_interval(accuracy, [sample])
    error = stats.bootstrap((sample,), np.mean, n_resamples=2000, random_state=0).standard_error
    assert mean[0] == sample.mean()
    assert high[0] - low[0] == pytest.approx(2 * 1.96 * error, rel=0.15)  # 500 replicates: 3 % at one sigma


def test_the_bootstrap_gives_equal_seeds_equal_intervals_and_copes_with_undefined_values():
    samples = [np.array([[1.0, 1.0], [0.0, 0.0]]) for _ in range(3)]

    def undefined_without_positives(rows):
        chosen = rows[rows[:, 0] > 0]
        return np.array([chosen[:, 1].mean() if len(chosen) else np.nan])

    assert [array.tolist() for array in bootstrap_interval(undefined_without_positives, samples)] == [[1], [1], [1]]
