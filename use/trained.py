"""A trained network and what must be known to use it: classes, normalisation and sizes."""

from typing import NamedTuple

from common.galaxies.facts import source_title
from common.galaxies.hdf5 import MOST_CLASSES
from common.storage.artifacts import load_json
from common.storage.checkpoint import load_weights, record_of, shapes_of, weights_hash
from q2_fcn import make_fcn
from q3_cnn import make_backbone, make_cnn

import torch
from torch import nn

CROP_SIZE = 48  # pixels: what all networks of the assignment see of an image
NEEDED = ("source", "class_names", "mean", "std", "image_size")


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
    """Return the TrainedNetwork in a checkpoint.

    path: a .pt file of q2_fcn.py, q3_cnn.py or q5_transfer.py with its .json beside it, or what export.py writes: the
    folder, or the .safetensors file in it. Raises FileNotFoundError, or ValueError when the file holds another
    network, the record lacks what is needed, or the two are of different runs.
    """
    weights = load_weights(path, made_by="q3_cnn.py")
    network = recognise(path, weights)
    name = "q2_fcn" if isinstance(network[0], nn.Flatten) else "q3_cnn"
    record_path = record_of(path)
    if not record_path.is_file():
        raise FileNotFoundError(f"{path}: {record_path.name}, which {name}.py wrote beside it, is missing: copy it too")
    record = load_json(record_path)
    name = "q5_transfer" if name == "q3_cnn" and is_transferred(record) else name
    missing = [key for key in NEEDED if key not in record]
    if missing:
        raise ValueError(f"{record_path} lacks {', '.join(missing)}: rerun {name}.py")
    network.load_state_dict(weights)
    found = weights_hash(network.state_dict())
    if record.get("weights_sha256", found) != found:
        raise ValueError(f"{path} and {record_path.name} come from different runs: copy both from one folder")
    if len(record["class_names"]) != list(network.parameters())[-1].numel():
        raise ValueError(
            f"{record_path} names {len(record['class_names'])} classes, not the network's: rerun {name}.py"
        )
    return TrainedNetwork(network.eval(), record, name)


def recognise(path, weights):
    """Return the FCN or CNN, of any number of classes, whose state_dict has the names and shapes of `weights`."""
    if isinstance(weights, dict) and all(map(torch.is_tensor, weights.values())):
        for make_network, bias in ((make_fcn, "3.bias"), (make_cnn, "1.bias")):
            num_classes = weights[bias].numel() if bias in weights else 0
            if 0 < num_classes <= MOST_CLASSES:
                network = make_network(num_classes)
                if shapes_of(network.state_dict()) == shapes_of(weights):
                    return network
    raise ValueError(f"{path} holds none of the networks of {', '.join(f'{name}.py' for name in NETWORKS)}")


def is_transferred(record):
    """Return whether the record of a CNN is that of Q5, whose backbone is frozen."""
    if "network" in record:  # of export.py
        return record["network"] == "q5_transfer"
    names = record.get("class_names")
    frozen = len(names) == 2 if isinstance(names, list) else False  # in records without a count of what is trained
    return record["trainable_parameters"] < record["parameters"] if "trainable_parameters" in record else frozen


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
