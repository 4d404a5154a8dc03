"""Compare Q5's head with logistic regression: the same model on the same features, at scikit-learn's optimum."""

import json

from common.data import load_data
from common.train import predict
from q3_cnn import make_backbone
from q5_transfer import compare_with_optimum

import numpy as np
import pytest
import torch
from conftest import crop_transform, float32_tolerance, loaders_of, products_of, run_well, subset, write_galaxy10
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import nn

EPOCHS, SEED, FEATURES = 60, 0, 3


def write_coloured(path):
    """Write images of one colour with noise; the colours of classes 8 and 9 overlap."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10, dtype=np.uint8), [4] * 8 + [150] * 2)
    colours = rng.normal(110 + 20 * (labels == 9)[:, None], 20, (len(labels), 3))
    images = rng.normal(colours[:, None, None], 10, (len(labels), 69, 69, 3)).clip(0, 255).astype(np.uint8)
    return write_galaxy10(path, images=images, ans=labels)


def transfer_loaders(data):
    train, test = (subset(data, f"transfer_{half}") for half in ("train", "test"))
    return loaders_of(train, test, crop_transform(data["mean"], data["std"]), batch_size=50)


def whitened_backbone(loader):
    """Return a backbone with random weights and three uncorrelated features of standard deviation 1; others are zero.

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
    """Run a long Q5 from the command line on 200 images of two classes; return the folder."""
    out = tmp_path_factory.mktemp("transfer")
    sizes = ("--main-train", 16, "--transfer-train", 200)
    run_well("q1_data.py", "--data", write_coloured(out / "galaxies.h5"), *sizes, "--out", out)
    backbone = whitened_backbone(transfer_loaders(load_data(out))[0])
    torch.save(backbone.state_dict(), out / "backbone.pt")
    options = ("--epochs", EPOCHS, "--lr", 0.05, "--batch-size", 50, "--seed", SEED, "--device", "cpu")
    run_well("q5_transfer.py", "--backbone", out / "backbone.pt", *options, "--out", out)
    return out


def trained(out):
    """Return Q5's network in a folder, and its loaders."""
    model = nn.Sequential(make_backbone(), nn.Linear(64, 2))
    model.load_state_dict(torch.load(out / "q5_transfer.pt", weights_only=True))
    return model, *transfer_loaders(load_data(out))


def features_of(backbone, loader, epochs):
    """Return the features, float64, and labels of all crops that a head is trained on."""
    passes = [predict(backbone, loader, SEED, epoch) for epoch in range(1, epochs + 1)]
    return (torch.cat(tensors).double().numpy() for tensors in zip(*passes, strict=True))


def probabilities(head, features):
    logits = features @ head.weight.detach().double().numpy().T + head.bias.detach().double().numpy()
    return torch.from_numpy(logits).softmax(1).numpy()


def rounding(head, features):
    """Return the rounding error of a loss from float32 logits: it is a logit and the log of a sum of others."""
    return 2 * float32_tolerance(products_of(head), head(torch.from_numpy(features).float()))


def test_q5s_head_agrees_with_logistic_regression_and_its_loss_is_not_below_the_optimum(transferred):
    (backbone, head), train_loader, test_loader = trained(transferred)
    features, labels = features_of(backbone, train_loader, EPOCHS)
    test_features, test_labels = (tensor.double().numpy() for tensor in predict(backbone, test_loader))
    # The optimum: without a penalty, in float64, by Newton's method to a gradient of 1e-8.
    optimum = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8)
    optimum.fit(features[:, :FEATURES], labels)
    lowest = log_loss(labels, optimum.predict_proba(features[:, :FEATURES]))
    loss = log_loss(labels, probabilities(head, features))
    assert 0.1 < lowest < 0.6  # there is something to learn, and the classes overlap, so an optimum exists
    assert loss > lowest - 1e-9
    # Adam's last steps leave it about 2e-4 above, because the crops differ between batches.
    assert loss < lowest + 2e-3
    answers, expected = probabilities(head, test_features).argmax(1), optimum.predict(test_features[:, :FEATURES])
    assert (answers == expected).mean() >= 0.95
    assert (expected == test_labels).mean() > 0.6
    # Q5's record of the same comparison, with practically no regularisation.
    recorded = json.loads((transferred / "q5_transfer.json").read_text())["logistic_regression"]
    assert recorded["train_loss"] == pytest.approx(lowest, abs=1e-4)
    assert recorded["head_train_loss"] == pytest.approx(loss, abs=rounding(head, features))
    one_image = 1.01 / len(test_labels)  # as close to the boundary as the two solvers to each other
    assert recorded["agreement"] == pytest.approx((answers == expected).mean(), abs=one_image)
    assert recorded["accuracy"] == pytest.approx((expected == test_labels).mean(), abs=one_image)


def test_the_comparison_with_the_optimum_accepts_class_weights(transferred):
    model, *loaders = trained(transferred)
    weights = torch.tensor([1.0, 3.0])
    found = compare_with_optimum(model, nn.CrossEntropyLoss(weight=weights), *loaders, epochs=2, seed=SEED)
    features, labels = features_of(model[0], loaders[0], epochs=2)
    expected = log_loss(labels, probabilities(model[1], features), sample_weight=weights.numpy()[labels.astype(int)])
    assert found["logistic_regression"]["head_train_loss"] == pytest.approx(expected, abs=rounding(model[1], features))
