"""The trainings of Q2 and Q3 inside a study: the same networks, learning rates, crops and steps."""

from pathlib import Path

import torch
from torch import nn
from torchvision import transforms

from common import plots
from common.data import Normalize, RandomCrop, make_loader
from common.hardware.device import adam_options
from common.storage.artifacts import load_tensors, save_tensors
from common.storage.atomic import exclusive_lock
from common.train import train
from q2_fcn import make_fcn
from q3_cnn import make_cnn
from studies.runs import torch_threads

NETWORKS = {"fcn": (make_fcn, 0.001), "cnn": (make_cnn, 0.002)}  # and Adam's learning rate, of Q2 and Q3
COLOURS = dict(zip(NETWORKS, plots.COLOURS, strict=True))


def crop_and_normalise(data, *others):
    """Return Q1's transform: random crops, normalised by `data`'s mean and std, then `others`."""
    return transforms.Compose([RandomCrop(48), Normalize(data["mean"], data["std"]), *others])


def train_network(make_network, lr, train_loader, epochs, seed, device, criterion=None):
    """Return a network trained as q2_fcn.py and q3_cnn.py do with `--seed SEED`, bit for bit.

    make_network: a function; criterion: unless given, nn.CrossEntropyLoss(). Nothing is tested on the way.
    """
    torch.manual_seed(seed)
    network = make_network().to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr, **adam_options(device))
    train(network, criterion or nn.CrossEntropyLoss(), optimizer, train_loader, few_images(train_loader), epochs, seed)
    return network


def few_images(loader):
    """Return a loader of 8 training images: `train` measures on it after each epoch what no study reads."""
    dataset = loader.dataset
    few = make_loader(dataset.data[:8], dataset.target[:8], dataset.transform)
    device = next(iter(loader))[0].device
    return few if device.type == "cpu" else type(loader)(few, device)


def seed_network(name, data, train_loader, epochs, seed, device, out, threads):
    """Return the network `name` of NETWORKS as `train_network` trains it on all of `data`, once for all studies.

    Its weights are kept in {out}/studies/networks, in a file whose name tells all that they depend on.
    threads: those to train with; a script by itself has torch.get_num_threads().
    """
    make_network, lr = NETWORKS[name]
    made_of = f"{data['fingerprint'][:16]}-seed-{seed}-epochs-{epochs}-threads-{threads}-{device.type}"
    path = Path(out) / "studies" / "networks" / f"{name}-{made_of}.pt"
    with exclusive_lock(path.parent, path.stem, patience=-1):  # while another study trains it, this one waits
        if not path.is_file():
            with torch_threads(threads):
                network = train_network(make_network, lr, train_loader, epochs, seed, device)
            save_tensors(network.state_dict(), path)
    network = make_network().to(device)
    network.load_state_dict(load_tensors(path, made_by="the study"))
    return network
