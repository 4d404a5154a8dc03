"""Q1: read Galaxy10, look at it, split it, and measure mean and standard deviation to normalise it.

Reads the Galaxy10 HDF5 file given by --data, or downloads it once; if that fails, generates a synthetic set. Writes,
under --out, q1_data.pt (images and labels of both tasks, mean and std), q1_data.png (images of each class) and
q1_data.json. The default numbers of training images are the assignment's 18,000 and 1,000 for Galaxy10 SDSS, and the
same fractions of the images of any other file.
"""

from common import cli, plots
from common.data import EVALUATION_SEED, MyDataset, RandomCrop
from common.galaxies import cutouts, download, split
from common.galaxies.appearance import appearance_range
from common.galaxies.facts import CLASS_COUNTS, IMAGE_SIZE
from common.galaxies.hdf5 import check_galaxy10, read_ids_and_split, reading, resize, row_blocks
from common.galaxies.source import find_galaxies, say_whose_names
from common.storage.artifacts import save_question

import h5py
import numpy as np
import torch
from torchvision import transforms

EXAMPLES = (
    "python q1_data.py                     # Galaxy10 SDSS, downloaded once; a synthetic set if that fails",
    "python q1_data.py --data Galaxy10.h5  # a file of your own",
    "python q1_data.py --data cutouts/ --labels table.csv --out own  # see docs/own-galaxies.md",
    "python q1_data.py --dataset decals --out decals  # 2.7 GB, streamed and resized",
    "python q1_data.py --source synthetic --count 3000 --out small",
)


def channel_statistics(dataset):
    """Return the mean and standard deviation, float32 (3,), over all pixels of a random crop of each image.

    The crops are the same in every call.
    """
    torch.manual_seed(EVALUATION_SEED)
    count, total, squares = 0, torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for start in range(0, len(dataset), 64):
        crops = dataset[start : start + 64][0].double()
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
    remedy = "" if off < 0.1 else ": too far off; use more --stats-images"
    print(f"After normalising, mean and std of all training crops are within {off:.3f} of 0 and 1{remedy}.")


def main():
    args = get_args()
    cli.start("q1_data", args.out)
    own = cutouts.Cutouts(args.labels, args.id, vars(args)["class"], args.split_column, args.hold_back, args.image_size)
    galaxies = find_galaxies(args.data, args.source, args.dataset, args.cache, args.count, args.seed, args.out, own)
    names = check_galaxy10(galaxies.path, args.hold_back)  # of the classes, in the file's order
    classes = split.hold_back(names, args.hold_back)  # their order here: those held back for Q5 come last
    say_whose_names(galaxies, classes.names)
    with reading(galaxies.path), h5py.File(galaxies.path, "r") as file:
        labels = classes.numbers[np.array(file["ans"]).astype(np.int64)]
        ids, in_train = read_ids_and_split(galaxies.path, file, args.split_column, len(labels))
        given = {"main": args.main_train, "transfer": args.transfer_train}
        sizes = split.train_sizes(labels, given, classes.main, in_train)
        indices = split.split_indices(labels, sizes, args.split, args.seed, classes.main, in_train)
        # One array for all images, in the order of the subsets: image i of the file goes to row place[i].
        place = np.argsort(np.concatenate(list(indices.values())))
        images = np.empty((len(labels), args.image_size, args.image_size, 3), dtype=np.uint8)
        for rows in row_blocks(file["images"]):
            images[place[rows]] = resize(np.array(file["images"][rows]), args.image_size)

    data = {"class_names": list(classes.names), "main_classes": classes.main, "source": galaxies.source}
    ends = np.cumsum([len(chosen) for chosen in indices.values()])
    for (subset, chosen), pixels in zip(indices.items(), np.split(images, ends[:-1]), strict=True):
        first_class = classes.main if subset.startswith("transfer") else 0
        data[f"{subset}_images"] = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # channels first
        data[f"{subset}_labels"] = torch.from_numpy(labels[chosen]) - first_class  # classes 8 and 9 become 0 and 1
        data[f"{subset}_indices"] = torch.from_numpy(chosen)
        data |= {f"{subset}_ids": [ids[index] for index in chosen]} if ids else {}
    data["fingerprint"] = split.fingerprint(data)
    data["appearance"] = {task: appearance_range(data[f"{task}_train_images"]) for task in sizes}

    # Mean and standard deviation over random crops of the first training images, which are in random order.
    stats_images, stats_labels = (data[f"main_train_{kind}"][: args.stats_images] for kind in ("images", "labels"))
    mean, std = channel_statistics(MyDataset(stats_images, stats_labels, RandomCrop(48)))
    if not std.all():
        raise ValueError(f"{galaxies.path}: a colour channel is constant: such images cannot be normalised")
    # Normalised by them, the crops of all training images must have mean 0 and standard deviation 1.
    transform = transforms.Compose([RandomCrop(48), transforms.Normalize(mean, std)])
    main_train = MyDataset(data["main_train_images"], data["main_train_labels"], transform)
    normalised_mean, normalised_std = channel_statistics(main_train)
    data |= {"mean": mean, "std": std, "split_column": args.split_column}

    record = {
        "source": galaxies.source,
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
    save_question(args.out, "q1_data", data, plots.class_gallery(data), record)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add, count = parser.add_argument, cli.positive_int
    add("--data", type=cli.data_path, metavar="PATH", help="Galaxy10 HDF5 file, SDSS or DECaLS, instead of --source")
    cli.add_table(parser)
    add("--hold-back", metavar="CLASSES", help="for Q5, 8,9 of Galaxy10: numbers or names with commas between, or none")
    add("--source", choices=("auto", "real", "synthetic"), default="auto", help="auto: real if it can be downloaded")
    add("--dataset", choices=("sdss", "decals"), default="sdss", help="the real set to download")
    add("--cache", type=cli.path, metavar="DIR", default=download.default_cache(), help="folder for downloads")
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


if __name__ == "__main__":
    cli.run(main)
