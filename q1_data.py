"""Q1: read Galaxy10, look at it, split it, and measure what is needed to normalise it.

Reads a Galaxy10 HDF5 file: --data, or fetched once and kept, or drawn. Train sizes that are not given are
the assignment's, or for DECaLS and with --count in proportion. Writes, under --out, q1_data.pt (the images
and labels of both sets, mean and std), q1_data.png (each class) and q1_data.json.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from common import artifacts, cli, download, plots, split
from common.atomic import sole_writer
from common.data import CROP_SIZE, make_loader
from common.galaxy10 import CLASS_COUNTS, CLASS_NAMES, IMAGE_SIZE, MAIN_CLASSES
from common.source import open_source

EXAMPLES = (
    "python q1_data.py                     # Galaxy10 SDSS, fetched once; a synthetic set if it cannot be",
    "python q1_data.py --data Galaxy10.h5  # a file that is here already",
    "python q1_data.py --dataset decals --out decals  # 2.7 GB, streamed and resized",
    "python q1_data.py --source synthetic --count 3000 --out small",
)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add, whole = parser.add_argument, cli.positive_int
    add("--data", metavar="PATH", help="a Galaxy10 HDF5 file, SDSS or DECaLS, in place of --source")
    add("--source", choices=("auto", "real", "synthetic"), default="auto", help="auto: real if it can be had")
    add("--dataset", choices=("sdss", "decals"), default="sdss", help="which real set is fetched")
    add("--cache", metavar="DIR", default=download.default_cache(), help="folder that downloads are kept in")
    add("--count", type=whole, default=sum(CLASS_COUNTS), metavar="N", help="images in the synthetic set")
    add("--image-size", type=whole, default=IMAGE_SIZE, metavar="PIXELS", help="side that images are resized to")
    add("--main-train", type=whole, metavar="N", help="training images of classes 0-7 (default: 18000, see below)")
    add("--transfer-train", type=whole, metavar="N", help="training images of 8 and 9 (default: 1000, see below)")
    add("--split", choices=tuple(split.SPLITS), default="stratified", help="by class and seed, or the file's order")
    add("--stats-images", type=whole, default=1000, metavar="N", help="training images to measure mean and std on")
    cli.add_out_and_seed(parser)
    args = parser.parse_args(argv)
    if args.data and args.source != "auto":
        parser.error(f"--data {args.data} and --source {args.source} exclude each other")
    if args.image_size < CROP_SIZE:
        parser.error(f"--image-size {args.image_size}: crops of {CROP_SIZE} pixels are cut out, it must be no smaller")
    return args


def train_sizes(given, count, class_names, counts):
    """Return the train sizes of main and transfer: those given or, for None, the assignment's 18,000 and 1,000.

    For DECaLS, and for a synthetic set whose --count is another: numbers in the same proportion to `counts` per class.
    """
    usual = class_names == CLASS_NAMES and count == sum(CLASS_COUNTS)
    sizes = {"main": 18000, "transfer": 1000} if usual else split.assignment_sizes(counts)
    return {task: size or sizes[task] for task, size in given.items()}


def channel_statistics(loader):
    """Return the mean and standard deviation, float32 (3,), over all pixels of all crops of a loader."""
    count, total, squares = 0, torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for crops, _ in loader:
        crops = crops.double()
        count += crops.numel() // 3
        total += crops.sum((0, 2, 3))
        squares += crops.square().sum((0, 2, 3))
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp(min=0).sqrt().float()


def class_gallery(data, counts, columns=8):
    """Return a figure with a row of training pictures for each class, its name and its count."""
    figure, grid = plt.subplots(10, columns + 2, figsize=(10, 10.4), layout="constrained")
    for label, row in enumerate(grid):
        part, first_class = ("main", 0) if label < MAIN_CLASSES else ("transfer", MAIN_CLASSES)
        images, labels = data[f"{part}_train_images"], data[f"{part}_train_labels"]
        for axes, index in zip(row[2:], torch.nonzero(labels == label - first_class).flatten(), strict=False):
            axes.imshow(images[index].permute(1, 2, 0))
        for axes in row:
            axes.axis("off")
        kind, _, detail = data["class_names"][label].partition(", ")
        row[0].text(0, 0.5, f"{label}  {kind}\n    {detail}\n    {counts[label]:,} images", va="center")
    figure.suptitle(plots.titled("The ten classes", data["source"]))
    return figure


def describe(record):
    """Print the counts a class and the statistics, before and after normalising."""
    print(f"{record['source']}: images of each class, to train on + to test on")
    counts = record["counts"]
    train, test = (counts[f"main_{half}"] + counts[f"transfer_{half}"] for half in ("train", "test"))
    for label, name in enumerate(record["class_names"]):
        print(f"  {label}  {name:30} {train[label]:6,} + {test[label]:5,}")
    for key in ("mean", "std", "normalised_mean", "normalised_std"):
        print(f"{key.replace('_', ' '):16}", " ".join(f"{value:8.3f}" for value in record[key]))


def main():
    args = get_args()
    with sole_writer(args.out, "q1_data"):
        answer(args)


def answer(args):
    source, class_names, labels, blocks = open_source(args)
    counts = np.bincount(labels, minlength=10)
    sizes = {"main": args.main_train, "transfer": args.transfer_train}
    sizes = train_sizes(sizes, args.count, class_names, counts)
    indices = split.split_indices(labels, sizes, split.SPLITS[args.split], args.seed)
    data = split.split_images(labels, blocks, indices)
    data |= {"class_names": list(class_names), "source": source, "fingerprint": split.fingerprint(data)}

    first_images, first_labels = (data[f"main_train_{kind}"][: args.stats_images] for kind in ("images", "labels"))
    mean, std = channel_statistics(make_loader(first_images, first_labels, torch.zeros(3), torch.ones(3)))
    if not std.all():
        raise ValueError(f"{source}: all pixels of a colour are the same: such pictures cannot be normalised")
    train_loader = make_loader(data["main_train_images"], data["main_train_labels"], mean, std)
    normalised_mean, normalised_std = channel_statistics(train_loader)
    data |= {"mean": mean, "std": std}

    record = {
        "source": source,
        "fingerprint": data["fingerprint"],
        "args": vars(args),
        "class_names": data["class_names"],
        "counts": {
            part: torch.bincount(data[f"{part}_labels"], minlength=8 if part.startswith("main") else 2).tolist()
            for part in split.PARTS
        },
        "mean": mean.tolist(),
        "std": std.tolist(),
        "normalised_mean": normalised_mean.tolist(),
        "normalised_std": normalised_std.tolist(),
    }
    describe(record)
    figure = class_gallery(data, counts.tolist())
    artifacts.save_question(args.out, "q1_data", data, figure, record)


if __name__ == "__main__":
    cli.run(main)
