"""Train the networks of Q2 and Q3 in a study, with the defaults of their scripts, and linear heads on features."""

import hashlib
from functools import partial
from pathlib import Path

import q2_fcn
import q3_cnn
import q5_transfer
from common import plots
from common.data import Loader, MyDataset, RandomCrop
from common.galaxies.split import task_names
from common.hardware.device import adam_options
from common.storage.artifacts import load_tensors, save_tensors
from common.storage.atomic import exclusive_lock
from common.storage.checkpoint import weights_hash
from common.storage.resume import definition
from common.train import predict, train

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torchvision import transforms

NETWORKS = {"fcn": q2_fcn.make_fcn, "cnn": q3_cnn.make_cnn}
COLOURS = dict(zip(NETWORKS, plots.COLOURS, strict=True))
# The default options of the scripts: learning rate, batch size, epochs.
DEFAULTS = {"fcn": q2_fcn.get_args([]), "cnn": q3_cnn.get_args([]), "transfer": q5_transfer.get_args([])}


def training_settings():
    """Return the settings of training besides data, seed and epochs: learning rate, batch size and a hash of layers."""
    settings = {name: {"lr": args.lr, "batch_size": args.batch_size} for name, args in DEFAULTS.items()}
    for name, make_network in NETWORKS.items():
        settings[name]["layers"] = layers_hash(make_network)
    return settings


def layers_hash(make_network):
    """Return a hash of a network's definition and its initial weights; make_network: a function without arguments."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = make_network()
    return short_hash((definition(network), weights_hash(network.state_dict())))


def short_hash(value):
    """Return 16 hexadecimal digits of the SHA-256 of a value's repr."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def make_loader(data, subset, device="cpu", augmentations=(), **options):
    """Return the Loader of a subset of Q1's `data`, such as main_test, with the assignment's transform.

    augmentations: further transforms; options: of Loader.
    """
    transform = transforms.Compose([RandomCrop(48), transforms.Normalize(data["mean"], data["std"]), *augmentations])
    return Loader(MyDataset(data[f"{subset}_images"], data[f"{subset}_labels"], transform), device=device, **options)


def accuracy_of(network, test_loader):
    """Return the share of correct predictions."""
    logits, labels = predict(network, test_loader)
    return (logits.argmax(1) == labels).double().mean().item()


def train_network(make_network, lr, train_loader, epochs, seed, device, criterion=None):
    """Return a network trained as in the scripts with `--seed SEED`: the same bits for the same number of threads.

    make_network: a function without arguments; criterion: by default nn.CrossEntropyLoss().
    """
    torch.manual_seed(seed)
    network, criterion = make_network().to(device), (criterion or nn.CrossEntropyLoss()).to(device)
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=lr, **adam_options(device))
    images = train_loader.dataset
    # `train` evaluates after every epoch, which studies do not need; a single test image takes no time.
    one_image = Loader(MyDataset(images.data[:1], images.target[:1], images.transform), device=device)
    train(network, criterion, optimizer, train_loader, one_image, epochs, seed, quiet=True)
    return network


def train_on_main(name, data, epochs, seed, device, criterion=None, **options):
    """Return the network `name` of NETWORKS, trained on the main classes of Q1's `data` with its script's defaults.

    options: of `make_loader`, for the training images.
    """
    lr, batch_size = DEFAULTS[name].lr, DEFAULTS[name].batch_size
    make_network = partial(NETWORKS[name], len(task_names(data)["main"]))
    loader = make_loader(data, "main_train", device, batch_size=batch_size, shuffle=True, **options)
    return train_network(make_network, lr, loader, epochs, seed, device, criterion)


def seed_network(name, data, out, seed, epochs, device):
    """Return the network `name` of NETWORKS, trained by `train_on_main` on Q1's `data` once for all studies.

    The weights are saved in {out}/studies/networks; the file name contains everything they depend on.
    """
    depends_on = f"{data['fingerprint'][:16]}-{short_hash(training_settings()[name])}-seed-{seed}-epochs-{epochs}"
    path = Path(out) / "studies" / "networks" / f"{name}-{depends_on}-{device.type}.pt"
    with exclusive_lock(path.parent, path.stem, timeout=-1):  # wait while another study trains it
        if not path.is_file():
            save_tensors(train_on_main(name, data, epochs, seed, device).state_dict(), path)
    network = NETWORKS[name](len(task_names(data)["main"])).to(device)
    network.load_state_dict(load_tensors(path, made_by="the study"))
    return network


def head_accuracy(train_pair, test_pair, seed):
    """Return the test accuracy of logistic regression on standardised features.

    The pairs are features, float32 (n, d), and labels, int64 (n,). The regularisation minimises the cross entropy in
    cross-validation, in five folds or as many as the rarest class allows; classes with a single image are left out.
    """
    # float64, because in float32 the line search can fail if features hardly differ.
    (features, labels), (test_features, test_labels) = (
        (features.double().numpy(), labels.numpy()) for features, labels in (train_pair, test_pair)
    )
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) == 1:
        return float((test_labels == classes[0]).mean())
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    several = np.isin(labels, classes[counts > 1])  # a single image cannot be in both halves
    if len(np.unique(labels[several])) > 1:
        folds = StratifiedKFold(min(counts[counts > 1].min(), 5), shuffle=True, random_state=seed)
        strengths = {"logisticregression__C": np.logspace(-4, 1, 6)}
        search = GridSearchCV(model, strengths, scoring="neg_log_loss", cv=folds, refit=False)
        model.set_params(**search.fit(features[several], labels[several]).best_params_)
    return float((model.fit(features, labels).predict(test_features) == test_labels).mean())
