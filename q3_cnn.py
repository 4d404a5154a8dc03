"""Q3: train a convolutional network on classes 0-7, and compare it with Q2's.

Reads q1_data.pt, and q2_fcn.json if it is there. Writes, under --out, q3_cnn.pt (the state_dict of
cnn_backbone and classifier_head), q3_cnn.png (learning curves) and q3_cnn.json; and after every epoch
q3_cnn.resume.pt, for --resume.
"""

from pathlib import Path

import torch

from common import artifacts, cli, describe, distributed, plots, report
from common.atomic import sole_writer
from common.data import make_loaders
from common.device import choose_device
from common.models import classifier, convolutional_backbone, weights_of
from common.resume import TrainingState
from common.train import predict, train

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


def compare_with_fcn(path, record, labels):
    """Return the comparison with the FCN whose record is at `path`, or None if there is none on the same data."""
    if not path.is_file():
        print(f"No {path} to compare with: run q2_fcn.py first for that.")
        return None
    try:
        fcn = artifacts.load_json(path)
        if fcn["fingerprint"] != record["fingerprint"]:
            print(f"{path} is of other data or another split, so the two are not compared.")
            return None
        comparison = report.compare(fcn, record, labels)
    except (ValueError, KeyError, TypeError) as error:  # no reason to lose the network that has just been trained
        print(f"Not compared: {path} cannot be used ({error})")
        return None
    record["made_from"]["fcn"] = fcn.get("weights_sha256")
    print(describe.describe_comparison(comparison))
    return comparison


def main():
    args = get_args()
    device = choose_device(args.device, args.deterministic)
    with distributed.joined(device) as device, sole_writer(args.out, "q3_cnn"):
        answer(args, device)


def answer(args, device):
    data = artifacts.load_data(args.out)
    train_loader, test_loader = make_loaders(data, "main", args.batch_size, device)

    torch.manual_seed(args.seed)  # initial weights
    cnn = classifier(convolutional_backbone(), num_classes=8)
    state = TrainingState(args, "q3_cnn", {"data or split": data["fingerprint"]})
    history = train(cnn, train_loader, test_loader, args, device, state)
    if not distributed.is_first():
        return
    on_test = predict(cnn, test_loader, device)
    on_train = predict(cnn, train_loader, device)

    record = report.training_record(args, data, "main", cnn, history, on_train, on_test)
    print(describe.describe_curves(record))
    print(describe.describe_result("CNN", record))
    record["comparison"] = compare_with_fcn(Path(args.out) / "q2_fcn.json", record, labels=on_test[1])
    figure = plots.learning_curves(history, plots.titled("Convolutional network", data["source"]))
    artifacts.save_question(args.out, "q3_cnn", weights_of(cnn), figure, record)


if __name__ == "__main__":
    cli.run(main, trains=True)
