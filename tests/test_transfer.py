"""Q5's head against logistic regression: the same model on the same features, at scikit-learn's optimum."""

import numpy as np
import pytest
import torch
from conftest import crop_transform, run_well, write_galaxy10
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import nn

from common.data import make_loaders
from common.storage.artifacts import load_data
from common.train import predict
from q3_cnn import make_backbone

CPU = torch.device("cpu")
EPOCHS, SEED, FEATURES = 60, 0, 3


def write_coloured(path):
    """Write images of one colour and noise; the colours of classes 8 and 9 overlap."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10, dtype=np.uint8), [4] * 8 + [150] * 2)
    colours = rng.normal(110 + 20 * (labels == 9)[:, None], 20, (len(labels), 3))
    images = rng.normal(colours[:, None, None], 10, (len(labels), 69, 69, 3)).clip(0, 255).astype(np.uint8)
    return write_galaxy10(path, images=images, ans=labels)


def loaders(data, batch_size):
    return make_loaders(data, "transfer", crop_transform(data["mean"], data["std"]), batch_size, CPU)


def whitened_backbone(loader):
    """Return a backbone of random weights with three features of deviation 1 and no correlation, the others zero.

    On such features Adam is near the optimum after a few hundred steps.
    """
    torch.manual_seed(0)
    backbone = make_backbone()
    hidden = predict(backbone[:9], loader)[0]
    _, deviations, directions = torch.pca_lowrank(hidden, FEATURES)
    weights = (directions / deviations * len(hidden) ** 0.5).T
    with torch.no_grad():
        for parameter in backbone[9].parameters():
            parameter.zero_()
        backbone[9].weight[:FEATURES] = weights
        backbone[9].bias[:FEATURES] = 1.5 - weights @ hidden.mean(0)  # so that ReLU cuts off little
    return backbone


@pytest.fixture(scope="module")
def transferred(tmp_path_factory):
    """The folder of a long Q5, by the command line, on 200 images of two classes."""
    out = tmp_path_factory.mktemp("transfer")
    sizes = ("--main-train", 16, "--transfer-train", 200)
    run_well("q1_data.py", "--data", write_coloured(out / "galaxies.h5"), *sizes, "--out", out)
    backbone = whitened_backbone(loaders(load_data(out), 64)[0])
    torch.save(backbone.state_dict(), out / "backbone.pt")
    options = ("--epochs", EPOCHS, "--lr", 0.05, "--batch-size", 50, "--seed", SEED, "--device", "cpu")
    run_well("q5_transfer.py", "--backbone", out / "backbone.pt", *options, "--out", out)
    return out


def test_q5s_head_agrees_with_logistic_regression_and_its_loss_is_not_below_the_optimum(transferred):
    model = nn.Sequential(make_backbone(), nn.Linear(64, 2))
    model.load_state_dict(torch.load(transferred / "q5_transfer.pt", weights_only=True))
    backbone, head = model
    train_loader, test_loader = loaders(load_data(transferred), 50)
    # The features of all crops that the head was trained on, and of the test set's.
    epochs = [predict(backbone, train_loader, SEED, epoch) for epoch in range(1, EPOCHS + 1)]
    features, labels = (torch.cat(tensors).double().numpy() for tensors in zip(*epochs, strict=True))
    test_features, test_labels = (tensor.double().numpy() for tensor in predict(backbone, test_loader))
    # Without a penalty, in float64, by Newton's method to a gradient of 1e-8: the optimum.
    optimum = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8)
    optimum.fit(features[:, :FEATURES], labels)

    def probabilities(features):
        logits = features @ head.weight.detach().double().numpy().T + head.bias.detach().double().numpy()
        return torch.from_numpy(logits).softmax(1).numpy()

    lowest = log_loss(labels, optimum.predict_proba(features[:, :FEATURES]))
    loss = log_loss(labels, probabilities(features))
    assert 0.1 < lowest < 0.6  # there is something to learn, and the classes overlap, so that there is an optimum
    assert loss > lowest - 1e-9
    # Adam's last steps leave it some 2e-4 above: the crops of a batch are not those of the next.
    assert loss < lowest + 2e-3
    answers, expected = probabilities(test_features).argmax(1), optimum.predict(test_features[:, :FEATURES])
    assert (answers == expected).mean() >= 0.95
    assert (expected == test_labels).mean() > 0.6
