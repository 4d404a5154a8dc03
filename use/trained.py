"""Load a trained network and its record: classes, normalisation and data."""

import math
from pathlib import Path
from typing import NamedTuple

from common.galaxies.facts import IMAGE_SIZE, source_title
from common.galaxies.split import WHOLE_NUMBER
from common.storage.artifacts import load_json
from common.storage.checkpoint import find_weights, load_strictly, load_weights, record_of, weights_hash
from q2_fcn import make_fcn
from q3_cnn import make_backbone, make_cnn

from torch import nn


def make_transfer(num_classes=2):
    """Return Q5's network: crops (n, 3, 48, 48) to logits (n, num_classes)."""
    return nn.Sequential(make_backbone(), nn.Linear(64, num_classes))


NETWORKS = {"q2_fcn": make_fcn, "q3_cnn": make_cnn, "q5_transfer": make_transfer}  # by the script that trains them
NEEDED = {  # values of a record
    "source": "a string",
    "class_names": "a list of strings, one per class of the network",
    "mean": "a list of three numbers, of pixels 0-255",
    "std": "a list of three numbers above 0, of pixels 0-255",
    "image_size": f"{IMAGE_SIZE}, the only size supported: retrain the network",
}


class TrainedNetwork(NamedTuple):
    """A network and its record."""

    network: nn.Module
    record: dict  # the JSON file next to it
    name: str  # in NETWORKS


def load_network(path, remedy="name another network with --model"):
    """Return the TrainedNetwork in a checkpoint; print a line if its weights have a prefix.

    path: a .pt file of q2_fcn.py, q3_cnn.py or q5_transfer.py with its .json next to it; the folder or the .safetensors
    file written by export.py; or any other file where `find_weights` finds such a network, with any number of
    classes. Raises FileNotFoundError, with a `remedy`, or ValueError if the file contains another network, the record
    lacks a value, or the two come from different runs.
    """
    content = load_weights(path, made_by="q3_cnn.py", remedy=remedy)
    kinds = {name: list(NETWORKS[name]().state_dict()) for name in ("q2_fcn", "q3_cnn")}
    name, prefix, weights = find_weights(path, content, kinds)
    classes = weights[kinds[name][-1]].numel()
    network = NETWORKS[name](classes).eval()
    load_strictly(network, path, weights)
    record_path = record_of(path)
    if not record_path.is_file():
        raise FileNotFoundError(
            f"{path}: {record_path.name}, which {name}.py wrote next to it, is missing: copy it too, or, for a network "
            f"trained elsewhere, create it with {', '.join(NEEDED)}"
        )
    record = load_json(record_path)
    name = "q5_transfer" if name == "q3_cnn" and is_transferred(record) else name
    check_record(record_path, record, name, classes)
    found = weights_hash(network.state_dict())
    if record.get("weights_sha256", found) != found:
        raise ValueError(f"{path} and {record_path.name} come from different runs: copy both from one folder")
    if prefix:
        print(f"{path}: a network of {name}.py; its tensor names begin with {prefix!r}")
    return TrainedNetwork(network, record, name)


def is_transferred(record):
    """Return whether the record of a CNN is from Q5, whose backbone is frozen."""
    if "network" in record:  # written by export.py
        return record["network"] == "q5_transfer"
    return "trainable_parameters" in record and record["trainable_parameters"] < record["parameters"]


def check_record(path, record, name, classes):
    """Raise ValueError if a record lacks a value of NEEDED, or has one of the wrong type."""
    missing = [key for key in NEEDED if key not in record]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: rerun {name}.py")
    names = record["class_names"]
    is_valid = {
        "source": isinstance(record["source"], str),
        "class_names": isinstance(names, list) and list(map(type, names)) == [str] * classes,
        "mean": are_colours(record["mean"], -math.inf),
        "std": are_colours(record["std"], 0),
        "image_size": record["image_size"] == IMAGE_SIZE,
    }
    for key, kind in NEEDED.items():
        if not is_valid[key]:
            raise ValueError(f"{path}: {key} is not {kind}")


def are_colours(values, low):
    """Return whether `values` is a list of three finite numbers above `low`."""
    is_list = isinstance(values, list) and len(values) == 3
    return is_list and all(isinstance(value, (int, float)) and low < value < math.inf for value in values)


def trained_on(record):
    """Return a phrase with the training data of a network."""
    remark = ", so its predictions for real ones are meaningless" if record["source"] == "synthetic" else ""
    return source_title(record["source"]) + remark


def training_images(record):
    """Return the phrase of `trained_on` with the number of images, if the record has it."""
    counts = record.get("train_counts")
    return (f"{sum(counts):,} images of " if counts else "") + trained_on(record)


def describe_classes(record):
    """Return sentences on the classes that a network can and cannot predict, and its record's note, if any."""
    names, counts = record["class_names"], record.get("train_counts") or [1] * len(record["class_names"])
    known = [name for name, count in zip(names, counts, strict=True) if count]
    unknown = [name for name in names if name not in known] + record.get("other_class_names", [])
    sentence = f"It knows {len(known)} classes: {'; '.join(known)}."
    sentence += f" It never learned, and cannot recognize: {'; '.join(unknown)}." if unknown else ""
    return f"{sentence} {record['note']}" if record.get("note") else sentence


def files_of(path):
    """Return (path, description) pairs of the files that `load_network` may read."""
    path = Path(path)
    files = path.iterdir() if path.is_dir() else (path, record_of(path))
    return [(file, f"the model's {file.name}") for file in files]


def written_numbers(class_names):
    """Return the class numbers in output files: the names themselves if all are whole numbers, else 0, 1, 2, ...."""
    if all(map(WHOLE_NUMBER.fullmatch, class_names)):
        return list(map(int, class_names))
    return list(range(len(class_names)))
