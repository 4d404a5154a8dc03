"""Linear heads on the features of a frozen backbone, at their optimum, and the epochs of whole networks beside them."""

import math
import warnings

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def epochs_for(size, whole_size, epochs, batch_size=64):
    """Return the epochs with which `size` images give as many steps as `epochs` give with `whole_size`, rounded up."""
    steps = epochs * math.ceil(whole_size / batch_size)
    return math.ceil(steps / math.ceil(size / batch_size))


def head_accuracy(train, test, seed):
    """Return the test accuracy of logistic regression on standardised features, regularised as cross-validation says.

    train, test: features, float32 (n, d), and labels, int64 (n,). The strength is that of the lowest cross entropy in
    five folds, or as many as the rarest class allows, of `train` alone; with a single image of it in two.
    """
    (features, labels), (test_features, test_labels) = [[tensor.numpy() for tensor in pair] for pair in (train, test)]
    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) == 1:
        return float((test_labels == labels[0]).mean())
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = StratifiedKFold(int(np.clip(counts.min(), 2, 5)), shuffle=True, random_state=seed)
    strengths = {"logisticregression__C": np.logspace(-4, 1, 6)}
    if counts.max() > 1:
        model = GridSearchCV(model, strengths, scoring="neg_log_loss", cv=folds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class with a single image, and of folds without it
        return float((model.fit(features, labels).predict(test_features) == test_labels).mean())
