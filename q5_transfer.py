"""Q5: transfer the CNN's frozen backbone to the two held-back classes, 8 and 9.

Reads q1_data.pt and --backbone, a checkpoint of the CNN or of a cnn_backbone alone. Writes q5_transfer.pt (the
state_dict), q5_transfer.png (learning curves and confusion matrix) and q5_transfer.json to --out and, during training,
the checkpoint q5_transfer.resume.pt for --resume.
"""

import copy
from pathlib import Path

from common import cli, plots
from common.data import Loader, MyDataset, RandomCrop, class_names_of, load_data
from common.galaxies.facts import in_words
from common.hardware.device import adam_options
from common.metrics import accuracy_interval
from common.sentences import describe_curves, describe_result, describe_transfer
from common.storage.artifacts import save_question
from common.storage.checkpoint import cpu_state_dict, load_backbone, weights_hash
from common.storage.resume import TrainingCheckpoint
from common.train import loss_and_accuracy, predict, train, training_record
from q3_cnn import make_backbone

import matplotlib.pyplot as plt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

EXAMPLES = (
    "python q5_transfer.py",
    "python q5_transfer.py --backbone ckpt.pt --epochs 40",
    "python q5_transfer.py --resume  # after an interruption",
)


def fit_optimum(cnn_backbone, train_loader, test_loader, epochs, seed):
    """Fit scikit-learn's logistic regression to a backbone's features: the lowest loss that a linear head can reach.

    It is fitted to all crops that the head was trained on. Return the features and labels of these crops, their logits,
    and the predicted labels of the test images.
    """
    passes = [predict(cnn_backbone, train_loader, seed, epoch) for epoch in range(1, epochs + 1)]
    features, labels = (torch.cat(tensors) for tensors in zip(*passes, strict=True))
    test_features, _ = predict(cnn_backbone, test_loader)
    # C is the inverse of the regularisation strength: practically none, because the head has none.
    optimum = make_pipeline(StandardScaler(), LogisticRegression(C=1e4, max_iter=1000)).fit(features, labels)
    scores = torch.from_numpy(optimum.decision_function(features)).float()
    if scores.ndim == 1:  # two classes: the logit of the second
        scores = torch.stack((torch.zeros_like(scores), scores), dim=1)
    logits = torch.full((len(labels), int(labels.max()) + 1), -torch.inf)  # -inf for classes without training images
    logits[:, optimum.classes_] = scores
    return features, labels, logits, torch.from_numpy(optimum.predict(test_features))


def compare_with_optimum(model, criterion, train_loader, test_loader, epochs, seed):
    """Compare the head with the optimum on the same features, and with the optimum on untrained features.

    train_loss and head_train_loss are the mean losses of the optimum and the head on the features of all crops that the
    head was trained on; agreement is the share of test images with equal predictions. untrained_backbone is the
    control: the optimum on the features of a backbone with the initial weights of `seed`.
    """
    cnn_backbone, classifier_head = model
    arguments = train_loader, test_loader, epochs, seed
    features, labels, logits, predictions = fit_optimum(cnn_backbone, *arguments)
    with torch.no_grad():
        head_logits = copy.deepcopy(classifier_head).cpu()(features)  # a copy: `cpu` moves a module in place
    torch.manual_seed(seed)
    untrained = make_backbone().to(next(model.parameters()).device)
    *_, untrained_predictions = fit_optimum(untrained, *arguments)
    test_logits, test_labels = predict(model, test_loader)
    correct = (predictions == test_labels).sum().item()
    untrained_correct = (untrained_predictions == test_labels).sum().item()
    count = len(test_labels)
    return {
        "logistic_regression": {
            "accuracy": correct / count,
            "accuracy_interval": accuracy_interval(correct, count),
            "agreement": (predictions == test_logits.argmax(1)).double().mean().item(),
            "train_loss": loss_and_accuracy(criterion, logits, labels)[0],
            "head_train_loss": loss_and_accuracy(criterion, head_logits, labels)[0],
        },
        "untrained_backbone": {
            "accuracy": untrained_correct / count,
            "accuracy_interval": accuracy_interval(untrained_correct, count),
        },
    }


def transfer_figure(history, matrix, class_names, source):
    """Return a figure of the learning curves and the confusion matrix."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.4), layout="constrained")
    plots.draw_curves(axes[0], axes[1], history)
    plots.draw_confusion(axes[2], matrix, class_names, "Confusion on the test set")
    figure.suptitle(plots.titled(f"Transfer to the {in_words(len(class_names))} classes held back", source))
    return figure


def main():
    args = get_args()
    from torchvision import transforms  # imported here, because it takes 2 s, also for --help

    device = cli.start("q5_transfer", args.out, args.device, args.deterministic)  # locks q5_transfer.* while this runs
    data = load_data(args.out)
    names = class_names_of(data, "transfer")
    transform = transforms.Compose([RandomCrop(48), transforms.Normalize(data["mean"], data["std"])])
    transfer_train = MyDataset(data["transfer_train_images"], data["transfer_train_labels"], transform)
    transfer_test = MyDataset(data["transfer_test_images"], data["transfer_test_labels"], transform)
    train_loader = Loader(transfer_train, args.batch_size, shuffle=True, device=device)
    test_loader = Loader(transfer_test, device=device)  # also random crops, but the same in every evaluation and run
    cnn_backbone = make_backbone()
    path = Path(args.backbone or Path(args.out) / "q3_cnn.pt")
    print(f"{path}: {load_backbone(cnn_backbone, path, data, args.force)}")
    hash_before = weights_hash(cnn_backbone.state_dict())

    for parameter in cnn_backbone.parameters():
        parameter.requires_grad = False
    torch.manual_seed(args.seed)  # for the initial weights of the head
    classifier_head = nn.Linear(64, len(names))
    model = nn.Sequential(cnn_backbone, classifier_head).to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(classifier_head.parameters(), lr=args.lr, **adam_options(device))
    definitions = {"backbone": hash_before, "network": model, "loss": criterion, "transform": transfer_train.transform}
    checkpoint = TrainingCheckpoint("q5_transfer", vars(args), data, **definitions)
    history = train(model, criterion, optimizer, train_loader, test_loader, args.epochs, args.seed, checkpoint)

    if weights_hash(cnn_backbone.state_dict()) != hash_before:
        raise ValueError("the backbone changed although it is frozen, as BatchNorm does: use GroupNorm")
    print(f"The backbone is unchanged: SHA-256 of its weights {hash_before[:16]}")
    record = training_record(vars(args), data, "transfer", model, criterion, train_loader, test_loader, history)
    record["defaults"] = vars(get_args([]))  # for `make` to compare with args
    matrix = confusion_matrix(data["transfer_test_labels"], record["test_predictions"], labels=range(len(names)))
    record |= {"confusion": matrix.tolist(), "backbone": str(path), "backbone_sha256": hash_before}
    print(describe_result("Transfer", record))
    for name, row in zip(names, matrix, strict=True):
        counts = ", ".join(f"{count:5,} as {other}" for count, other in zip(row, names, strict=True))
        print(f"  {name:30} {counts.replace(' as ', ' predicted as ', 1)}")
    print(describe_curves(record))
    record |= compare_with_optimum(model, criterion, train_loader, test_loader, args.epochs, args.seed)
    print(describe_transfer(record))
    figure = transfer_figure(history, matrix, names, data["source"])
    save_question(args.out, "q5_transfer", cpu_state_dict(model), figure, record)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    help = "checkpoint to start from; unset: q3_cnn.pt under --out"
    parser.add_argument("--backbone", type=cli.path, metavar="PT", help=help)
    cli.add_force(parser)
    cli.add_training(parser, epochs=20, lr=0.005)
    cli.add_out_and_seed(parser)
    cli.add_device(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main, trains=True)
