"""Q2: train a fully connected network on classes 0-7.

Reads q1_data.pt. Writes q2_fcn.pt (the state_dict), q2_fcn.png (learning curves) and q2_fcn.json to --out and, during
training, the checkpoint q2_fcn.resume.pt for --resume.
"""

from common import cli, plots
from common.data import Loader, MyDataset, RandomCrop, class_names_of, load_data
from common.hardware.device import adam_options
from common.sentences import describe_curves, describe_result
from common.storage.artifacts import save_question
from common.storage.checkpoint import cpu_state_dict
from common.storage.resume import TrainingCheckpoint
from common.train import train, training_record

import torch
from torch import nn

EXAMPLES = (
    "python q2_fcn.py",
    "python q2_fcn.py --epochs 10 --lr 0.0005 --device cpu",
    "python q2_fcn.py --resume  # after an interruption",
)


def make_fcn(num_classes=8):
    """Return the fully connected network: crops, float32 (n, 3, 48, 48), to logits (n, 8), 442,952 parameters."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(3 * 48 * 48, 64),
        nn.ReLU(),
        nn.Linear(64, num_classes),
    )


def main():
    args = get_args()
    from torchvision import transforms  # imported here, because it takes 2 s, also for --help

    device = cli.start("q2_fcn", args.out, args.device, args.deterministic)  # locks q2_fcn.* while this runs
    data = load_data(args.out)
    transform = transforms.Compose([RandomCrop(48), transforms.Normalize(data["mean"], data["std"])])
    main_train = MyDataset(data["main_train_images"], data["main_train_labels"], transform)
    main_test = MyDataset(data["main_test_images"], data["main_test_labels"], transform)
    train_loader = Loader(main_train, args.batch_size, shuffle=True, device=device)
    test_loader = Loader(main_test, device=device)  # also random crops, but the same in every evaluation and run

    torch.manual_seed(args.seed)  # for the initial weights
    fcn = make_fcn(len(class_names_of(data, "main"))).to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(fcn.parameters(), lr=args.lr, **adam_options(device))  # options for speed only
    print(fcn)
    checkpoint = TrainingCheckpoint(  # a run resumes only if these have not changed
        "q2_fcn", vars(args), data, network=fcn, loss=criterion, transform=main_train.transform
    )
    history = train(fcn, criterion, optimizer, train_loader, test_loader, args.epochs, args.seed, checkpoint)

    record = training_record(vars(args), data, "main", fcn, criterion, train_loader, test_loader, history)
    record["defaults"] = vars(get_args([]))  # for `make` to compare with args
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
