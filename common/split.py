"""Which images train and which test."""

import hashlib

import numpy as np
import torch

from common.galaxy10 import MAIN_CLASSES

PARTS = ("main_train", "main_test", "transfer_train", "transfer_test")


def apportion(total, sizes, low, high):
    """Return whole numbers that add up to `total`, as nearly in proportion to `sizes` as low..high allow.

    sizes, low, high: int (k,). The largest remainders are rounded up (Hamilton's method).
    Raises ValueError when no such numbers exist.
    """
    if not low.sum() <= total <= high.sum():
        raise ValueError(f"{total:,} images cannot be shared out: between {low.sum():,} and {high.sum():,} can")
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
        # A class has random numbers of its own, so that what becomes of it does not hang on the others.
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


def assignment_sizes(counts):
    """Return the train sizes of main and transfer in the proportion of the assignment's to Galaxy10's counts per class.

    At most as many as `stratified_split` can take: it keeps one image of every class for testing.
    """
    counts = np.asarray(counts)
    tasks = {"main": (counts[:MAIN_CLASSES], 18000 / 20360), "transfer": (counts[MAIN_CLASSES:], 1000 / 1425)}
    return {task: int(min(round(n.sum() * share), trainable(n).sum())) for task, (n, share) in tasks.items()}


def split_indices(labels, train_sizes, split, seed):
    """Return the int64 indices of each of PARTS in `labels`, uint8 (n,), where classes 8 and 9 are for transfer.

    train_sizes: dict of main and transfer; split: one of SPLITS. Raises ValueError, with sizes that would
    do, when there are too few images to train on so many and to test; and as `check_classes` does.
    """
    groups = {"main": np.flatnonzero(labels < MAIN_CLASSES), "transfer": np.flatnonzero(labels >= MAIN_CLASSES)}
    if any(len(group) <= train_sizes[name] for name, group in groups.items()):
        proposed = assignment_sizes(np.bincount(labels, minlength=10))
        raise ValueError(
            f"there are {len(groups['main']):,} images of classes 0-7 and {len(groups['transfer']):,} of 8 and 9, "
            f"too few to train on {train_sizes['main']:,} and {train_sizes['transfer']:,} and test on the rest; "
            "in the assignment's proportion: "
            f"--main-train {proposed['main']} --transfer-train {proposed['transfer']}"
        )
    indices = {}
    for name, group in groups.items():
        train, test = split(labels[group], train_sizes[name], seed)
        indices |= {f"{name}_train": group[train], f"{name}_test": group[test]}
        check_classes(labels, group, group[train], f"{name}_train")
        check_classes(labels, group, group[test], f"{name}_test")
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


def split_images(labels, blocks, indices):
    """Share out images and labels: return {part}_images, uint8 (n, 3, h, w), and {part}_labels, int64 (n,).

    blocks: iterator over uint8 (m, h, w, 3), in order; indices: those of each of PARTS. Blocks go straight
    to their places, so that the whole set is in memory once, and in the order of the file: channels last.
    """
    part_of, row_of = np.empty(len(labels), dtype=np.int64), np.empty(len(labels), dtype=np.int64)
    for part, of_part in enumerate(indices.values()):
        part_of[of_part], row_of[of_part] = part, np.arange(len(of_part))
    pixels, start = None, 0
    for block in blocks:
        if pixels is None:
            pixels = [np.empty((len(of_part), *block.shape[1:]), dtype=np.uint8) for of_part in indices.values()]
        rows = slice(start, start + len(block))
        for part, images in enumerate(pixels):
            images[row_of[rows][part_of[rows] == part]] = block[part_of[rows] == part]
        start = rows.stop
    data = {}
    for (part, of_part), images in zip(indices.items(), pixels, strict=True):
        first_class = MAIN_CLASSES if part.startswith("transfer") else 0
        data[f"{part}_images"] = torch.from_numpy(images).permute(0, 3, 1, 2)
        data[f"{part}_labels"] = torch.from_numpy(labels[of_part].astype(np.int64) - first_class)
    return data


def fingerprint(data):
    """Return the SHA-256, in hexadecimal, of all images and labels in their split and order."""
    digest = hashlib.sha256()
    for part in PARTS:
        digest.update(data[f"{part}_images"].permute(0, 2, 3, 1).numpy())
        digest.update(data[f"{part}_labels"].numpy())
    return digest.hexdigest()
