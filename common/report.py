"""What a run is recorded as."""

import numpy as np

from common.metrics import accuracy_interval, majority_accuracy, mcnemar
from common.models import count_parameters, weights_hash
from common.train import loss_and_accuracy


def training_record(args, data, part, model, history, logits, labels):
    """Return the JSON record of a trained model: what it was made from, its history and its test figures.

    part: main or transfer; logits, labels: of the whole test set, as `predict` gives them.
    """
    parameters, trainable = count_parameters(model)
    test_loss, test_accuracy = loss_and_accuracy(logits, labels)
    predictions = logits.argmax(1)
    return {
        "source": data["source"],
        "fingerprint": data["fingerprint"],
        "made_from": {"q1_data": data["fingerprint"]},
        "weights_sha256": weights_hash(model),
        "args": vars(args),
        "parameters": parameters,
        "trainable_parameters": trainable,
        "test_loss": test_loss,
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
    right = [np.array(record["test_predictions"]) == labels for record in (fcn, cnn)]
    test = mcnemar(*right)
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
