"""Q5: transfer the CNN's frozen backbone to the two classes held back, 8 and 9.

Reads q1_data.pt, and --backbone: a checkpoint of the CNN or of a cnn_backbone alone. Writes, under --out,
q5_transfer.pt (the state_dict), q5_transfer.png (learning curves and confusion) and q5_transfer.json; and
after every epoch q5_transfer.resume.pt, from which --resume goes on.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from common import artifacts, cli, describe, plots, report
from common.atomic import sole_writer
from common.checkpoint import check_origin, load_backbone
from common.data import make_loaders
from common.device import choose_device
from common.models import classifier, weights_hash, weights_of
from common.resume import TrainingState
from common.train import predict, train
from q4_confusion import confusion_matrix

EXAMPLES = (
    "python q5_transfer.py",
    "python q5_transfer.py --backbone ckpt.pt --epochs 40",
    "python q5_transfer.py --resume  # after it was broken off",
)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    parser.add_argument("--backbone", metavar="PT", help="checkpoint to start from; unset: q3_cnn.pt under --out")
    cli.add_force(parser)
    cli.add_training(parser, epochs=20, lr=0.005)
    cli.add_out_and_seed(parser)
    cli.add_device(parser)
    return parser.parse_args(argv)


def logistic_regression(cnn_backbone, train_loader, test_loader, epochs, seed, device):
    """Return the test accuracy of scikit-learn's logistic regression on the backbone's features.

    It is fitted to the features of the very crops that the head was trained on, epoch by epoch.
    """
    drawn = [predict(cnn_backbone, train_loader, device, (seed, epoch)) for epoch in range(1, epochs + 1)]
    features, labels = (torch.cat(tensors).numpy() for tensors in zip(*drawn, strict=True))
    # C is the inverse of the regularisation: practically none, as the head has none.
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e4, max_iter=1000)).fit(features, labels)
    test_features, test_labels = predict(cnn_backbone, test_loader, device)
    return model.score(test_features.numpy(), test_labels.numpy())


def transfer_figure(history, matrix, class_names, source):
    """Return a figure of the learning curves and the confusion matrix."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.4), layout="constrained")
    plots.draw_curves(axes[0], axes[1], history)
    plots.draw_confusion(axes[2], matrix, class_names, "Confusion on the test set")
    figure.suptitle(plots.titled("Transfer to the two classes held back", source))
    return figure


def main():
    args = get_args()
    with sole_writer(args.out, "q5_transfer"):
        answer(args, choose_device(args.device, args.deterministic))


def answer(args, device):
    data = artifacts.load_data(args.out)
    train_loader, test_loader = make_loaders(data, "transfer", args.batch_size, device)
    class_names = data["class_names"][8:]

    path = Path(args.backbone or Path(args.out) / "q3_cnn.pt")
    cnn_backbone, kind, file_hash = load_backbone(path)
    check_origin(path, file_hash, data, args.force)
    hash_before = weights_hash(cnn_backbone)
    print(f"{path}: {kind}; SHA-256 of the backbone's weights {hash_before[:16]}")
    cnn_backbone.requires_grad_(False)
    torch.manual_seed(args.seed)  # of the head's initial weights
    model = classifier(cnn_backbone, num_classes=2)
    state = TrainingState(args, "q5_transfer", {"data or split": data["fingerprint"], "backbone": hash_before})
    history = train(model, train_loader, test_loader, args, device, state)
    logits, labels = predict(model, test_loader, device)
    hash_after = weights_hash(cnn_backbone)
    if hash_after != hash_before:
        raise AssertionError("the backbone's weights changed in training, though they are frozen")

    matrix = confusion_matrix(logits.argmax(1), labels, 2)
    record = report.training_record(args, data, "transfer", model, history, logits, labels)
    record["made_from"]["backbone"] = hash_before
    record |= {
        "class_names": class_names,
        "confusion": matrix.tolist(),
        "backbone": str(path),
        "backbone_sha256_before": hash_before,
        "backbone_sha256_after": hash_after,
        "logistic_regression_accuracy": logistic_regression(
            cnn_backbone, train_loader, test_loader, args.epochs, args.seed, device
        ),
    }
    print(f"The backbone is unchanged: SHA-256 of its weights {hash_after[:16]}")
    print(describe.describe_curves(history))
    print(describe.describe_result("Transfer", record))
    for name, row in zip(class_names, matrix, strict=True):
        print(f"  {name:30} {row[0]:5,} taken for {class_names[0]}, {row[1]:5,} for {class_names[1]}")
    print(f"Logistic regression (scikit-learn) on the same features: {record['logistic_regression_accuracy']:.2%}")
    figure = transfer_figure(history, matrix, class_names, data["source"])
    artifacts.save_question(args.out, "q5_transfer", weights_of(model), figure, record)


if __name__ == "__main__":
    cli.run(main, trains=True)
