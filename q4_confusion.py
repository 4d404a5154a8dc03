"""Q4: what the two networks confuse, and how far the unbalanced training set explains it.

Reads q1_data.pt, q2_fcn.pt and q3_cnn.pt with their .json. Writes, under --out, q4_confusion.png (both confusion
matrices on the whole test set) and q4_confusion.json.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from torchvision import transforms

from common import cli, metrics, plots
from common.data import Normalize, RandomCrop, make_loaders
from common.session import session
from common.storage.artifacts import load_data, save_question
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


def recall_against_count(matrix, train_counts):
    """Return how recall goes with the number of training images, over the classes that have both.

    Keys: spearman and pearson (of recall and log10 of the count), and worse_than_count: the classes for
    which the straight line through recall against log10 count lies above recall's whole 95 % interval.
    """
    tested = [label for label in range(len(matrix)) if matrix[label].sum() > 0 and train_counts[label] > 0]
    count = np.log10([train_counts[label] for label in tested])
    recall = metrics.per_class(matrix)["recall"][tested]
    if len(tested) < 3 or np.ptp(recall) == 0 or np.ptp(count) == 0:
        return {"spearman": float("nan"), "pearson": float("nan"), "worse_than_count": []}
    line = np.polyval(np.polyfit(count, recall, 1), count)
    highest = [metrics.accuracy_interval(matrix[label, label], matrix[label].sum())[1] for label in tested]
    worse = [label for label, expected, high in zip(tested, line, highest, strict=True) if expected > high]
    return {
        "spearman": float(spearmanr(count, recall).statistic),
        "pearson": float(pearsonr(count, recall).statistic),
        "worse_than_count": worse,
    }


def most_taken_for(matrix, label):
    """Return the class that images of `label` are most often mistaken for, or None if they never are."""
    mistakes = matrix[label].copy()
    mistakes[label] = 0
    return int(mistakes.argmax()) if mistakes.any() else None


def describe(record, matrices):
    """Print a table by class, and how recall goes with the training counts."""
    names = record["class_names"]
    headers = (f"{model.upper()} recall, mostly taken for" for model in matrices)
    print(f"{'class':31}{'trained on':>10}   " + "".join(f"{header:45}" for header in headers))
    for label, name in enumerate(names):
        row = f"{label} {name:29}{record['train_counts'][label]:10,}   "
        for model, matrix in matrices.items():
            recall, other = record["models"][model]["recall"][label], most_taken_for(matrix, label)
            figure = "      –" if np.isnan(recall) else f"{recall:7.1%}"
            row += f"{figure}  {'–' if other is None else names[other]:36}"
        print(row.rstrip())
    for model in matrices:
        explained = record["models"][model]["recall_against_count"]
        worse = "; ".join(names[label] for label in explained["worse_than_count"]) or "none"
        print(
            f"{model.upper()}: recall and training count correlate by {explained['spearman']:.2f} in rank (Spearman), "
            f"{explained['pearson']:.2f} with the count's logarithm (Pearson). "
            f"Worse than their count explains: {worse}."
        )


def confusion_figure(record, matrices):
    """Return a figure of all confusion matrices side by side."""
    figure, axes = plt.subplots(1, len(matrices), figsize=(15, 8.7), layout="compressed", sharey=True)
    for ax, (model, matrix) in zip(axes, matrices.items(), strict=True):
        title = f"{model.upper()}: accuracy {record['models'][model]['accuracy']:.1%}"
        plots.draw_confusion(ax, matrix, record["class_names"], title)
    axes[1].set_ylabel("")
    figure.suptitle(plots.titled("Confusion on the whole test set", record["source"]))
    return figure


def main():
    args = get_args()
    with session(args.out, "q4_confusion", args.device) as device:
        data = load_data(args.out)
        networks = {"fcn": make_fcn(), "cnn": make_cnn()}
        for script, network in zip(("q2_fcn", "q3_cnn"), networks.values(), strict=True):
            load_trained(network, Path(args.out) / f"{script}.pt", data, f"{script}.py", args.force)
        transform = transforms.Compose([RandomCrop(48), Normalize(data["mean"], data["std"])])
        _, test_loader = make_loaders(data, "main", transform, batch_size=64, device=device)
        train_counts = torch.bincount(data["main_train_labels"], minlength=NUM_CLASSES).tolist()

        record = {
            "source": data["source"],
            "fingerprint": data["fingerprint"],
            "made_from": {"q1_data": data["fingerprint"]},
            "args": vars(args),
            "class_names": data["class_names"][:NUM_CLASSES],
            "train_counts": train_counts,
            "models": {},
        }
        matrices = {}
        for name, network in networks.items():
            record["made_from"][name] = weights_hash(network.state_dict())
            logits, labels = predict(network.to(device), test_loader)
            matrix = matrices[name] = metrics.confusion(logits.argmax(1), labels, NUM_CLASSES)
            record["models"][name] = {
                "confusion": matrix.tolist(),
                "accuracy": int(np.trace(matrix)) / int(matrix.sum()),
                **{figure: values.tolist() for figure, values in metrics.per_class(matrix).items()},
                "recall_against_count": recall_against_count(matrix, train_counts),
            }
        describe(record, matrices)
        save_question(args.out, "q4_confusion", None, confusion_figure(record, matrices), record)


if __name__ == "__main__":
    cli.run(main)
