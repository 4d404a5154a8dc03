"""Q1: read Galaxy10, plot it, split it, and compute the mean and standard deviation to normalise it.

Reads an HDF5 file in Galaxy10's format: the file given by --data, or Galaxy10, which is downloaded once. If the
download fails, a synthetic set is generated. Writes q1_data.pt (images and labels of both tasks, mean and std),
q1_data.png (images of each class) and q1_data.json to --out. By default, the numbers of training images are the
assignment's 18,000 and 1,000 for Galaxy10 SDSS, and the same fractions for any other file.
"""

from common import cli, plots
from common.data import EVALUATION_SEED, MyDataset, RandomCrop
from common.galaxies import split
from common.galaxies.appearance import appearance_range
from common.galaxies.facts import CLASS_COUNTS
from common.galaxies.hdf5 import catalogue_ids, read_split, reading
from common.galaxies.source import find_galaxies
from common.storage.artifacts import save_question

import h5py
import numpy as np
import torch

EXAMPLES = (
    "python q1_data.py                     # Galaxy10 SDSS, downloaded once; a synthetic set if that fails",
    "python q1_data.py --data Galaxy10.h5  # your own file; cutouts.py creates one from pictures and a table",
    "python q1_data.py --dataset decals --out decals  # 2.7 GB, resized to 69 x 69 pixels once",
    "python q1_data.py --source synthetic --count 3000 --out small",
)


def channel_statistics(dataset):
    """Return the mean and standard deviation, float32 (3,), over all pixels of a random crop of each image.

    torch's global generator is seeded, so the same dataset gets the same crops in every call.
    """
    torch.manual_seed(EVALUATION_SEED)
    count, total, squares = 0, torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for start in range(0, len(dataset), 64):
        crops = dataset[start : start + 64][0].double()  # (64, 3, 48, 48)
        count += crops.numel() // 3
        total += crops.sum((0, 2, 3))
        squares += crops.square().sum((0, 2, 3))
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp(min=0).sqrt().float()


def print_statistics(record):
    """Print mean and standard deviation before and after normalising, and the largest deviation from 0 and 1."""
    for key in ("mean", "std", "normalised_mean", "normalised_std"):
        print(f"{key.replace('_', ' '):16}", " ".join(f"{value:8.3f}" for value in record[key]))
    off = max(abs(np.array(record["normalised_mean"])).max(), abs(np.array(record["normalised_std"]) - 1).max())
    remedy = "" if off < 0.1 else ": too far off; increase --stats-images"
    print(f"After normalisation, mean and std of all training crops are within {off:.3f} of 0 and 1{remedy}.")


def main():
    args = get_args()
    from torchvision import transforms  # imported here, because it takes 2 s, also for --help

    cli.start("q1_data", args.out)
    galaxies = find_galaxies(args.data, args.source, args.dataset, args.cache, args.count, args.seed, args.out)

    # Read the file: images, uint8 (n, 69, 69, 3), and ans, the class number of each image.
    with reading(galaxies.path), h5py.File(galaxies.path, locking=False) as file:
        images, labels = np.array(file["images"]), np.array(file["ans"])
        ids = catalogue_ids(galaxies.path, file, len(labels))
        in_train = read_split(galaxies.path, file, len(labels)) if args.split == "auto" else None

    # Convert to tensors: channels first, labels int64. Classes 0-7 are the main task; 8 and 9 are held back for Q5.
    classes = split.hold_back(galaxies.class_names, args.hold_back, labels)
    images = torch.from_numpy(images).permute(0, 3, 1, 2)
    labels = torch.from_numpy(classes.numbers[labels.astype(np.int64)])

    # Split both tasks into training and test images. The labels 8 and 9 become 0 and 1.
    given = {"main": args.main_train, "transfer": args.transfer_train}
    sizes = split.train_sizes(labels.numpy(), given, classes.main, in_train)
    indices = split.split_indices(labels.numpy(), sizes, args.split, args.seed, classes.main, in_train)
    data = {"class_names": list(classes.names), "main_classes": classes.main, "source": galaxies.source}
    for subset, chosen in indices.items():
        data[f"{subset}_images"] = images[chosen]
        data[f"{subset}_labels"] = labels[chosen] - (classes.main if subset.startswith("transfer") else 0)
        data[f"{subset}_indices"] = torch.from_numpy(chosen)
        if ids:
            data[f"{subset}_ids"] = [ids[index] for index in chosen]

    # Compute mean and standard deviation over random crops of the first 1,000 training images.
    train_images, train_labels = data["main_train_images"], data["main_train_labels"]
    first = slice(args.stats_images)
    mean, std = channel_statistics(MyDataset(train_images[first], train_labels[first], RandomCrop(48)))
    if not std.all():
        raise ValueError(f"{galaxies.path}: a colour channel is constant: such images cannot be normalised")

    # Check: after normalisation, the crops of all training images must have mean 0 and standard deviation 1.
    transform = transforms.Compose([RandomCrop(48), transforms.Normalize(mean, std)])
    normalised_mean, normalised_std = channel_statistics(MyDataset(train_images, train_labels, transform))

    data["appearance"] = {task: appearance_range(data[f"{task}_train_images"]) for task in sizes}
    data |= {"own_split": in_train is not None, "fingerprint": split.fingerprint(data), "mean": mean, "std": std}
    record = {key: data[key] for key in ("source", "fingerprint", "class_names")}
    record |= {"args": vars(args), "defaults": vars(get_args([]))}  # for `make` to compare with args
    record["fallback"] = galaxies.source == "synthetic" and args.source == "auto" and not args.data
    record |= {"counts": split.class_counts(data), "mean": mean.tolist(), "std": std.tolist()}
    record |= {"normalised_mean": normalised_mean.tolist(), "normalised_std": normalised_std.tolist()}
    print(split.describe_split(data))
    print_statistics(record)
    save_question(args.out, "q1_data", data, plots.class_gallery(data), record)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add, count = parser.add_argument, cli.positive_int
    add("--data", type=cli.path, metavar="PATH", help="HDF5 file in Galaxy10's format, instead of --source")
    help = "classes to hold back for Q5: numbers, names, or none (default: 8,9 for Galaxy10, else none)"
    add("--hold-back", metavar="CLASSES", help=help)
    add("--source", choices=("auto", "real", "synthetic"), default="auto", help="auto: real if the download succeeds")
    add("--dataset", choices=("sdss", "decals"), default="sdss", help="real set to download")
    help = "folder for downloads (default: $GALAXY10_CACHE, or the user's cache folder)"
    add("--cache", type=cli.path, metavar="DIR", help=help)
    add("--count", type=count, default=sum(CLASS_COUNTS), metavar="N", help="number of images in the synthetic set")
    add("--main-train", type=count, metavar="N", help="training images of classes 0-7 (default: 18000, see above)")
    add("--transfer-train", type=count, metavar="N", help="training images of 8 and 9 (default: 1000, see above)")
    help = "stratified (by class, seeded) or file (in file order); auto: the file's dataset split, else stratified"
    add("--split", choices=tuple(split.SPLITS), default="auto", help=help)
    add("--stats-images", type=count, default=1000, metavar="N", help="training images to compute mean and std from")
    cli.add_out_and_seed(parser)
    args = parser.parse_args(argv)
    if args.data and args.source != "auto":
        parser.error(f"--data {args.data} and --source {args.source} are mutually exclusive")
    return args


if __name__ == "__main__":
    cli.run(main)
