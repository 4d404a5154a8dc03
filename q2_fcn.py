"""Q2: train a fully connected network on classes 0-7.

Reads q1_data.pt. Writes, under --out, q2_fcn.pt (the state_dict), q2_fcn.png (learning curves) and q2_fcn.json;
and after every epoch q2_fcn.resume.pt, for --resume.
"""

import torch

from common import artifacts, cli, describe, distributed, plots, report
from common.atomic import sole_writer
from common.data import make_loaders
from common.device import choose_device
from common.models import fully_connected, weights_of
from common.resume import TrainingState
from common.train import predict, train

EXAMPLES = (
    "python q2_fcn.py",
    "python q2_fcn.py --epochs 10 --lr 0.0005 --device cpu",
    "python q2_fcn.py --resume  # after an interruption",
    "torchrun --nproc-per-node=2 q2_fcn.py  # two processes, the same steps",
)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    cli.add_training(parser, epochs=50, lr=0.001)
    cli.add_out_and_seed(parser)
    cli.add_device(parser)
    return parser.parse_args(argv)


def main():
    args = get_args()
    device = choose_device(args.device, args.deterministic)
    with distributed.joined(device) as device, sole_writer(args.out, "q2_fcn"):
        answer(args, device)


def answer(args, device):
    data = artifacts.load_data(args.out)
    train_loader, test_loader = make_loaders(data, "main", args.batch_size, device)

    torch.manual_seed(args.seed)  # initial weights
    fcn = fully_connected()
    state = TrainingState(args, "q2_fcn", {"data or split": data["fingerprint"]})
    history = train(fcn, train_loader, test_loader, args, device, state)
    if not distributed.is_first():
        return
    on_test = predict(fcn, test_loader, device)
    on_train = predict(fcn, train_loader, device)

    record = report.training_record(args, data, "main", fcn, history, on_train, on_test)
    print(describe.describe_curves(record))
    print(describe.describe_result("FCN", record))
    figure = plots.learning_curves(history, plots.titled("Fully connected network", data["source"]))
    artifacts.save_question(args.out, "q2_fcn", weights_of(fcn), figure, record)


if __name__ == "__main__":
    cli.run(main, trains=True)
