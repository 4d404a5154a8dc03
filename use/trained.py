"""A trained network and what must be known to use it: classes, normalisation and sizes."""

from pathlib import Path
from typing import NamedTuple

from common.galaxies.facts import source_title
from common.storage.artifacts import load_json
from common.storage.checkpoint import load_weights, record_of, shapes_of, weights_hash
from q2_fcn import make_fcn
from q3_cnn import make_backbone, make_cnn

import torch
from torch import nn

CROP_SIZE = 48  # pixels: what all networks of the assignment see of an image
NEEDED = ("source", "class_names", "mean", "std", "image_size")


def make_transfer():
    """Return Q5's network: crops (n, 3, 48, 48) to logits (n, 2)."""
    return nn.Sequential(make_backbone(), nn.Linear(64, 2))


NETWORKS = {"q2_fcn": make_fcn, "q3_cnn": make_cnn, "q5_transfer": make_transfer}


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
    name, network = recognise(path, weights)
    record_path = record_of(path)
    if not record_path.is_file():
        raise FileNotFoundError(f"{path}: {record_path.name}, which {name}.py wrote beside it, is missing: copy it too")
    record = load_json(record_path)
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
    """Return the name and the network, in NETWORKS, whose state_dict has the names and shapes of `weights`."""
    networks = {name: make() for name, make in NETWORKS.items()}
    if isinstance(weights, dict) and all(map(torch.is_tensor, weights.values())):
        for name, network in networks.items():
            if shapes_of(network.state_dict()) == shapes_of(weights):
                return name, network
    raise ValueError(f"{path} holds none of the networks of {', '.join(f'{name}.py' for name in networks)}")


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
