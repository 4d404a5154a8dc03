"""Q2: train a fully connected network on classes 0-7.

Reads q1_data.pt. Writes, under --out, q2_fcn.pt (the state_dict), q2_fcn.png (learning curves) and q2_fcn.json;
and on the way q2_fcn.resume.pt, from which --resume continues.
"""

from common import cli, plots
from common.data import Normalize, RandomCrop, load_data, make_loaders
from common.hardware.device import adam_options, place
from common.sentences import describe_curves, describe_result
from common.storage.artifacts import save_question
from common.storage.checkpoint import cpu_state_dict
from common.storage.resume import TrainingCheckpoint
from common.train import train, training_record

import torch
from torch import nn
from torchvision import transforms

EXAMPLES = (
    "python q2_fcn.py",
    "python q2_fcn.py --epochs 10 --lr 0.0005 --device cpu",
    "python q2_fcn.py --resume  # after an interruption",
    "torchrun --nproc-per-node=2 q2_fcn.py  # two processes, the same steps",
)


def make_fcn(num_classes=8):
    """Return the fully connected network: crops, float32 (n, 3, 48, 48), to logits (n, 8); 442,952 parameters."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(3 * 48 * 48, 64),
        nn.ReLU(),
        nn.Linear(64, num_classes),
    )


def main():
    args = get_args()
    device = cli.start("q2_fcn", args.out, args.device, args.deterministic)  # locks q2_fcn.* while this runs
    data = load_data(args.out)
    transform = transforms.Compose([RandomCrop(48), Normalize(data["mean"], data["std"])])
    # The test images get random crops too, but the same ones in every evaluation.
    task = place(make_loaders(data, "main", transform, args.batch_size), device)

    torch.manual_seed(args.seed)  # for the initial weights
    fcn = make_fcn(len(task.class_names)).to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(fcn.parameters(), lr=args.lr, **adam_options(device))  # options for speed alone
    print(fcn)
    # The loop over epochs and batches, and the step of forward, loss, backward and update, are in common/train.py.
    checkpoint = TrainingCheckpoint("q2_fcn", vars(args), data)
    history = train(fcn, criterion, optimizer, task, args.epochs, args.seed, args.precision, checkpoint)

    record = training_record(vars(args), data, task, fcn, criterion, history)
    record["defaults"] = vars(get_args([]))  # with which make compares the options
    print(describe_result("Fully connected network", record), describe_curves(record), sep="\n")
    figure = plots.learning_curves(history, plots.titled("Fully connected network", data["source"]))
    save_question(args.out, "q2_fcn", cpu_state_dict(fcn), figure, record)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    cli.add_training(parser, epochs=50, lr=0.001)
    cli.add_out_and_seed(parser)
    cli.add_device(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, trains=True)
