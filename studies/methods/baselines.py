"""What the networks have to beat: a linear layer, and the nearest neighbours of downsampled pixels."""

from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d


def softmax_regression(num_classes=8):
    """Return one linear layer: crops, float32 (n, 3, 48, 48), to logits (n, num_classes)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 48 * 48, num_classes))


def nearest_neighbours(data, seed):
    """Return the metrics of k nearest neighbours on 12 x 12 means of the central 48 x 48 pixels.

    k is chosen by cross-validation on the training images. data: Q1's dict; seed: of the division into five.
    """
    features = {}
    for subset in ("train", "test"):
        images = data[f"main_{subset}_images"]
        top, left = ((side - 48) // 2 for side in images.shape[2:])
        centre = images[:, :, top : top + 48, left : left + 48].float()
        features[subset] = adaptive_avg_pool2d(centre, 12).flatten(1).numpy()
    labels = {subset: data[f"main_{subset}_labels"].numpy() for subset in features}
    parts = KFold(5, shuffle=True, random_state=seed)
    largest = int(0.8 * len(labels["train"])) - 1
    ks = [k for k in (1, 3, 5, 10, 20, 40) if k <= largest]
    search = GridSearchCV(KNeighborsClassifier(), {"n_neighbors": ks}, cv=parts).fit(features["train"], labels["train"])
    accuracy = float(search.score(features["test"], labels["test"]))
    return {"test_accuracy": accuracy, "test_count": len(labels["test"]), "k": search.best_params_["n_neighbors"]}
