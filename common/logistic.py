"""The exact optimum of what Q5's head is trained for: logistic regression on the backbone's features."""

import copy

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from common import metrics
from common.train import loss_and_accuracy, predict


def compare_with_logistic_regression(model, criterion, train_loader, test_loader, epochs, seed):
    """Return how scikit-learn's logistic regression on the backbone's features compares with the trained head.

    It is fitted to the features of the same crops that the head was trained on, epoch by epoch. train_loss and
    head_train_loss are the mean losses of both on these features; accuracy and test_loss are of scikit-learn's;
    agreement is the share of test images with equal predictions; mcnemar compares which of the two is correct on
    each test image.
    """
    cnn_backbone, classifier_head = model
    crops = [predict(cnn_backbone, train_loader, seed, epoch) for epoch in range(1, epochs + 1)]
    features, labels = (torch.cat(tensors) for tensors in zip(*crops, strict=True))
    test_features, test_labels = predict(cnn_backbone, test_loader)
    # C is the inverse of the regularisation: practically none, as the head has none.
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=1e4, max_iter=1000)).fit(features, labels)
    # Of two classes it gives the logit of the second; that of the first is zero.
    second = (torch.from_numpy(regression.decision_function(batch)) for batch in (features, test_features))
    logits, test_logits = (torch.stack((torch.zeros_like(each), each), dim=1) for each in second)
    with torch.no_grad():
        head_logits = copy.deepcopy(classifier_head).cpu()(features)
    predictions, head_predictions = test_logits.argmax(1), predict(model, test_loader)[0].argmax(1)
    test_loss, accuracy = loss_and_accuracy(criterion, test_logits, test_labels)
    return {
        "accuracy": accuracy,
        "test_loss": test_loss,
        "train_loss": loss_and_accuracy(criterion, logits, labels)[0],
        "head_train_loss": loss_and_accuracy(criterion, head_logits, labels)[0],
        "agreement": (predictions == head_predictions).double().mean().item(),
        "mcnemar": metrics.mcnemar(head_predictions == test_labels, predictions == test_labels),
    }
