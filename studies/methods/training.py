"""The training runs of Q2 and Q3 inside a study: the same networks, learning rates, crops and steps."""

from functools import partial
from pathlib import Path

from common import plots
from common.data import Normalize, RandomCrop, make_loaders
from common.galaxies.split import task_names
from common.hardware.device import adam_options, place
from common.storage.artifacts import load_tensors, save_tensors
from common.storage.atomic import exclusive_lock
from common.train import train_epochs
from q2_fcn import make_fcn
from q3_cnn import make_cnn

import torch
from torch import nn
from torchvision import transforms

NETWORKS = {"fcn": (make_fcn, 0.001), "cnn": (make_cnn, 0.002)}  # and Adam's learning rate, of Q2 and Q3
COLOURS = dict(zip(NETWORKS, plots.COLOURS, strict=True))


def crop_and_normalise(data, *others):
    """Return Q1's transform: random crops, normalised by `data`'s mean and std, then `others`."""
    return transforms.Compose([RandomCrop(48), Normalize(data["mean"], data["std"]), *others])


def main_task(data, device, **options):
    """Return the main Task of Q1's `data` with its transform on `device`; options: as `make_loaders` takes them."""
    return place(make_loaders(data, "main", crop_and_normalise(data), **options), device)


def network_of(name, data):
    """Return the function that makes the network `name` of NETWORKS for Q1's `data`, and its learning rate."""
    make_network, lr = NETWORKS[name]
    return partial(make_network, len(task_names(data)["main"])), lr


def train_network(make_network, lr, train_loader, epochs, seed, device, criterion=None):
    """Return a network trained as q2_fcn.py and q3_cnn.py do with `--seed SEED`, bit for bit with as many threads.

    make_network: a function; criterion: unless given, nn.CrossEntropyLoss(). Nothing is tested on the way.
    """
    torch.manual_seed(seed)
    network = make_network().to(device)
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=lr, **adam_options(device))
    for _ in train_epochs(network, criterion or nn.CrossEntropyLoss(), optimizer, train_loader, epochs, seed):
        pass
    return network


def seed_network(name, data, out, seed, epochs, device):
    """Return the network `name` of NETWORKS as `train_network` trains it on Q1's `data`, of any split.

    It is trained once for all studies: its weights are kept in {out}/studies/networks, in a file whose name tells all
    that they depend on.
    """
    make_network, lr = network_of(name, data)
    depends_on = f"{data['fingerprint'][:16]}-seed-{seed}-epochs-{epochs}-{device.type}"
    path = Path(out) / "studies" / "networks" / f"{name}-{depends_on}.pt"
    with exclusive_lock(path.parent, path.stem, timeout=-1):  # while another study trains it, this one waits
        if not path.is_file():
            network = train_network(make_network, lr, main_task(data, device).train_loader, epochs, seed, device)
            save_tensors(network.state_dict(), path)
    network = make_network().to(device)
    network.load_state_dict(load_tensors(path, made_by="the study"))
    return network
