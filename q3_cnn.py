"""Q3: train a convolutional network on classes 0-7, and compare it with Q2's network.

Reads q1_data.pt, and q2_fcn.json if it exists. Writes q3_cnn.pt (the state_dict of cnn_backbone and classifier_head),
q3_cnn.png (learning curves) and q3_cnn.json to --out and, during training, the checkpoint q3_cnn.resume.pt for
--resume.
"""

from pathlib import Path

from common import cli, plots
from common.data import Loader, MyDataset, RandomCrop, class_names_of, load_data
from common.hardware.device import adam_options
from common.metrics import mcnemar
from common.sentences import describe_comparison, describe_curves, describe_result
from common.storage.artifacts import load_json, save_question
from common.storage.checkpoint import cpu_state_dict
from common.storage.resume import TrainingCheckpoint
from common.symmetries import RandomSymmetry
from common.train import train, training_record

import numpy as np
import torch
from torch import nn

EXAMPLES = (
    "python q3_cnn.py",
    "python q3_cnn.py --epochs 10 --lr 0.001 --device cpu",
    "python q3_cnn.py --resume  # after an interruption",
    "python q3_cnn.py --symmetries  # also flip and rotate the training images at random",
)


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


def make_cnn(num_classes=8):
    """Return the CNN, the backbone with a linear head: crops (n, 3, 48, 48) to logits (n, 8), 178,616 parameters."""
    cnn_backbone = make_backbone()
    classifier_head = nn.Linear(64, num_classes)
    return nn.Sequential(cnn_backbone, classifier_head)


def compare_with_fcn(path, record, labels):
    """Print and return a comparison of Q3's record with Q2's at `path` on the same test images, labels int (n,).

    McNemar's test: are the images that only one network classifies correctly split evenly between the two? Returns
    None, after printing the reason, if there is no record of the FCN on the same data.
    """
    if not path.is_file():
        print(f"{path} not found: run q2_fcn.py first to compare.")
        return None
    try:
        fcn = load_json(path)
        if fcn["fingerprint"] != record["fingerprint"]:
            print(f"{path} comes from different data or a different split, so the two are not compared.")
            return None
        labels = np.asarray(labels)
        test = mcnemar(np.array(fcn["test_predictions"]) == labels, np.array(record["test_predictions"]) == labels)
        comparison = {
            "fcn_accuracy": fcn["test_accuracy"],
            "fcn_parameters": fcn["parameters"],
            "cnn_accuracy": record["test_accuracy"],
            "cnn_parameters": record["parameters"],
            "fcn_only": test["first_only"],
            "cnn_only": test["second_only"],
            "p_value": test["p_value"],
        }
    except (ValueError, KeyError, TypeError) as error:  # the network that was just trained must not be lost
        print(f"Not compared: {path} cannot be used ({error})")
        return None
    print(describe_comparison(comparison))
    return comparison


def main():
    args = get_args()
    from torchvision import transforms  # imported here, because it takes 2 s, also for --help

    device = cli.start("q3_cnn", args.out, args.device, args.deterministic)  # locks q3_cnn.* while this runs
    data = load_data(args.out)
    transform = transforms.Compose([RandomCrop(48), transforms.Normalize(data["mean"], data["std"])])
    train_transform = transforms.Compose([*transform.transforms, RandomSymmetry()]) if args.symmetries else transform
    main_train = MyDataset(data["main_train_images"], data["main_train_labels"], train_transform)
    main_test = MyDataset(data["main_test_images"], data["main_test_labels"], transform)
    train_loader = Loader(main_train, args.batch_size, shuffle=True, device=device)
    test_loader = Loader(main_test, device=device)  # also random crops, but the same in every evaluation and run

    torch.manual_seed(args.seed)  # for the initial weights
    cnn = make_cnn(len(class_names_of(data, "main"))).to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(cnn.parameters(), lr=args.lr, **adam_options(device))  # options for speed only
    print(cnn)
    checkpoint = TrainingCheckpoint(  # a run resumes only if these have not changed
        "q3_cnn", vars(args), data, network=cnn, loss=criterion, transform=main_train.transform
    )
    history = train(cnn, criterion, optimizer, train_loader, test_loader, args.epochs, args.seed, checkpoint)

    record = training_record(vars(args), data, "main", cnn, criterion, train_loader, test_loader, history)
    record["defaults"] = vars(get_args([]))  # for `make` to compare with args
    print(describe_result("Convolutional network", record), describe_curves(record), sep="\n")
    record["comparison"] = compare_with_fcn(Path(args.out) / "q2_fcn.json", record, data["main_test_labels"])
    figure = plots.learning_curves(history, plots.titled("Convolutional network", data["source"]))
    save_question(args.out, "q3_cnn", cpu_state_dict(cnn), figure, record)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    cli.add_training(parser, epochs=50, lr=0.002)
    parser.add_argument("--symmetries", action="store_true", help="flip and rotate each training image at random")
    cli.add_out_and_seed(parser)
    cli.add_device(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, trains=True)
