"""Linear heads on the features of a frozen backbone, at their optimum, and the epochs of whole networks beside them."""

import math

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

BATCH_SIZE = 64  # of Q1 to Q5


def epochs_for(size, whole_size, epochs):
    """Return the epochs with which `size` images give as many steps as `epochs` give with `whole_size`, rounded up."""
    steps = epochs * math.ceil(whole_size / BATCH_SIZE)
    return math.ceil(steps / math.ceil(size / BATCH_SIZE))


def head_accuracy(train, test, seed):
    """Return the test accuracy of logistic regression on standardised features, regularised as cross-validation says.

    train, test: features, float32 (n, d), and labels, int64 (n,). The strength is that of the lowest cross entropy in
    five folds of `train` alone, or as many as the rarest class allows, which leave out classes with a single image.
    """
    # In float64: in float32 the optimiser's line search can fail on features that hardly differ.
    (features, labels), (test_features, test_labels) = (
        (features.double().numpy(), labels.numpy()) for features, labels in (train, test)
    )
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) == 1:
        return float((test_labels == classes[0]).mean())
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    several = np.isin(labels, classes[counts > 1])  # a single image cannot be in both parts of a division
    if len(np.unique(labels[several])) > 1:
        folds = StratifiedKFold(min(counts[counts > 1].min(), 5), shuffle=True, random_state=seed)
        strengths = {"logisticregression__C": np.logspace(-4, 1, 6)}
        search = GridSearchCV(model, strengths, scoring="neg_log_loss", cv=folds, refit=False)
        model.set_params(**search.fit(features[several], labels[several]).best_params_)
    return float((model.fit(features, labels).predict(test_features) == test_labels).mean())
