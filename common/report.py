"""What a training is recorded as, and how it ends: in sentences, a picture and files."""

import math

import numpy as np
import scipy
from torch.nn.functional import cross_entropy

from common import plots
from common.galaxies.appearance import appearance_range
from common.metrics import accuracy_interval, majority_accuracy, mcnemar
from common.sentences import describe_comparison
from common.storage.artifacts import load_json, save_question
from common.storage.atomic import is_writer
from common.storage.checkpoint import cpu_state_dict, weights_hash
from common.train import loss_and_accuracy, predict


def count_parameters(model):
    """Return the number of parameters of `model`, and of those that training may change."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trainable in sizes if trainable)


def loss_error(loss, logits, labels):
    """Return the standard error, over images, of a mean loss; NaN for a single image, or if it is not cross entropy."""
    losses = cross_entropy(logits.double(), labels, reduction="none")
    if len(labels) == 1 or not math.isclose(losses.mean().item(), loss, rel_tol=1e-3):
        return float("nan")
    return scipy.stats.sem(losses.numpy()).item()


def training_record(options, data, task, model, criterion, history, train_loader, test_loader):
    """Return the JSON record of a trained model: its data, its options, its history and its final metrics.

    options: the script's, by name; data: Q1's dict; task: main or transfer; criterion: as `train` takes it. The final
    network is evaluated on all training images as on all test images, so that `final_train_loss` and `test_loss` can
    be compared; the history's training loss is a running mean over the network as it changes.
    """
    parameters, trainable = count_parameters(model)
    on_train, on_test = predict(model, train_loader), predict(model, test_loader)
    train_loss, train_accuracy = loss_and_accuracy(criterion, *on_train)
    test_loss, test_accuracy = loss_and_accuracy(criterion, *on_test)
    logits, labels = on_test
    predictions = logits.argmax(1)
    train_images, train_labels = data[f"{task}_train_images"], data[f"{task}_train_labels"]
    class_names = data["class_names"][:8] if task == "main" else data["class_names"][8:]
    return {
        "source": data["source"],
        "fingerprint": data["fingerprint"],
        "made_from": {"q1_data": data["fingerprint"]},
        "weights_sha256": weights_hash(model.state_dict()),
        "args": options,
        "class_names": class_names,
        "mean": data["mean"].tolist(),
        "std": data["std"].tolist(),
        "image_size": train_images.shape[-1],
        "appearance": appearance_range(train_images),
        "train_counts": train_labels.bincount(minlength=len(class_names)).tolist(),
        "parameters": parameters,
        "trainable_parameters": trainable,
        "final_train_loss": train_loss,
        "final_train_loss_error": loss_error(train_loss, *on_train),
        "final_train_accuracy": train_accuracy,
        "test_loss": test_loss,
        "test_loss_error": loss_error(test_loss, *on_test),
        "test_accuracy": test_accuracy,
        "test_accuracy_interval": accuracy_interval((predictions == labels).sum(), len(labels)),
        "test_count": len(labels),
        "majority_accuracy": majority_accuracy(train_labels, labels),
        "history": history,
        "test_predictions": predictions.tolist(),
    }


def save_training(out, name, title, model, record, figure=None):
    """Write a trained model, its figure and its record as {name}.pt, {name}.png and {name}.json in `out`.

    figure: in place of the learning curves. Under torchrun only rank 0 does this.
    """
    if not is_writer():
        return
    figure = figure or plots.learning_curves(record["history"], plots.titled(title, record["source"]))
    save_question(out, name, cpu_state_dict(model), figure, record)


def compare_with_fcn(path, record, labels):
    """Compare Q3's record with the FCN's, if it is at `path` and of the same data; return what to add to the record."""
    nothing = {"comparison": None}
    if not path.is_file():
        print(f"{path} not found: run q2_fcn.py first to compare.")
        return nothing
    try:
        fcn = load_json(path)
        if fcn["fingerprint"] != record["fingerprint"]:
            print(f"{path} comes from different data or a different split, so the two are not compared.")
            return nothing
        comparison = compare(fcn, record, labels)
    except (ValueError, KeyError, TypeError) as error:  # no reason to lose the network that has just been trained
        print(f"Not compared: {path} cannot be used ({error})")
        return nothing
    print(describe_comparison(comparison))
    return {"comparison": comparison, "made_from": record["made_from"] | {"fcn": fcn.get("weights_sha256")}}


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
