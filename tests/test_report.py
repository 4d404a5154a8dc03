"""What is recorded of a run, and what the sentences under a run say of it."""

import json

import numpy as np
import pytest
import torch
from conftest import crop_transform
from sklearn.metrics import log_loss

from common.data import make_loaders
from common.report import compare, loss_error
from common.sentences import describe_comparison, describe_curves, describe_logistic, describe_result
from common.storage.artifacts import load_data, save_json
from common.storage.checkpoint import classes_learnt
from common.train import predict
from q2_fcn import make_fcn
from q3_cnn import make_cnn

CPU = torch.device("cpu")
LABELS = np.arange(200) % 8


def curves(test, **final):
    return {"history": {"train_loss": [1.0] * len(test), "test_loss": test}, "test_loss": test[-1], **final}


def test_the_lowest_test_loss_is_named_with_its_epoch():
    assert "lowest, 1.100, after epoch 2 of 3, and ends at 1.200." in describe_curves(curves([1.5, 1.1, 1.2]))
    assert "lowest, 1.100, after the last of 3 epochs." in describe_curves(curves([1.5, 1.2, 1.1]))
    text = describe_curves(curves([1.5]))
    assert "after the only epoch is 1.500." in text
    assert "lowest" not in text


@pytest.mark.parametrize(("train", "error", "says"), [
    (0.01, 0.02, "fits its training images much better than the test images"),
    (0.80, 0.02, "fits its training images better than the test images"),
    (0.92, 0.02, "a gap between them cannot be told"),
    (0.94, 0.02, "a gap between them cannot be told"),
    (1.20, 0.02, "fits the test images better than its training images"),
    (0.01, 0.60, "a gap between them cannot be told"),
])  # fmt: skip
def test_the_gap_is_that_of_the_final_network_and_no_surer_than_its_images_allow(train, error, says):
    final = {"final_train_loss": train, "final_train_loss_error": 0.003, "test_loss_error": error}
    text = describe_curves(curves([1.2, 0.93], **final))
    assert says in text
    assert f"{train:.3f} on the training images and 0.930 on the test images" in text
    phrases = ("much better than", "images better than the", "cannot be told on", "better than its")
    assert sum(phrase in text for phrase in phrases) == 1


def test_nothing_is_said_of_a_gap_that_was_not_recorded_or_has_no_error():
    known = {"final_train_loss": 0.1, "final_train_loss_error": 0.01, "test_loss_error": 0.01}
    assert "training images" in describe_curves(curves([1.2, 0.93], **known))
    for final in ({}, known | {"test_loss_error": None}, known | {"final_train_loss_error": float("nan")}):
        assert "training images" not in describe_curves(curves([1.2, 0.93], **final))


def test_the_standard_error_of_a_loss_is_that_of_a_mean_over_images():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(50, 8, generator=generator), torch.arange(50) % 8
    losses = [-logits[i].double().log_softmax(0)[labels[i]].item() for i in range(50)]
    assert loss_error(np.mean(losses), logits, labels) == pytest.approx(np.std(losses, ddof=1) / np.sqrt(50))
    assert np.isnan(loss_error(losses[0], logits[:1], labels[:1]))
    assert np.isnan(loss_error(np.mean(losses) + 0.1, logits, labels))  # of another criterion


def test_the_final_network_is_evaluated_on_its_training_images(synthetic_run):
    out, _ = synthetic_run
    data = load_data(out)
    for name, network in (("q2_fcn", make_fcn()), ("q3_cnn", make_cnn())):
        network.load_state_dict(torch.load(out / f"{name}.pt", weights_only=True))
        record = json.loads((out / f"{name}.json").read_text())
        train_loader, _ = make_loaders(data, "main", crop_transform(data["mean"], data["std"]), 64, CPU)
        logits, labels = predict(network, train_loader)
        assert sorted(labels.tolist()) == sorted(data["main_train_labels"].tolist())
        expected = log_loss(labels, logits.double().softmax(1), labels=range(8))
        assert record["final_train_loss"] == pytest.approx(expected, rel=1e-4)
        accuracy = (logits.argmax(1) == labels).double().mean().item()
        assert record["final_train_accuracy"] == pytest.approx(accuracy, abs=2 / len(labels))
        assert 0 < record["final_train_loss_error"] < record["test_loss_error"]  # there are more training images


def test_logistic_regression_is_compared_on_the_same_images_and_the_same_features(synthetic_run):
    out, printed = synthetic_run
    record = json.loads((out / "q5_transfer.json").read_text())
    logistic, count = record["logistic_regression"], record["test_count"]
    test = logistic["mcnemar"]
    assert logistic["accuracy"] == record["logistic_regression_accuracy"]
    # Where two classifiers of two classes differ, exactly one of them is correct.
    assert test["first_only"] + test["second_only"] == round(count * (1 - logistic["agreement"]))
    difference = logistic["accuracy"] - record["test_accuracy"]
    assert test["second_only"] - test["first_only"] == round(count * difference)
    assert logistic["train_loss"] <= logistic["head_train_loss"] + 1e-3  # the optimum of the same loss
    # After two epochs from small initial weights the head is near chance, ln 2, on the features it has seen.
    assert logistic["head_train_loss"] == pytest.approx(record["final_train_loss"], abs=0.05)
    assert describe_logistic(record) in printed["q5"]


def test_the_classes_a_backbone_has_learnt_are_counted_only_where_its_record_is_of_these_data(synthetic_run, tmp_path):
    out, _ = synthetic_run
    data, path = load_data(out), tmp_path / "q3_cnn.pt"
    record = json.loads((out / "q3_cnn.json").read_text())
    weights = record["weights_sha256"]
    assert json.loads((out / "q5_transfer.json").read_text())["backbone_classes"] == 8
    assert classes_learnt(path, weights, data) is None  # no record
    save_json(record, tmp_path / "q3_cnn.json")
    assert classes_learnt(path, weights, data) == 8
    assert classes_learnt(path, weights, data | {"main_train_labels": torch.tensor([0, 1, 2, 3, 4, 6, 7, 7])}) == 7
    assert classes_learnt(path, None, data) is None  # a backbone alone
    assert classes_learnt(path, "of another run", data) is None
    assert classes_learnt(path, weights, data | {"fingerprint": "of another split"}) is None


def record(accuracy, parameters, offset=0):
    correct = np.roll(np.arange(200) < 200 * accuracy, offset)
    predictions = np.where(correct, LABELS, (LABELS + 1) % 8)
    return {
        "test_accuracy": accuracy,
        "test_accuracy_interval": (accuracy - 0.05, accuracy + 0.05),
        "parameters": parameters,
        "test_predictions": predictions.tolist(),
    }


@pytest.mark.parametrize(
    ("fcn", "cnn", "conclusion"),
    [
        (record(0.60, 442_952), record(0.80, 178_616), "the CNN is better, and the difference is unlikely by chance"),
        (record(0.80, 442_952), record(0.60, 178_616), "the FCN is better, and the difference is unlikely by chance"),
        (record(0.60, 442_952), record(0.61, 178_616, offset=90), "the two cannot be told apart on these images"),
        (record(0.60, 442_952), record(0.60, 178_616), "the two cannot be told apart on these images"),
    ],
)
def test_the_conclusion_follows_from_the_predictions(fcn, cnn, conclusion):
    comparison = compare(fcn, cnn, LABELS)
    text = describe_comparison(comparison)
    conclusions = ("the CNN is better", "the FCN is better", "cannot be told apart")
    assert [phrase in text for phrase in conclusions] == [phrase in conclusion for phrase in conclusions]
    assert conclusion in text
    assert "442,952 parameters" in text
    assert "178,616 parameters" in text
    assert comparison["cnn_only"] - comparison["fcn_only"] == round(200 * (cnn["test_accuracy"] - fcn["test_accuracy"]))


def test_synthetic_results_are_called_synthetic():
    result = {"test_accuracy": 0.5, "test_accuracy_interval": (0.4, 0.6), "test_loss": 1.0, "test_count": 10,
              "majority_accuracy": 0.3}  # fmt: skip
    assert "SYNTHETIC" in describe_result("FCN", result | {"source": "synthetic"})
    assert "SYNTHETIC" not in describe_result("FCN", result | {"source": "galaxy10-sdss"})


def logistic(first_only=5, second_only=6, p_value=1.0, train_loss=0.5, head_train_loss=0.5, count=377):
    test = {"first_only": first_only, "second_only": second_only, "p_value": p_value}
    compared = {"agreement": 0.97, "mcnemar": test, "train_loss": train_loss, "head_train_loss": head_train_loss}
    return {"logistic_regression_accuracy": 0.8, "logistic_regression": compared, "test_count": count}


@pytest.mark.parametrize(("values", "says"), [
    ({}, "cannot be told apart on these images"),
    ({"count": 3, "first_only": 1, "second_only": 0}, "on 3 test images no difference could show"),
    ({"first_only": 30, "second_only": 5, "p_value": 2e-5}, "the head is better, and the difference is unlikely"),
    ({"first_only": 5, "second_only": 30, "p_value": 2e-5}, "the logistic regression is better, and the difference is"),
    ({"count": 6, "first_only": 6, "second_only": 0, "p_value": 2 / 64}, "the head is better"),
])  # fmt: skip
def test_the_head_and_logistic_regression_are_compared_by_their_predictions(values, says):
    text = describe_logistic(logistic(**values))
    assert says in text
    phrases = ("told apart", "no difference could show", "the head is better", "regression is better")
    assert sum(phrase in text for phrase in phrases) == 1
    assert "reaches 80.0%, with predictions equal to the head's on 97.0%" in text


@pytest.mark.parametrize(("head", "optimum", "says"), [
    (0.505, 0.500, "they fit alike"), (0.495, 0.500, "they fit alike"),
    (0.560, 0.500, "the head's is 0.060 above it, so the head has not converged"),
    (0.440, 0.500, "scikit-learn's is 0.060 above the head's, so scikit-learn's is the one that has not converged"),
])  # fmt: skip
def test_who_has_not_converged_is_told_by_the_losses_on_the_training_features(head, optimum, says):
    text = describe_logistic(logistic(head_train_loss=head, train_loss=optimum))
    assert says in text
    assert sum(phrase in text for phrase in ("fit alike", "the head has not", "the one that has not")) == 1


def test_an_old_record_of_the_transfer_has_the_accuracy_of_logistic_regression_alone():
    text = describe_logistic({"logistic_regression_accuracy": 0.8})
    assert text == "scikit-learn's logistic regression on the same features reaches 80.0%."
