"""Linear heads on the features of a frozen backbone: trained by Adam, and the exact optimum of logistic regression."""

import math

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn.functional import cross_entropy

from common.train import train_epoch


def epochs_for(size, whole_size, epochs, batch_size=64):
    """Return the epochs with which `size` images give as many steps as `epochs` give with `whole_size`, rounded up."""
    steps = epochs * math.ceil(whole_size / batch_size)
    return math.ceil(steps / math.ceil(size / batch_size))


def train_head(features, labels, epochs, lr, seed, batch_size=64):
    """Return a linear head for two classes that Adam has trained on features, float32 (versions, n, d).

    Epoch e sees the version e modulo their number: the features of other crops of the same n images. labels:
    int64 (n,). Initial weights and order depend on `seed` alone.
    """
    torch.manual_seed(seed)
    head = nn.Linear(features.shape[2], 2)
    optimizer = torch.optim.Adam(head.parameters(), lr=lr, fused=True)
    for epoch in range(epochs):
        order = torch.randperm(len(labels)).split(batch_size)
        version = features[epoch % len(features)]
        batches = [(version[indices], labels[indices]) for indices in order]
        train_epoch(head, nn.CrossEntropyLoss(), optimizer, batches)
    return head


def optimal_head(features, labels):
    """Return the head with the lowest mean cross entropy on features, float32 (n, d), and labels, int64 (n,).

    It is unique but for directions in which no feature varies. None where a plane separates the two classes: then
    the loss has no minimum at finite weights. Not regularised; by
    scikit-learn's Newton steps on standardised features, in one thread: several that wait for busy cores take longer.
    """
    features, labels = features.double().numpy(), labels.numpy()
    varies = features.std(0) > 0  # a unit that never fires would make Newton's equations singular
    scaler = StandardScaler().fit(features[:, varies])
    scaled = scaler.transform(features[:, varies])
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8, max_iter=100)
    with threadpool_limits(1):
        model.fit(scaled, labels)
    if model.score(scaled, labels) == 1:
        return None
    direction = np.zeros(features.shape[1])
    direction[varies] = model.coef_[0] / scaler.scale_
    bias = model.intercept_[0] - direction[varies] @ scaler.mean_
    head = nn.Linear(len(direction), 2).double()
    with torch.no_grad():  # the two logits of opposite sign: their difference is scikit-learn's decision function
        head.weight.copy_(torch.from_numpy(np.stack((-direction, direction)) / 2))
        head.bias.copy_(torch.tensor((-bias / 2, bias / 2)))
    return head


@torch.no_grad()
def compare_heads(head, optimum, train, test):
    """Return how a head compares with the optimum on the features, (n, d), and labels of `train` and `test`.

    Keys: train_loss and test_loss, a pair each, of the head and of the optimum; agreement, the share of test images
    that both give the same class; angle, in degrees, between their decision directions in feature space; and
    correlation, of their differences of logits over the test images: 1 where they rank all images alike.
    """
    heads = head.double(), optimum.double()
    result = {}
    for name, (features, labels) in (("train", train), ("test", test)):
        logits = [each(features.double()) for each in heads]
        result[f"{name}_loss"] = [cross_entropy(each, labels).item() for each in logits]
    margins = torch.stack([each[:, 1] - each[:, 0] for each in logits])
    first, second = (each.weight[1] - each.weight[0] for each in heads)
    return result | {
        "agreement": ((margins[0] > 0) == (margins[1] > 0)).double().mean().item(),
        "angle": angle(first, second),
        "correlation": torch.corrcoef(margins)[0, 1].item(),
    }


def angle(first, second):
    """Return the angle in degrees between two vectors, float (d,)."""
    first, second = first / first.norm(), second / second.norm()
    return math.degrees(2 * math.atan2((first - second).norm().item(), (first + second).norm().item()))


def cross_validated_accuracy(train, test, seed):
    """Return the test accuracy of logistic regression on standardised features, regularised as cross-validation says.

    train, test: features, float32 (n, d), and labels, int64 (n,). The strength is that of the lowest cross entropy in
    five folds, or as many as the rarer class allows, of `train` alone; with fewer than two images of it C is 1.
    """
    (features, labels), (test_features, test_labels) = [[tensor.numpy() for tensor in pair] for pair in (train, test)]
    counts = np.bincount(labels, minlength=2)
    if counts.min() == 0:
        return float((test_labels == counts.argmax()).mean())
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    if counts.min() > 1:
        folds = StratifiedKFold(min(5, counts.min()), shuffle=True, random_state=seed)
        strengths = {"logisticregression__C": np.logspace(-4, 1, 6)}
        model = GridSearchCV(model, strengths, scoring="neg_log_loss", cv=folds)
    with threadpool_limits(1):
        return float((model.fit(features, labels).predict(test_features) == test_labels).mean())
