"""Q4: what the two networks confuse, and whether imbalance or likeness of classes is the cause.

Reads q1_data.pt, q2_fcn.pt and q3_cnn.pt with their .json. Writes, under --out, q4_confusion.png (both confusion
matrices on the whole test set, and each class's recall) and q4_confusion.json.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torchvision import transforms

from common import cli, metrics, plots
from common.confusion_sentences import describe_causes, recall_table
from common.data import Normalize, RandomCrop, make_loaders
from common.imbalance import effect_of_adjustment, recall_against_count
from common.likeness import confused_pairs, error_causes, feature_distances
from common.session import session
from common.storage.artifacts import load_data, save_question, without_nan
from common.storage.checkpoint import load_trained, weights_hash
from common.train import predict
from q2_fcn import make_fcn
from q3_cnn import make_cnn

EXAMPLES = (
    "python q4_confusion.py",
    "python q4_confusion.py --out artifacts --device cpu",
)
NUM_CLASSES = 8


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    cli.add_out_and_seed(parser)
    cli.add_device(parser)
    cli.add_force(parser)
    return parser.parse_args(argv)


def confusion_matrix(predictions, labels, num_classes):
    """Return the confusion matrix, int64 (num_classes, num_classes): rows the true class, columns the predicted.

    predictions, labels: int (n,), 0 to num_classes - 1.
    """
    cells = np.asarray(labels) * num_classes + np.asarray(predictions)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def adjust_logits(logits, train_counts):
    """Return the logits minus the logarithm of the training frequencies (Menon et al. 2021, arXiv:2007.07314, tau 1).

    logits: float32 (n, k); train_counts: int (k,). Predicting the class with the largest adjusted logit aims at the
    mean recall of the classes instead of the accuracy. A class without training images is never predicted.
    """
    frequencies = torch.tensor(train_counts, dtype=logits.dtype) / sum(train_counts)
    return torch.where(frequencies > 0, logits - frequencies.log(), -torch.inf)


def analyse(logits, labels, train_counts, distances, seed):
    """Return the results of one network, by name: what it confuses on the test set, and why.

    logits: float32 (n, k), labels: int64 (n,), of the whole test set; distances: as `feature_distances` gives them.
    """
    predictions, adjusted = logits.argmax(1), adjust_logits(logits, train_counts).argmax(1)
    matrix, adjusted_matrix = (confusion_matrix(each, labels, NUM_CLASSES) for each in (predictions, adjusted))
    adjustment = effect_of_adjustment(matrix, adjusted_matrix, labels, predictions, adjusted)
    pairs = confused_pairs(matrix, adjusted_matrix, distances)
    return {
        "confusion": matrix.tolist(),
        "accuracy": int(np.trace(matrix)) / int(matrix.sum()),
        **{name: values.tolist() for name, values in metrics.per_class(matrix).items()},
        "recall_interval": metrics.recall_intervals(matrix).tolist(),
        "recall_against_count": recall_against_count(matrix, train_counts, seed),
        "adjusted": adjustment,
        "confused_pairs": pairs,
        "causes": error_causes(labels, predictions, adjusted, adjustment, pairs, train_counts),
    }


def confusion_figure(record):
    """Return a figure of each network's confusion matrix, and below it the recalls without and with adjustment."""
    figure, axes = plt.subplots(
        2, 2, figsize=(15, 12.6), layout="constrained", sharey="row", gridspec_kw={"height_ratios": (8.2, 5)}
    )
    for (above, below), (model, results) in zip(axes.T, record["models"].items(), strict=True):
        title = f"{model.upper()}: accuracy {results['accuracy']:.1%}"
        plots.draw_confusion(above, np.array(results["confusion"]), record["class_names"], title)
        plots.draw_recalls(below, results, record["class_names"], record["train_counts"])
    for ax in axes[:, 1]:
        ax.set_ylabel("")
    figure.suptitle(plots.titled("Confusion on the whole test set", record["source"]))
    return figure


def main():
    args = get_args()
    with session(args.out, "q4_confusion", args.device) as device:
        data = load_data(args.out)
        networks = {"fcn": make_fcn(), "cnn": make_cnn()}
        for script, network in zip(("q2_fcn", "q3_cnn"), networks.values(), strict=True):
            load_trained(network, Path(args.out) / f"{script}.pt", data, f"{script}.py", args.force)
            network.to(device)
        transform = transforms.Compose([RandomCrop(48), Normalize(data["mean"], data["std"])])
        _, test_loader = make_loaders(data, "main", transform, batch_size=64, device=device)
        train_counts, test_counts = (
            torch.bincount(data[f"main_{subset}_labels"], minlength=NUM_CLASSES).tolist()
            for subset in ("train", "test")
        )
        cnn_backbone, _ = networks["cnn"]
        features, labels = predict(cnn_backbone, test_loader)
        distances = feature_distances(features, labels, NUM_CLASSES)  # how alike the classes are, for both networks

        record = {
            "source": data["source"],
            "fingerprint": data["fingerprint"],
            "made_from": {"q1_data": data["fingerprint"]},
            "args": vars(args),
            "class_names": data["class_names"][:NUM_CLASSES],
            "train_counts": train_counts,
            "test_counts": test_counts,
            "feature_distances": distances.tolist(),
            "models": {},
        }
        for name, network in networks.items():
            record["made_from"][name] = weights_hash(network.state_dict())
            logits, labels = predict(network, test_loader)
            record["models"][name] = analyse(logits, labels, train_counts, distances, args.seed)
        record = without_nan(record)
        for name in networks:
            print(recall_table(record, name))
            print(describe_causes(record, name), end="\n\n")
        save_question(args.out, "q4_confusion", None, confusion_figure(record), record)


if __name__ == "__main__":
    cli.run(main)
