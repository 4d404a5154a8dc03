"""A trained network and what must be known to use it: classes, normalisation and sizes."""

import math
from pathlib import Path
from typing import NamedTuple

from common.galaxies.facts import IMAGE_SIZE, source_title
from common.galaxies.hdf5 import MOST_CLASSES
from common.galaxies.split import WHOLE_NUMBER
from common.storage.artifacts import load_json
from common.storage.checkpoint import find_weights, load_strictly, load_weights, record_of, weights_hash
from q2_fcn import make_fcn
from q3_cnn import make_backbone, make_cnn

from torch import nn


def are_colours(values, low):
    """Return whether a value of a JSON file is a list of three numbers above `low`."""
    is_list = isinstance(values, list) and len(values) == 3
    return is_list and all(isinstance(each, (int, float)) and low < each < math.inf for each in values)


def are_texts(values):
    """Return whether a value of a JSON file is a list of texts."""
    return isinstance(values, list) and all(isinstance(each, str) for each in values)


NEEDED = {  # of a record, with what each value must be
    "source": (lambda value: isinstance(value, str), "a text"),
    "class_names": (are_texts, "a list of texts"),
    "mean": (lambda value: are_colours(value, -math.inf), "a list of three numbers, of pixels 0-255"),
    "std": (lambda value: are_colours(value, 0), "a list of three numbers above 0, of pixels 0-255"),
    "image_size": (lambda value: value == IMAGE_SIZE, f"{IMAGE_SIZE}, the only size there is now: train it again"),
}


def make_transfer(num_classes=2):
    """Return Q5's network: crops (n, 3, 48, 48) to logits (n, num_classes)."""
    return nn.Sequential(make_backbone(), nn.Linear(64, num_classes))


NETWORKS = {"q2_fcn": make_fcn, "q3_cnn": make_cnn, "q5_transfer": make_transfer}  # by the script that trains them


class TrainedNetwork(NamedTuple):
    """A network and what its training recorded."""

    network: nn.Module
    record: dict  # the JSON beside it
    name: str  # in NETWORKS


def load_network(path):
    """Return the TrainedNetwork in a checkpoint; print a line when it is not one that these scripts have written.

    path: a .pt file of q2_fcn.py, q3_cnn.py or q5_transfer.py with its .json beside it, what export.py writes, which is
    the folder or the .safetensors file in it, or any other file in which `find_weights` finds such a network, with any
    number of classes. Raises FileNotFoundError, or ValueError when the file holds another network, the record lacks
    what is needed, or the two come from different runs.
    """
    name, network, prefix = find_network(path, load_weights(path, made_by="q3_cnn.py"))
    record_path = record_of(path)
    if not record_path.is_file():
        raise FileNotFoundError(
            f"{path}: {record_path.name}, which {name}.py wrote beside it, is missing: copy it too, or for a network "
            f"trained elsewhere write it, with {', '.join(NEEDED)}"
        )
    record = load_json(record_path)
    name = "q5_transfer" if name == "q3_cnn" and is_transferred(record) else name
    missing = [key for key in NEEDED if key not in record]
    if missing:
        raise ValueError(f"{record_path} lacks {', '.join(missing)}: rerun {name}.py")
    for key, (is_valid, words) in NEEDED.items():
        if not is_valid(record[key]):
            raise ValueError(f"{record_path}: {key} is not {words}")
    found = weights_hash(network.state_dict())
    if record.get("weights_sha256", found) != found:
        raise ValueError(f"{path} and {record_path.name} come from different runs: copy both from one folder")
    if len(record["class_names"]) != list(network.parameters())[-1].numel():
        raise ValueError(
            f"{record_path} names {len(record['class_names'])} classes, not the network's: rerun {name}.py"
        )
    if prefix:
        print(f"{path}: a network of {name}.py, its names begin with {prefix!r}")
    return TrainedNetwork(network.eval(), record, name)


def find_network(path, content):
    """Return the network in a checkpoint's content: its name, the network itself, and the prefix of its names.

    The name is q2_fcn or q3_cnn: whether a CNN is that of Q5, its record says. Raises ValueError as `find_weights` and
    `load_strictly` do.
    """
    kinds = {name: list(NETWORKS[name]().state_dict()) for name in ("q2_fcn", "q3_cnn")}
    name, prefix, weights = find_weights(path, content, kinds)
    classes = weights[kinds[name][-1]].numel()
    if classes > MOST_CLASSES:
        raise ValueError(f"{path} holds a network of {classes:,} classes, more than {MOST_CLASSES:,}")
    network = NETWORKS[name](classes)
    load_strictly(network, path, weights)
    return name, network, prefix


def is_transferred(record):
    """Return whether the record of a CNN is that of Q5, whose backbone is frozen."""
    if "network" in record:  # of export.py
        return record["network"] == "q5_transfer"
    return "trainable_parameters" in record and record["trainable_parameters"] < record["parameters"]


def trained_on(record):
    """Return in words which data a network was trained on."""
    remark = ", so its predictions say nothing about real ones" if record["source"] == "synthetic" else ""
    return source_title(record["source"]) + remark


def describe_classes(record):
    """Return a sentence on the classes that a network knows, and on those of its data that it cannot predict."""
    names, counts = record["class_names"], record.get("train_counts") or [1] * len(record["class_names"])
    known = [name for name, count in zip(names, counts, strict=True) if count]
    unknown = [name for name in names if name not in known] + record.get("other_class_names", [])
    sentence = f"It knows {len(known)} classes: {'; '.join(known)}."
    return sentence + (f" It never learned, and cannot recognize: {'; '.join(unknown)}." if unknown else "")


def files_of(path):
    """Return (path, what it is) pairs of the files that `load_network` may read."""
    path = Path(path)
    files = path.iterdir() if path.is_dir() else (path, record_of(path))
    return [(file, f"the model's {file.name}") for file in files]


def written_numbers(class_names):
    """Return the numbers by which classes are written: where all names are whole numbers these, else their places."""
    if all(map(WHOLE_NUMBER.fullmatch, class_names)):
        return list(map(int, class_names))
    return list(range(len(class_names)))
