"""Q4: compute the confusion matrices of both networks, and relate the errors to class imbalance and similarity.

Reads q1_data.pt, q2_fcn.pt and q3_cnn.pt with their .json. Writes q4_confusion.png (both confusion matrices on the
whole test set, and each class's recall against its number of training images) and q4_confusion.json to --out.
"""

from pathlib import Path

from common import cli, metrics, plots
from common.data import Loader, MyDataset, RandomCrop, class_names_of, load_data
from common.galaxies.facts import branches_of, short_name
from common.sentences import describe_confusion, interval, percent
from common.storage.artifacts import save_question, without_nan
from common.storage.checkpoint import load_trained, weights_hash
from common.train import predict
from q2_fcn import make_fcn
from q3_cnn import make_cnn

import numpy as np
from sklearn.metrics import confusion_matrix

EXAMPLES = (
    "python q4_confusion.py",
    "python q4_confusion.py --out artifacts --device cpu",
)


def recall_table(record, model):
    """Return a table of a network's results per class as text, at most 120 columns wide; record: Q4's.

    Its columns are training and test images, recall with its 95% interval, precision, the ratio of predicted to true
    images, and the most frequent wrong class, with its share of the errors.
    """
    results, names = record["models"][model], record["class_names"]
    lines = [
        f"{model.upper() + ': class':31}{'train':>7}{'test':>6}{'recall':>8}  {'95% interval':14}{'precision':>9}"
        f"{'pred./true':>12}  most frequent error, share"
    ]
    for label, name in enumerate(names):
        errors = [0 if other == label else count for other, count in enumerate(results["confusion"][label])]
        most = f"{max(errors) / sum(errors):4.0%} {short_name(names[np.argmax(errors)])}" if any(errors) else "–"
        bounds = results["recall_interval"][label]
        between = "–" if bounds[0] is None else interval(bounds)
        ratio = results["predicted_over_true"][label]
        lines.append(
            f"{f'{label} {name}':31}{record['train_counts'][label]:7,}{record['test_counts'][label]:6,}"
            f"{percent(results['recall'][label]):>8}  {between:14}{percent(results['precision'][label]):>9}"
            f"{'–' if ratio is None else f'{ratio:.2f}':>12}  {most}"
        )
    return "\n".join(lines)


def main():
    args = get_args()
    from torchvision import transforms  # imported here, because it takes 2 s, also for --help

    device = cli.start("q4_confusion", args.out, args.device)
    data = load_data(args.out)
    class_names = class_names_of(data, "main")
    num_classes = len(class_names)
    networks = {"fcn": make_fcn(num_classes), "cnn": make_cnn(num_classes)}
    for script, network in zip(("q2_fcn", "q3_cnn"), networks.values(), strict=True):
        load_trained(network, Path(args.out) / f"{script}.pt", data, f"{script}.py", args.force)
    transform = transforms.Compose([RandomCrop(48), transforms.Normalize(data["mean"], data["std"])])
    main_test = MyDataset(data["main_test_images"], data["main_test_labels"], transform)
    test_loader = Loader(main_test, device=device)

    train_counts, test_counts = (
        data[f"main_{subset}_labels"].bincount(minlength=num_classes) for subset in ("train", "test")
    )
    record = {
        "source": data["source"],
        "fingerprint": data["fingerprint"],
        "args": vars(args),
        "defaults": vars(get_args([])),
        "class_names": class_names,
        "train_counts": train_counts.tolist(),
        "test_counts": test_counts.tolist(),
        "models": {},
    }
    # Groups of similar classes: branches of the decision tree with which Galaxy Zoo's volunteers classified the images.
    branches = branches_of(data["class_names"])  # None for classes without such a tree
    for name, network in networks.items():
        logits, labels = predict(network.to(device), test_loader)
        matrix = confusion_matrix(labels, logits.argmax(1), labels=range(num_classes))  # rows true, columns predicted
        within_branch, expected = metrics.errors_within_branch(matrix, branches)
        record["models"][name] = {
            "weights_sha256": weights_hash(network.state_dict()),
            "confusion": matrix.tolist(),
            "accuracy": np.trace(matrix) / matrix.sum(),
            **metrics.per_class(matrix),
            "recall_interval": metrics.recall_intervals(matrix),
            "within_branch": within_branch,
            "within_branch_expected": expected,
        }
    record = without_nan(record)
    for name in networks:
        print(recall_table(record, name), describe_confusion(record, name), sep="\n", end="\n\n")
    save_question(args.out, "q4_confusion", None, plots.confusion_and_recall(record), record)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    cli.add_out_and_seed(parser)
    cli.add_device(parser)
    cli.add_force(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
