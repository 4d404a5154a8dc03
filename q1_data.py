"""Q1: read Galaxy10, look at it, split it, and measure mean and standard deviation to normalise it.

Reads the Galaxy10 HDF5 file given by --data, or downloads it once; if that fails, generates a synthetic set. Writes,
under --out, q1_data.pt (images and labels of both tasks, mean and std), q1_data.png (images of each class) and
q1_data.json. The default numbers of training images are the assignment's 18,000 and 1,000; for DECaLS and with
--count they are the same fraction of the images.
"""

import numpy as np
import torch
from torchvision import transforms

from common import cli, plots
from common.data import Normalize, RandomCrop, make_loader
from common.galaxies import download, split
from common.galaxies.facts import CLASS_COUNTS, IMAGE_SIZE, MAIN_CLASSES
from common.galaxies.source import open_source
from common.storage.artifacts import save_question
from common.storage.atomic import exclusive_lock

EXAMPLES = (
    "python q1_data.py                     # Galaxy10 SDSS, downloaded once; a synthetic set if that fails",
    "python q1_data.py --data Galaxy10.h5  # a file of your own",
    "python q1_data.py --dataset decals --out decals  # 2.7 GB, streamed and resized",
    "python q1_data.py --source synthetic --count 3000 --out small",
)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add, count = parser.add_argument, cli.positive_int
    add("--data", metavar="PATH", help="Galaxy10 HDF5 file, SDSS or DECaLS, instead of --source")
    add("--source", choices=("auto", "real", "synthetic"), default="auto", help="auto: real if it can be downloaded")
    add("--dataset", choices=("sdss", "decals"), default="sdss", help="the real set to download")
    add("--cache", metavar="DIR", default=download.default_cache(), help="folder for downloads")
    add("--count", type=count, default=sum(CLASS_COUNTS), metavar="N", help="number of images in the synthetic set")
    add("--image-size", type=count, default=IMAGE_SIZE, metavar="PIXELS", help="side of the images after resizing")
    add("--main-train", type=count, metavar="N", help="training images of classes 0-7 (default: 18000, see above)")
    add("--transfer-train", type=count, metavar="N", help="training images of 8 and 9 (default: 1000, see above)")
    add("--split", choices=tuple(split.SPLITS), default="stratified", help="by class and seed, or in the file's order")
    add("--stats-images", type=count, default=1000, metavar="N", help="training images that mean and std come from")
    cli.add_out_and_seed(parser)
    args = parser.parse_args(argv)
    if args.data and args.source != "auto":
        parser.error(f"--data {args.data} and --source {args.source} are mutually exclusive")
    if args.image_size < 48:
        parser.error(f"--image-size {args.image_size}: must be at least 48, the size of the crops")
    return args


def read_subsets(labels, blocks, indices, size):
    """Return images, labels and indices of each subset, by name, as tensors: uint8 (n, 3, size, size) and int64 (n,).

    labels: uint8 (n,); blocks: an iterator over the file's images, uint8 (m, size, size, 3), as h5py reads them into
    numpy; indices: the positions in the file, int64, of each subset's images. Each block is copied straight to its
    subsets, so that all images are in memory only once.
    """
    # Image i of the file is row row_of[i] of subset number subset_of[i].
    images = [np.empty((len(chosen), size, size, 3), dtype=np.uint8) for chosen in indices.values()]
    subset_of, row_of = np.empty(len(labels), dtype=int), np.empty(len(labels), dtype=int)
    for subset, chosen in enumerate(indices.values()):
        subset_of[chosen], row_of[chosen] = subset, np.arange(len(chosen))
    start = 0
    for block in blocks:
        rows = slice(start, start + len(block))
        for subset, array in enumerate(images):
            array[row_of[rows][subset_of[rows] == subset]] = block[subset_of[rows] == subset]
        start = rows.stop

    data = {}
    for (subset, chosen), array in zip(indices.items(), images, strict=True):
        first_class = MAIN_CLASSES if subset.startswith("transfer") else 0
        data[f"{subset}_images"] = torch.from_numpy(array).permute(0, 3, 1, 2)  # channels first
        target = torch.from_numpy(labels[chosen].astype(np.int64))
        data[f"{subset}_labels"] = target - first_class  # classes 8 and 9 become 0 and 1
        data[f"{subset}_indices"] = torch.from_numpy(chosen)
    return data


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


def print_statistics(record):
    """Print the images per class and the statistics, before and after normalising."""
    print(f"{record['source']}: images per class, training + test")
    counts = record["counts"]
    train, test = (counts[f"main_{half}"] + counts[f"transfer_{half}"] for half in ("train", "test"))
    for label, name in enumerate(record["class_names"]):
        print(f"  {label}  {name:30} {train[label]:6,} + {test[label]:5,}")
    for key in ("mean", "std", "normalised_mean", "normalised_std"):
        print(f"{key.replace('_', ' '):16}", " ".join(f"{value:8.3f}" for value in record[key]))
    off = max(abs(np.array(record["normalised_mean"])).max(), abs(np.array(record["normalised_std"]) - 1).max())
    remedy = "" if off < 0.1 else ": too far, measure them on more --stats-images"
    print(f"After normalising, mean and std of all training crops are within {off:.3f} of 0 and 1{remedy}.")


def main():
    args = get_args()
    with exclusive_lock(args.out, "q1_data"):
        source, class_names, labels, blocks = open_source(
            args.data, args.source, args.dataset, args.cache, args.count, args.image_size, args.seed
        )
        sizes = split.default_sizes(class_names, args.count, labels)
        sizes = {"main": args.main_train or sizes["main"], "transfer": args.transfer_train or sizes["transfer"]}
        groups = {"main": np.flatnonzero(labels < MAIN_CLASSES), "transfer": np.flatnonzero(labels >= MAIN_CLASSES)}
        indices = split.split_indices(labels, groups, sizes, args.split, args.seed)
        data = read_subsets(labels, blocks, indices, args.image_size)
        data |= {"class_names": list(class_names), "source": source, "fingerprint": split.fingerprint(data)}

        # Mean and standard deviation: over random crops of the first training images, which are in random order.
        stats_images, stats_labels = (data[f"main_train_{kind}"][: args.stats_images] for kind in ("images", "labels"))
        stats_loader = make_loader(stats_images, stats_labels, transforms.Compose([RandomCrop(48)]))
        mean, std = channel_statistics(stats_loader)
        if not std.all():
            raise ValueError(f"{source}: all pixels of a colour are the same: such images cannot be normalised")
        transform = transforms.Compose([RandomCrop(48), Normalize(mean, std)])
        train_loader = make_loader(data["main_train_images"], data["main_train_labels"], transform)
        normalised_mean, normalised_std = channel_statistics(train_loader)
        data |= {"mean": mean, "std": std}

        record = {
            "source": source,
            "fingerprint": data["fingerprint"],
            "args": vars(args),
            "class_names": data["class_names"],
            "counts": split.class_counts(data),
            "mean": mean.tolist(),
            "std": std.tolist(),
            "normalised_mean": normalised_mean.tolist(),
            "normalised_std": normalised_std.tolist(),
        }
        print_statistics(record)
        figure = plots.class_gallery(data, np.bincount(labels, minlength=10).tolist())
        save_question(args.out, "q1_data", data, figure, record)


if __name__ == "__main__":
    cli.run(main)
