"""The split into training and test images."""

import hashlib

from common.galaxies.facts import CLASS_COUNTS, MAIN_CLASSES, SUBSETS

import numpy as np
import torch


def apportion(total, sizes, low, high):
    """Return integers that add up to `total`, as nearly in proportion to `sizes` as low..high allow.

    sizes, low, high: int (k,). The largest remainders are rounded up (Hamilton's method).
    Raises ValueError when no such numbers exist.
    """
    if not low.sum() <= total <= high.sum():
        raise ValueError(f"{total}: must be from {low.sum()} to {high.sum()}, for every class to have its part")
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


def train_sizes(labels, given):
    """Return the number of training images of each task, main and transfer, for labels, int (n,).

    given: the same, of the options --main-train and --transfer-train, None where unset. The assignment's numbers are
    for Galaxy10 SDSS; other files, told by their counts, get the same proportion of their images, and a line says so.
    Raises ValueError, naming the option, for more images than there are beside at least one to test.
    """
    counts = np.bincount(labels, minlength=10)
    of_task = {"main": counts[:MAIN_CLASSES], "transfer": counts[MAIN_CLASSES:]}
    sizes = ASSIGNMENT_SIZES
    if tuple(counts) != CLASS_COUNTS:
        sizes = {
            task: int(min(round(n.sum() * ASSIGNMENT_SIZES[task] / total), trainable(n).sum()))
            for (task, n), total in zip(of_task.items(), (20360, 1425), strict=True)
        }
        if None in given.values():
            print(
                f"These are not Galaxy10 SDSS's 21,785 images: of {of_task['main'].sum():,} of classes 0-7 "
                f"{given['main'] or sizes['main']:,} are for training, and of {of_task['transfer'].sum():,} of 8 and 9 "
                f"{given['transfer'] or sizes['transfer']:,} (--main-train, --transfer-train)."
            )
    sizes = {task: given[task] or sizes[task] for task in of_task}
    for task, n in of_task.items():
        if sizes[task] >= n.sum():
            raise ValueError(
                f"--{task}-train {sizes[task]}: there are {n.sum():,} images, and at least one is needed to test"
            )
    return sizes


def split_indices(labels, sizes, split, seed):
    """Return the int64 indices in `labels`, int (n,), of each of SUBSETS.

    sizes: the numbers of training images, by task; split: one of SPLITS. Raises ValueError, naming the option, when a
    size leaves no room for every class, and as `check_classes` does.
    """
    groups = {"main": np.flatnonzero(labels < MAIN_CLASSES), "transfer": np.flatnonzero(labels >= MAIN_CLASSES)}
    indices = {}
    for task, group in groups.items():
        try:
            train, test = SPLITS[split](labels[group], sizes[task], seed)
        except ValueError as error:
            raise ValueError(f"--{task}-train {error}") from None
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
