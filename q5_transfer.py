"""Q5: transfer the CNN's frozen backbone to the two classes held back, 8 and 9.

Reads q1_data.pt, and --backbone: a checkpoint of the CNN or of a cnn_backbone alone. Writes, under --out,
q5_transfer.pt (the state_dict), q5_transfer.png (learning curves and confusion) and q5_transfer.json; and
after every epoch q5_transfer.resume.pt, from which --resume continues.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn
from torchvision import transforms

from common import cli, plots
from common.data import Normalize, RandomCrop, make_loaders
from common.hardware.device import adam_options
from common.logistic import compare_with_logistic_regression
from common.report import save_training, training_record
from common.sentences import describe_logistic
from common.session import session
from common.storage.artifacts import load_data
from common.storage.checkpoint import check_origin, classes_learnt, load_backbone, weights_hash
from common.storage.resume import TrainingCheckpoint
from common.train import train
from q3_cnn import make_backbone
from q4_confusion import confusion_matrix

EXAMPLES = (
    "python q5_transfer.py",
    "python q5_transfer.py --backbone ckpt.pt --epochs 40",
    "python q5_transfer.py --resume  # after an interruption",
)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    parser.add_argument("--backbone", metavar="PT", help="checkpoint to start from; unset: q3_cnn.pt under --out")
    cli.add_force(parser)
    cli.add_training(parser, epochs=20, lr=0.005)
    cli.add_out_and_seed(parser)
    cli.add_device(parser)
    return parser.parse_args(argv)


def transfer_figure(history, matrix, class_names, source):
    """Return a figure of the learning curves and the confusion matrix."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.4), layout="constrained")
    plots.draw_curves(axes[0], axes[1], history)
    plots.draw_confusion(axes[2], matrix, class_names, "Confusion on the test set")
    figure.suptitle(plots.titled("Transfer to the two classes held back", source))
    return figure


def main():
    args = get_args()
    with session(args.out, "q5_transfer", args.device, args.deterministic) as device:
        data = load_data(args.out)
        transform = transforms.Compose([RandomCrop(48), Normalize(data["mean"], data["std"])])
        # The test images get random crops too, but the same ones in every evaluation.
        train_loader, test_loader = make_loaders(data, "transfer", transform, args.batch_size, device)
        cnn_backbone = make_backbone()
        path = Path(args.backbone or Path(args.out) / "q3_cnn.pt")
        kind, file_hash = load_backbone(cnn_backbone, path)
        check_origin(path, file_hash, data, args.force)
        hash_before = weights_hash(cnn_backbone.state_dict())
        print(f"{path}: {kind}; SHA-256 of the backbone's weights {hash_before[:16]}")

        for parameter in cnn_backbone.parameters():
            parameter.requires_grad = False
        torch.manual_seed(args.seed)  # for the initial weights of the head
        classifier_head = nn.Linear(64, 2)
        model = nn.Sequential(cnn_backbone, classifier_head).to(device)
        criterion = nn.CrossEntropyLoss()
        optimizer = torch.optim.Adam(classifier_head.parameters(), lr=args.lr, **adam_options(device))
        inputs = {"data or split": data["fingerprint"], "backbone": hash_before}
        checkpoint = TrainingCheckpoint(args.out, "q5_transfer", vars(args), inputs)
        history = train(
            model, criterion, optimizer, train_loader, test_loader, args.epochs, args.seed, args.precision, checkpoint
        )
        hash_after = weights_hash(cnn_backbone.state_dict())
        if hash_after != hash_before:
            raise AssertionError("the backbone's weights changed during training, though they are frozen")
        print(f"The backbone is unchanged: SHA-256 of its weights {hash_after[:16]}")

        record = training_record(vars(args), data, "transfer", model, criterion, history, train_loader, test_loader)
        record["made_from"]["backbone"] = hash_before
        matrix = confusion_matrix(record["test_predictions"], data["transfer_test_labels"], 2)
        # The head is a logistic regression: has Adam found the optimum that scikit-learn finds?
        logistic = compare_with_logistic_regression(model, criterion, train_loader, test_loader, args.epochs, args.seed)
        record |= {
            "confusion": matrix.tolist(),
            "backbone": str(path),
            "backbone_sha256_before": hash_before,
            "backbone_sha256_after": hash_after,
            "backbone_classes": classes_learnt(path, file_hash, data),
            "logistic_regression_accuracy": logistic["accuracy"],
            "logistic_regression": logistic,
        }
        first, second = record["class_names"]
        for name, row in zip(record["class_names"], matrix, strict=True):
            print(f"  {name:30} {row[0]:5,} predicted as {first}, {row[1]:5,} as {second}")
        print(describe_logistic(record))
        figure = transfer_figure(history, matrix, record["class_names"], data["source"])
        save_training(args.out, "q5_transfer", "Transfer", model, record, figure)


if __name__ == "__main__":
    cli.run(main, trains=True)
