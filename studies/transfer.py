"""What is the pretrained backbone worth, in labelled galaxies of the two new classes?

Four networks of the same layers: the trained backbone of Q3 frozen, with a new head (Q5); a random backbone frozen;
the network from scratch; and the trained one with all weights fine-tuned. Each is trained on 25, 50, 100, 200, 400 and
all labelled galaxies, in ten samples: seed s takes the split, and so the test images, of `make all SEED=s`, the first n
of its training images, and its own initial weights. Heads follow Q5 (20 epochs, learning rate 0.005), whole networks
run 30 epochs at Q3's rate, 0.002; fewer galaxies are repeated until the number of steps is that of all. Frozen
backbones compute the features of 20 crops per galaxy once. The head of Q5 is compared with the exact optimum of
logistic regression on the same features. --encoder adds a larger backbone of timm, frozen, that sees whole images.

Reads q1_data.pt and q3_cnn.pt. Writes, in studies/ under --out, transfer.json, transfer.png and a file per seed.
"""

import copy
from functools import partial
from pathlib import Path

import torch
from torch import nn

from common import cli
from common.data import make_loader, make_loaders, seed_epoch
from common.hardware.device import accelerate, adam_options, choose_device
from common.metrics import majority_accuracy
from common.storage.artifacts import load_data, load_tensors
from common.storage.checkpoint import check_origin, load_backbone, weights_hash
from common.train import predict, train_epoch, train_step
from q3_cnn import make_backbone
from studies import encoders, heads
from studies.runs import collect, draw_split, number_list, save_study
from studies.training import crop_and_normalise
from studies.transfer_report import describe, summarise, transfer_figure

EXAMPLES = (
    "python -m studies.transfer",
    "python -m studies.transfer --encoder hf_hub:mwalmsley/zoobot-encoder-convnext_nano  # trained on Galaxy Zoo",
    "python -m studies.transfer --encoder tf_efficientnet_lite0 --encoder-weights tf_efficientnet_lite0.pth",
)
SIZES = (25, 50, 100, 200, 400)  # labelled galaxies, and all
VERSIONS = 20  # crops per galaxy whose features are computed


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add, whole = parser.add_argument, cli.positive_int
    add("--out", default="artifacts", metavar="DIR", help="folder of all artifacts, read and written")
    add("--seeds", type=number_list, default="0-9", metavar="LIST", help="random seeds, such as 0-9 or 0,3")
    add("--epochs", type=whole, default=30, metavar="N", help="passes of whole networks over all labelled galaxies")
    add("--head-epochs", type=whole, default=20, metavar="N", help="passes of heads over all labelled galaxies")
    add("--encoder", metavar="NAME", help="a model of timm, hf_hub:OWNER/MODEL included, as one more backbone")
    add("--encoder-weights", metavar="PTH", help="its state_dict, in place of those that timm downloads")
    add("--encoder-size", type=whole, metavar="PIXELS", help="side that images are resized to (default: its own)")
    cli.add_force(parser)
    cli.add_device(parser)
    args = parser.parse_args(argv)
    if not args.encoder and (args.encoder_weights or args.encoder_size):
        parser.error("--encoder-weights and --encoder-size need --encoder")
    return args


def fit_network(network, data, transform, epochs, seed, device):
    """Train all weights of `network` in place on the transfer task as Q3 does, without each epoch's test metrics."""
    loader, _ = make_loaders(data, "transfer", transform, 64, device)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.002, **adam_options(device))
    faster, run_epoch = accelerate(network, train_step, train_epoch)
    for epoch in range(1, epochs + 1):
        seed_epoch(loader, seed, epoch)
        run_epoch(faster, nn.CrossEntropyLoss(), optimizer, loader)


def sample(out, seed):
    """Return Q1's dict in the split of `seed`, with the backbone's mean and std, its transform and a test loader."""
    original = load_data(out)
    data = draw_split(original, seed) | {name: original[name] for name in ("mean", "std")}
    transform = crop_and_normalise(data)
    return data, transform, make_loader(data["transfer_test_images"], data["transfer_test_labels"], transform)


def first(data, size):
    """Return `data` with the first `size` of the transfer training images alone."""
    return data | {name: data[name][:size] for name in ("transfer_train_images", "transfer_train_labels")}


def accuracy(logits, labels):
    """Return the share of labels, int64 (n,), that have the largest of logits, float (n, k)."""
    return (logits.argmax(1) == labels).double().mean().item()


def measure(key, out, backbone, sizes, epochs, head_epochs, device):
    """Return the result of one sample, key seed-N: each network's test accuracy by size, and how the heads compare.

    out: folder of q1_data.pt; backbone: the checkpoint of the trained one; sizes: numbers of labelled galaxies.
    """
    seed, device = int(key.removeprefix("seed-")), choose_device(device)
    data, transform, test_loader = sample(out, seed)
    labels, test_labels = data["transfer_train_labels"], data["transfer_test_labels"]
    trained = make_backbone()
    load_backbone(trained, backbone)
    torch.manual_seed(seed)
    starts = {"trained": trained, "random": make_backbone()}
    result = {"majority": majority_accuracy(labels, test_labels), "accuracy": {}, "optimum_accuracy": {}, "head": {}}

    in_order = make_loader(data["transfer_train_images"], labels, transform)
    for name, start in starts.items():
        versions = torch.stack([predict(start, in_order, seed, epoch)[0] for epoch in range(1, VERSIONS + 1)])
        test_features, _ = predict(start, test_loader)
        accuracies = result["accuracy"]["frozen" if name == "trained" else "random"] = []
        for size in sizes:
            head = heads.train_head(
                versions[:, :size], labels[:size], heads.epochs_for(size, len(labels), head_epochs), 0.005, seed
            )
            accuracies.append(accuracy(head(test_features), test_labels))
        crops = versions.flatten(0, 1), labels.repeat(VERSIONS)  # and `head` is that of all labelled galaxies
        if optimum := heads.optimal_head(*crops):
            result["optimum_accuracy"][name] = accuracy(optimum(test_features.double()), test_labels)
            result["head"][name] = heads.compare_heads(head, optimum, crops, (test_features, test_labels))

    for name, start in starts.items():
        accuracies = result["accuracy"]["tuned" if name == "trained" else "scratch"] = []
        for size in sizes:
            torch.manual_seed(seed)
            network = nn.Sequential(copy.deepcopy(start), nn.Linear(64, 2)).to(device)
            passes = heads.epochs_for(size, len(labels), epochs)
            fit_network(network, first(data, size), transform, passes, seed, device)
            accuracies.append(accuracy(*predict(network.cpu(), test_loader)))
    return result


def measure_encoder(key, out, backbone, sizes, features):
    """Return the accuracies by size of logistic regression on one sample, key seed-N: of encoder and trained backbone.

    features: the file of `encoders.transfer_features`. Both have one view of each galaxy and the same kind of head,
    its regularisation chosen by cross-validation.
    """
    seed = int(key.removeprefix("seed-"))
    original = load_data(out)
    data, transform, test_loader = sample(out, seed)
    order = torch.cat([original[f"transfer_{subset}_indices"] for subset in ("train", "test")])
    row_of = torch.empty(int(order.max()) + 1, dtype=torch.long)
    row_of[order] = torch.arange(len(order))
    encoded = load_tensors(features, made_by="studies.transfer")["features"]

    trained = make_backbone()
    load_backbone(trained, backbone)
    in_order = make_loader(data["transfer_train_images"], data["transfer_train_labels"], transform)
    pairs = {
        "encoder": [encoded[row_of[data[f"transfer_{subset}_indices"]]] for subset in ("train", "test")],
        "trained": [predict(trained, loader)[0] for loader in (in_order, test_loader)],
    }
    labels, test_labels = data["transfer_train_labels"], data["transfer_test_labels"]
    return {
        name: [
            heads.cross_validated_accuracy((train[:size], labels[:size]), (test, test_labels), seed) for size in sizes
        ]
        for name, (train, test) in pairs.items()
    }


def main():
    args = get_args()
    out = Path(args.out)
    data, backbone = load_data(out), out / "q3_cnn.pt"
    trained = make_backbone()
    _, file_hash = load_backbone(trained, backbone)
    check_origin(backbone, file_hash, data, args.force)
    whole = len(data["transfer_train_labels"])
    sizes = [size for size in SIZES if size < whole] + [whole]
    keys = [f"seed-{seed}" for seed in args.seeds]
    shared = {"out": out, "backbone": backbone, "sizes": sizes}
    made_from = {"backbone": weights_hash(trained.state_dict()), "sizes": sizes}

    encoded, encoder = None, None
    if args.encoder:  # first: what is missing for it is said at once
        features, encoder = encoders.transfer_features(
            args.encoder, args.encoder_weights, args.encoder_size, data, out / "studies"
        )
    options = {"epochs": args.epochs, "head_epochs": args.head_epochs}
    compute = partial(measure, **shared, **options, device=args.device)
    results = collect(out, "transfer", keys, compute, made_from | options, data["fingerprint"], args.device)
    if encoder:
        compute = partial(measure_encoder, **shared, features=features)
        encoded = collect(out, "transfer_encoder", keys, compute, made_from | encoder, data["fingerprint"])

    record = {"source": data["source"], "fingerprint": data["fingerprint"], "args": vars(args), "encoder": encoder}
    record |= summarise(results, encoded, sizes, len(data["transfer_test_labels"]))
    record["answer"] = describe(record)
    save_study(out, "transfer", transfer_figure(record), record)


if __name__ == "__main__":
    cli.run(main)
