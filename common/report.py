"""What a run is recorded as."""

import numpy as np
from scipy.stats import sem
from torch.nn.functional import cross_entropy

from common.metrics import accuracy_interval, majority_accuracy, mcnemar
from common.models import count_parameters, weights_hash
from common.train import loss_and_accuracy


def loss_error(logits, labels):
    """Return the standard error of the mean cross entropy (nats) over images; NaN for a single one."""
    if len(labels) == 1:
        return float("nan")
    return sem(cross_entropy(logits.double(), labels, reduction="none").numpy()).item()


def training_record(args, data, part, model, history, on_train, on_test):
    """Return the JSON record of a trained model: its data, its settings, its history and its final metrics.

    part: main or transfer; on_train, on_test: logits and labels of the final network on all training and all
    test images, as `predict` returns them. So `final_train_loss` and `test_loss` can be compared, while the
    history's training loss is a running mean over the network as it changes.
    """
    parameters, trainable = count_parameters(model)
    train_loss, train_accuracy = loss_and_accuracy(*on_train)
    test_loss, test_accuracy = loss_and_accuracy(*on_test)
    logits, labels = on_test
    predictions = logits.argmax(1)
    return {
        "source": data["source"],
        "fingerprint": data["fingerprint"],
        "made_from": {"q1_data": data["fingerprint"]},
        "weights_sha256": weights_hash(model),
        "args": vars(args),
        "parameters": parameters,
        "trainable_parameters": trainable,
        "final_train_loss": train_loss,
        "final_train_loss_error": loss_error(*on_train),
        "final_train_accuracy": train_accuracy,
        "test_loss": test_loss,
        "test_loss_error": loss_error(*on_test),
        "test_accuracy": test_accuracy,
        "test_accuracy_interval": accuracy_interval((predictions == labels).sum(), len(labels)),
        "test_count": len(labels),
        "majority_accuracy": majority_accuracy(data[f"{part}_train_labels"], labels),
        "history": history,
        "test_predictions": predictions.tolist(),
    }


def compare(fcn, cnn, labels):
    """Return how Q3's record compares with Q2's on the same test images, labels int (n,), with McNemar's test."""
    labels = np.asarray(labels)
    correct = [np.array(record["test_predictions"]) == labels for record in (fcn, cnn)]
    test = mcnemar(*correct)
    return {
        "fcn_accuracy": fcn["test_accuracy"],
        "fcn_interval": fcn["test_accuracy_interval"],
        "fcn_parameters": fcn["parameters"],
        "cnn_accuracy": cnn["test_accuracy"],
        "cnn_interval": cnn["test_accuracy_interval"],
        "cnn_parameters": cnn["parameters"],
        "fcn_only": test["first_only"],
        "cnn_only": test["second_only"],
        "p_value": test["p_value"],
    }
