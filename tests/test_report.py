import numpy as np
import pytest

from common.describe import describe_comparison, describe_curves, describe_result
from common.report import compare


def history(train, test):
    return {"train_loss": list(train), "test_loss": list(test)}


def test_overfitting_is_called_so_and_from_where():
    text = describe_curves(history(np.linspace(2, 0.5, 10), [2, 1.5, 1.2, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]))
    assert "lowest, 1.100, after epoch 4 of 10" in text
    assert "at the end it is 1.700, 1.200 above the training loss of 0.500" in text
    assert "overfits from about epoch 4 on" in text


def test_a_falling_test_loss_is_no_overfitting():
    text = describe_curves(history(np.linspace(2, 0.9, 10), np.linspace(2, 1.0, 10)))
    assert "does not overfit yet" in text
    assert "from about" not in text


def test_a_flat_test_loss_hardly_overfits():
    text = describe_curves(history(np.linspace(2, 0.9, 10), [2, 1.5, 1.2, 1.0, 1.01, 1.02, 1.0, 1.01, 1.02, 1.01]))
    assert "hardly overfits" in text


def test_a_run_gone_astray_is_not_called_overfitting():
    text = describe_curves(history([2, 1, 1, 3, 4], [2, 1, 1.1, 3, 4]))
    assert "gone astray" in text


def test_a_test_loss_below_the_training_loss_is_said_to_be_below():
    assert "0.100 below the training loss of 1.000" in describe_curves(history([2, 1.0], [2, 0.9]))


LABELS = np.arange(200) % 8


def record(accuracy, parameters, offset=0):
    right = np.roll(np.arange(200) < 200 * accuracy, offset)
    predictions = np.where(right, LABELS, (LABELS + 1) % 8)
    return {
        "test_accuracy": accuracy,
        "test_accuracy_interval": (accuracy - 0.05, accuracy + 0.05),
        "parameters": parameters,
        "test_predictions": predictions.tolist(),
    }


@pytest.mark.parametrize(
    ("fcn", "cnn", "verdict"),
    [
        (record(0.60, 442_952), record(0.80, 178_616), "the CNN is better, and not by chance"),
        (record(0.80, 442_952), record(0.60, 178_616), "the FCN is better, and not by chance"),
        (record(0.60, 442_952), record(0.61, 178_616, offset=90), "the difference may well be chance"),
    ],
)
def test_the_verdict_follows_the_figures(fcn, cnn, verdict):
    comparison = compare(fcn, cnn, LABELS)
    text = describe_comparison(comparison)
    assert verdict in text
    assert "442,952 parameters" in text
    assert "178,616 parameters" in text
    assert comparison["cnn_only"] - comparison["fcn_only"] == round(200 * (cnn["test_accuracy"] - fcn["test_accuracy"]))


def test_synthetic_results_are_called_synthetic():
    result = {"test_accuracy": 0.5, "test_accuracy_interval": (0.4, 0.6), "test_loss": 1.0, "test_count": 10,
              "majority_accuracy": 0.3}  # fmt: skip
    assert "SYNTHETIC" in describe_result("FCN", result | {"source": "synthetic"})
    assert "SYNTHETIC" not in describe_result("FCN", result | {"source": "galaxy10-sdss"})
