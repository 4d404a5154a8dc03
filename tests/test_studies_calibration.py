import json
import sys

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from torch.nn.functional import cross_entropy

from common.storage.artifacts import load_data
from studies import calibration as study
from studies import reliability, tables
from studies.calibration import describe, summarise
from studies.calibration import test_result as result_of


def simulated(count, gap, seed):
    """Confidences between 0.6 and 1 of a network that is correct `gap` less often than it says."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.6, 1, count)
    return confidence, rng.random(count) < confidence - gap


def test_calibration_error_is_that_of_a_loop_over_bins():
    confidence, correct = simulated(203, 0.1, 1)
    order, error = sorted(range(203), key=lambda i: confidence[i]), 0
    for group in np.array_split(order, 10):
        error += abs(sum(correct[i] for i in group) - sum(confidence[i] for i in group)) / 203
    assert reliability.calibration_error(confidence, correct) == pytest.approx(error, rel=1e-12)
    assert reliability.calibration_error(np.array([0.5] * 10), np.arange(10) < 7, bins=1) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="too few"):
        reliability.equal_bins(confidence[:9], correct[:9])


@pytest.mark.parametrize(("gap", "largest_share"), [(0, 0.7), (0.03, 0.5), (0.06, 0.6)])
def test_the_debiased_error_is_nearer_the_truth_than_the_plain_one_on_average(gap, largest_share):
    sets = [simulated(495, gap, seed) for seed in range(200)]
    plain = np.mean([reliability.calibration_error(*each) for each in sets])
    debiased = np.mean([reliability.debiased_calibration_error(*each, samples=200) for each in sets])
    assert plain > gap
    assert abs(debiased - gap) < largest_share * (plain - gap)


def test_at_a_large_gap_the_debiased_error_is_at_most_a_point_too_low_on_average():
    sets = [simulated(495, 0.1, seed) for seed in range(200)]
    debiased = np.mean([reliability.debiased_calibration_error(*each, samples=200) for each in sets])
    assert 0.09 < debiased < 0.103


def test_the_error_of_a_calibrated_network_is_that_of_simulated_ones():
    confidence = simulated(400, 0, 5)[0]
    rng = np.random.default_rng(6)
    errors = [reliability.calibration_error(confidence, rng.random(400) < confidence) for _ in range(1000)]
    mean, high = reliability.error_if_calibrated(confidence)
    assert mean == pytest.approx(np.mean(errors), abs=0.002)
    assert high == pytest.approx(np.quantile(errors, 0.95), abs=0.004)


def test_the_temperature_is_found_again_where_it_is_known_and_is_the_best_of_a_grid():
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, (20000, 4))
    labels = (rng.random((20000, 1)) > softmax(honest, axis=1).cumsum(1)).sum(1).clip(max=3)
    logits = (2.5 * honest).astype(np.float32)  # too sure by a factor of 2.5
    assert reliability.fit_temperature(logits, labels) == pytest.approx(2.5, rel=0.03)
    few = logits[:150], labels[:150]
    grid = np.exp(np.linspace(-1, 3, 4001))
    losses = [reliability.negative_log_likelihood(*few, temperature) for temperature in grid]
    assert reliability.fit_temperature(*few) == pytest.approx(grid[np.argmin(losses)], rel=0.001)
    expected = cross_entropy(torch.from_numpy(few[0]).double() / 1.7, torch.from_numpy(few[1])).item()
    assert reliability.negative_log_likelihood(*few, 1.7) == pytest.approx(expected, rel=1e-12)


def test_a_temperature_changes_confidences_and_no_prediction():
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(300, 2, generator=generator)
    margin = (logits[:, 1] - logits[:, 0]).double()
    labels = (torch.rand(300, generator=generator) < torch.sigmoid(margin / 3)).long()
    result = result_of((logits, labels), (logits, labels))
    assert 2 < result["temperature"] < 5
    assert result["loss_after"] < result["loss_before"]
    assert result["correct"] == (logits.argmax(1) == labels).tolist()
    expected = expit(margin.abs().numpy() / result["temperature"])
    np.testing.assert_allclose(result["confidence_after"], expected, atol=1e-6)
    networks = summarise({"seed-0": {"fcn": result, "cnn": result}})
    sentences = describe(networks, 300)  # one seed: no interval, so nothing can be told
    assert "cannot be told" in sentences[0]
    assert "cannot be told" in sentences[1]


def test_the_study_runs_and_keeps_out_what_it_fits_the_temperature_on(synthetic_run, tmp_path, monkeypatch, capsys):
    out, _ = synthetic_run
    (tmp_path / "q1_data.pt").symlink_to(out / "q1_data.pt")
    options = ["--seeds", "0,1", "--epochs", "2", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["calibration", "--out", str(tmp_path), *options])
    study.main()
    record = json.loads((tmp_path / "studies/calibration.json").read_text())
    result = json.loads((tmp_path / "studies/calibration/seed-1.json").read_text())
    whole = len(load_data(tmp_path)["main_train_labels"])
    assert result["train_count"] + result["held_out_count"] == whole
    assert result["held_out_count"] == round(whole / 10)
    for name in ("fcn", "cnn"):
        seeds = record["networks"][name]["seeds"]
        confidence, correct = (np.array(result[name][key]) for key in ("confidence_after", "correct"))
        assert seeds["error_after"][1] == reliability.calibration_error(confidence, correct)
        assert seeds["accuracy"][1] == correct.mean()
    rows = tables.calibration_tables(record)[2:6]
    mean = record["networks"]["cnn"]["mean"]
    assert f"| CNN, temperature {mean['temperature']['mean']:.2f} | " in rows[3]
    assert rows[3].endswith(f"| {mean['loss_after']['mean']:.3f} |")
    assert (tmp_path / "studies/calibration.png").read_bytes().startswith(b"\x89PNG")
    assert "temperature" in capsys.readouterr().out
