"""The split into training and test images."""

import hashlib

import numpy as np
import torch

from common.galaxies.facts import CLASS_COUNTS, CLASS_NAMES, MAIN_CLASSES, SUBSETS


def apportion(total, sizes, low, high):
    """Return integers that add up to `total`, as nearly in proportion to `sizes` as low..high allow.

    sizes, low, high: int (k,). The largest remainders are rounded up (Hamilton's method).
    Raises ValueError when no such numbers exist.
    """
    if not low.sum() <= total <= high.sum():
        raise ValueError(f"{total:,} images cannot be divided: between {low.sum():,} and {high.sum():,} can")
    exact = total * sizes / sizes.sum()
    shares = np.clip(np.floor(exact).astype(np.int64), low, high)
    while shares.sum() != total:
        step = np.sign(total - shares.sum())
        possible = shares < high if step > 0 else shares > low
        shares[np.argmax(np.where(possible, step * (exact - shares), -np.inf))] += step
    return shares


def trainable(counts):
    """Return how many images of each class can train if one is kept for testing, where there are two or more."""
    return np.where(counts > 1, counts - 1, counts)


def stratified_split(labels, train_size, seed):
    """Return the indices, int64, of `train_size` images to train on and of the rest, each in random order.

    Every class is divided in the same proportion; with two images or more it is in both halves, with one
    it is in the training half. Raises ValueError when that leaves no room.
    """
    counts = np.bincount(labels)
    train_counts = apportion(train_size, counts, low=np.minimum(counts, 1), high=trainable(counts))
    halves = [], []
    for label, train_count in enumerate(train_counts):
        # Each class has random numbers of its own, so that its split does not depend on the other classes.
        shuffled = np.random.default_rng([seed, label]).permutation(np.flatnonzero(labels == label))
        halves[0].append(shuffled[:train_count])
        halves[1].append(shuffled[train_count:])
    rng = np.random.default_rng([seed, len(counts)])
    train, test = (rng.permutation(np.concatenate(half)) for half in halves)
    return train, test


def file_order_split(labels, train_size, seed):
    """Return the indices of the first `train_size` images, and of the rest; `seed` changes nothing."""
    indices = np.arange(len(labels))
    return indices[:train_size], indices[train_size:]


SPLITS = {"stratified": stratified_split, "file": file_order_split}


ASSIGNMENT_SIZES = {"main": 18000, "transfer": 1000}  # training images, of Galaxy10 SDSS


def assignment_sizes(counts):
    """Return the train sizes of main and transfer in the proportion of the assignment's to Galaxy10's counts per class.

    At most as many as `stratified_split` can take: it keeps one image of every class for testing.
    """
    counts = np.asarray(counts)
    tasks = {"main": (counts[:MAIN_CLASSES], 18000 / 20360), "transfer": (counts[MAIN_CLASSES:], 1000 / 1425)}
    return {task: int(min(round(n.sum() * share), trainable(n).sum())) for task, (n, share) in tasks.items()}


def default_sizes(class_names, count, labels):
    """Return the numbers of training images, by task, for labels, uint8 (n,), of these classes.

    They are the assignment's, unless the classes are not those of Galaxy10 SDSS or `count`, the number of images of a
    synthetic set, is another: then as `assignment_sizes` returns.
    """
    if class_names == CLASS_NAMES and count == sum(CLASS_COUNTS):
        return ASSIGNMENT_SIZES
    return assignment_sizes(np.bincount(labels, minlength=10))


def split_indices(labels, groups, train_sizes, split, seed):
    """Return the int64 indices in `labels`, uint8 (n,), of each of SUBSETS.

    groups: for each task, main and transfer, the indices of its images; train_sizes: their numbers of training
    images; split: one of SPLITS. Raises ValueError, with sizes that would do, when there are too few images;
    and as `check_classes` does.
    """
    if any(len(group) <= train_sizes[task] for task, group in groups.items()):
        proposed = assignment_sizes(np.bincount(labels, minlength=10))
        raise ValueError(
            f"there are {len(groups['main']):,} images of classes 0-7 and {len(groups['transfer']):,} of 8 and 9, "
            f"too few to train on {train_sizes['main']:,} and {train_sizes['transfer']:,} and test on the rest; "
            "in the assignment's proportion: "
            f"--main-train {proposed['main']} --transfer-train {proposed['transfer']}"
        )
    indices = {}
    for task, group in groups.items():
        train, test = SPLITS[split](labels[group], train_sizes[task], seed)
        indices |= {f"{task}_train": group[train], f"{task}_test": group[test]}
        check_classes(labels, group, group[train], f"{task}_train")
        check_classes(labels, group, group[test], f"{task}_test")
    return indices


def check_classes(labels, group, subset, name):
    """Raise ValueError when all images of a subset, int64 indices, are of one class: no network learns from them.

    A test subset may be when the `group` that was split has no two classes of two images.
    """
    classes = np.unique(labels[subset])
    possible = (np.bincount(labels[group]) > 1).sum() > 1
    if len(classes) == 1 and (possible or name.endswith("train")):
        remedy = "if the file is sorted by class, use --split stratified" if possible else "the file has no others"
        raise ValueError(f"all {len(subset):,} images of {name} are of class {classes[0]}: {remedy}")


def fingerprint(data):
    """Return the SHA-256, in hexadecimal, of all images and labels in their split and order."""
    digest = hashlib.sha256()
    for subset in SUBSETS:
        digest.update(data[f"{subset}_images"].permute(0, 2, 3, 1).numpy())
        digest.update(data[f"{subset}_labels"].numpy())
    return digest.hexdigest()


def class_counts(data):
    """Return the number of images of each class in each subset: 8 of a main one, 2 of a transfer one."""
    return {
        subset: torch.bincount(data[f"{subset}_labels"], minlength=8 if subset.startswith("main") else 2).tolist()
        for subset in SUBSETS
    }
