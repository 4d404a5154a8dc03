"""The temperature: fitted by q3_cnn.py --calibrate on images kept out."""

import re
import shutil

from common.calibration import hold_out
from common.data import load_data
from common.galaxies.split import stratified_split
from common.storage.artifacts import load_json

import numpy as np
import pytest
import torch
from conftest import error_of, made_once, run, run_well
from networks import plain_logits

TEMPERATURES = np.exp(np.linspace(-3, 3, 2401))


def slow_log_loss(logits, labels, temperature):
    """The log loss of the mean probabilities over views, float64 (views, n, k), step by step."""
    mean = (torch.as_tensor(logits).double() / temperature).softmax(2).mean(0)
    return -sum(mean[row, label].log().item() for row, label in enumerate(labels)) / len(labels)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory, synthetic_run):
    """A folder in which q3_cnn.py has run with --calibrate, and what it printed."""

    def make(folder):
        shutil.copy(synthetic_run[0] / "q1_data.pt", folder)
        return run_well("q3_cnn.py", "--calibrate", 0.1, "--epochs", 2, "--device", "cpu", "--out", folder)

    return made_once(tmp_path_factory, "calibrated", make)


def test_each_class_is_divided_in_the_same_proportion_and_the_rest_is_what_trains(synthetic_run):
    data = load_data(synthetic_run[0])
    assert hold_out(data, None, 0) == (data, None)
    rest, (images, labels) = hold_out(data, 0.2, 5)
    found = torch.cat((rest["main_train_images"], images)).flatten(1)
    assert found.unique(dim=0).equal(data["main_train_images"].flatten(1).unique(dim=0))
    counts, whole = labels.bincount(minlength=8), data["main_train_labels"].bincount(minlength=8)
    assert counts.sum() == round(0.2 * whole.sum().item())
    assert ((counts - 0.2 * whole).abs() < 1).all()
    assert rest["main_train_labels"].bincount(minlength=8).tolist() == (whole - counts).tolist()
    assert rest["main_test_images"] is data["main_test_images"]
    assert not torch.equal(labels, hold_out(data, 0.2, 6)[1][1])


def test_q3_keeps_images_out_and_records_the_temperature_that_fits_them_on_the_path_of_predict(calibrated):
    folder, printed = calibrated
    record, data = load_json(folder / "q3_cnn.json"), load_data(folder)
    count = len(data["main_train_labels"])
    kept, out = stratified_split(data["main_train_labels"].numpy(), count - round(0.1 * count), 0)
    assert record["calibration_images"] == len(out)
    assert record["train_counts"] == data["main_train_labels"][kept].bincount(minlength=8).tolist()
    logits = plain_logits(folder / "q3_cnn.pt", data["main_train_images"][out])
    labels = data["main_train_labels"][out].tolist()
    losses = [slow_log_loss(logits, labels, temperature) for temperature in TEMPERATURES[::10]]
    assert record["temperature"] == pytest.approx(TEMPERATURES[::10][np.argmin(losses)], rel=0.02)
    before, after = slow_log_loss(logits, labels, 1), slow_log_loss(logits, labels, record["temperature"])
    assert re.search(rf"^Temperature {record['temperature']:.3f}, fitted on {len(out)} training images", printed, re.M)
    assert f"falls from {before:.3f} to {after:.3f}." in printed


def test_an_interrupted_run_knows_the_option(calibrated, synthetic_run, tmp_path):
    out = shutil.copytree(synthetic_run[0], tmp_path / "out")
    for path in calibrated[0].glob("q3_cnn.*"):
        shutil.copy(path, out)
    options = ("--epochs", 2, "--device", "cpu", "--out", out, "--resume")
    error = error_of(run("q3_cnn.py", *options))
    assert "belongs to a run with --calibrate 0.1, not None" in error
    assert "2 of 2 epochs are done" in run_well("q3_cnn.py", *options, "--calibrate", 0.1)
    assert load_json(out / "q3_cnn.json")["temperature"] == load_json(calibrated[0] / "q3_cnn.json")["temperature"]


@pytest.mark.parametrize(("fraction", "sentence"), [
    ("0.001", "0.001 of 6.. training images kept out leaves 6..: must be from 8 to "),
    ("1", "leaves 0: must be from 8 "),
    ("0", "'0' is not a number above 0"), ("nan", "'nan' is not a number above 0"),
])  # fmt: skip
def test_a_fraction_that_leaves_no_image_of_a_class_is_refused_before_the_training(
    synthetic_run, tmp_path, fraction, sentence
):
    shutil.copy(synthetic_run[0] / "q1_data.pt", tmp_path)
    assert re.search(sentence, error_of(run("q3_cnn.py", "--calibrate", fraction, "--out", tmp_path)))
    assert not list(tmp_path.glob("q3_cnn.*"))
