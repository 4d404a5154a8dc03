"""Q3: train a convolutional network on classes 0-7, and compare it with Q2's.

Reads q1_data.pt, and q2_fcn.json if it exists. Writes, under --out, q3_cnn.pt (the state_dict of
cnn_backbone and classifier_head), q3_cnn.png (learning curves) and q3_cnn.json; and after every epoch
q3_cnn.resume.pt, from which --resume continues.
"""

from pathlib import Path

import torch
from torch import nn
from torchvision import transforms

from common import cli
from common.data import Normalize, RandomCrop, make_loaders
from common.hardware.device import adam_options
from common.report import compare_with_fcn, save_training, training_record
from common.sentences import describe_curves, describe_result
from common.session import session
from common.storage.artifacts import load_data
from common.storage.resume import TrainingCheckpoint
from common.train import train

EXAMPLES = (
    "python q3_cnn.py",
    "python q3_cnn.py --epochs 10 --lr 0.001 --device cpu",
    "python q3_cnn.py --resume  # after an interruption",
    "torchrun --nproc-per-node=2 q3_cnn.py  # two processes, the same steps",
)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    cli.add_training(parser, epochs=50, lr=0.002)
    cli.add_out_and_seed(parser)
    cli.add_device(parser)
    return parser.parse_args(argv)


def make_backbone():
    """Return cnn_backbone: crops, float32 (n, 3, 48, 48), to features (n, 64); 178,096 parameters."""
    return nn.Sequential(
        nn.Conv2d(3, 8, kernel_size=5),  # (n, 8, 44, 44)
        nn.ReLU(),
        nn.MaxPool2d(2, 2),  # (n, 8, 22, 22)
        nn.Conv2d(8, 16, kernel_size=5),  # (n, 16, 18, 18)
        nn.ReLU(),
        nn.MaxPool2d(2, 2),  # (n, 16, 9, 9)
        nn.Flatten(),
        nn.Linear(16 * 9 * 9, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
    )


def make_cnn():
    """Return the CNN, the backbone with a linear head: crops (n, 3, 48, 48) to logits (n, 8); 178,616 parameters."""
    cnn_backbone = make_backbone()
    classifier_head = nn.Linear(64, 8)
    return nn.Sequential(cnn_backbone, classifier_head)


def main():
    args = get_args()
    with session(args.out, "q3_cnn", args.device, args.deterministic) as device:  # no other run may write q3_cnn.* now
        data = load_data(args.out)
        transform = transforms.Compose([RandomCrop(48), Normalize(data["mean"], data["std"])])
        # The test images get random crops too, but the same ones in every evaluation.
        train_loader, test_loader = make_loaders(data, "main", transform, args.batch_size, device)

        torch.manual_seed(args.seed)  # for the initial weights
        cnn = make_cnn().to(device)
        criterion = nn.CrossEntropyLoss()
        optimizer = torch.optim.Adam(cnn.parameters(), lr=args.lr, **adam_options(device))
        print(cnn)
        checkpoint = TrainingCheckpoint(args.out, "q3_cnn", vars(args), {"data or split": data["fingerprint"]})
        # The loop over epochs and batches, and the step of forward, loss, backward and update, are in common/train.py.
        history = train(
            cnn, criterion, optimizer, train_loader, test_loader, args.epochs, args.seed, args.precision, checkpoint
        )

        record = training_record(vars(args), data, "main", cnn, criterion, history, train_loader, test_loader)
        print(describe_result("Convolutional network", record), describe_curves(record), sep="\n")
        record |= compare_with_fcn(Path(args.out) / "q2_fcn.json", record, data["main_test_labels"])
        save_training(args.out, "q3_cnn", "Convolutional network", cnn, record)


if __name__ == "__main__":
    cli.run(main, trains=True)
