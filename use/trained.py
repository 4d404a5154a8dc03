"""A trained network and what must be known to use it: classes, normalisation and sizes."""

import torch
from torch import nn

from common.storage.artifacts import load_json
from common.storage.checkpoint import load_weights, record_of, shapes_of, weights_hash
from q2_fcn import make_fcn
from q3_cnn import make_backbone, make_cnn

CROP_SIZE = 48  # pixels: what all networks of the assignment see of an image
NEEDED = ("source", "class_names", "mean", "std", "image_size")


def make_transfer():
    """Return Q5's network: crops (n, 3, 48, 48) to logits (n, 2)."""
    return nn.Sequential(make_backbone(), nn.Linear(64, 2))


NETWORKS = {"q2_fcn": make_fcn, "q3_cnn": make_cnn, "q5_transfer": make_transfer}


def load_network(path):
    """Return the network in a checkpoint, its record, a dict, and its name in NETWORKS.

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
        raise ValueError(f"{path} and {record_path.name} are of two different runs: copy both from one folder")
    if len(record["class_names"]) != list(network.parameters())[-1].numel():
        raise ValueError(
            f"{record_path} names {len(record['class_names'])} classes, not the network's: rerun {name}.py"
        )
    return network.eval(), record, name


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
    names = {
        "galaxy10-sdss": "Galaxy10 SDSS",
        "galaxy10-decals": "Galaxy10 DECaLS",
        "synthetic": "SYNTHETIC galaxies, so its answers say nothing about real ones",
    }
    return names.get(record["source"], record["source"].removeprefix("file:"))
