"""Hold back classes for transfer, and split the images into training and test images."""

import hashlib
import re
from typing import NamedTuple

from common.galaxies.appearance import image_hashes
from common.galaxies.facts import BRANCHES, CLASS_COUNTS, HELD_BACK, MAIN_CLASSES, SUBSETS, in_words

import numpy as np
import torch

WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+")


class Classes(NamedTuple):
    """The classes of a file: the main ones first, those held back for transfer last."""

    names: tuple
    main: int  # number of main classes
    numbers: np.ndarray  # int64 (k,): the place in `names` of the classes 0, 1, ... of the file


def hold_back(names, given=None, labels=None):
    """Return the Classes of a file with class `names` when the `given` ones are held back for transfer.

    given: the value of --hold-back: "none", or class numbers or names, separated by semicolons if it contains any, else
    by commas. The default is 8,9 for Galaxy10, none for other classes. labels: int (n,), the class numbers of all
    images. Raises ValueError, naming the option, if a class does not exist, if fewer than two classes remain, or unless
    none or at least two are held back, each with images.
    """
    if given is None:
        given = HELD_BACK if tuple(names) in BRANCHES else "none"
    parts = [given] if given in names else given.split(";" if ";" in given else ",")
    held = set() if given == "none" else {held_number(names, part.strip()) for part in parts if part.strip()}
    if len(names) - len(held) < 2:
        left = in_words(len(names) - len(held))
        raise ValueError(f"--hold-back {given}: leaves {left} for Q2 and Q3, which need at least two classes")
    if len(held) == 1:
        raise ValueError(f"--hold-back {given}: is one class, and Q5 needs at least two: hold back two, or none")
    if labels is not None:
        if np.isin(labels, list(held)).all():
            raise ValueError(
                "all images belong to the classes held back, so none are left for Q2 and Q3: change --hold-back"
            )
        for label in sorted(held - set(np.unique(labels).tolist())):
            raise ValueError(
                f"no images of class {label} ({names[label]}), which Q5 needs: --hold-back other classes, or none"
            )
    order = [label for label in range(len(names)) if label not in held] + sorted(held)
    return Classes(tuple(names[label] for label in order), len(names) - len(held), np.argsort(order))


def class_number(names, text):
    """Return the number of the class with the name (in the same case or else in any) or the number `text`.

    Return None if there is no such class. If all names are integers, `text` is compared only with the names.
    """
    lower = [name.lower() for name in names]
    if text in names:
        return names.index(text)
    if text.lower() in lower:
        return lower.index(text.lower())
    numbers = [] if are_numbers(names) else list(map(str, range(len(names))))
    return numbers.index(text) if text in numbers else None


def are_numbers(names):
    """Return whether all class names are integers."""
    return all(map(WHOLE_NUMBER.fullmatch, names))


def held_number(names, part):
    """Return the number of a class named by --hold-back. Raises ValueError if there is no such class."""
    number = class_number(names, part)
    if number is None:
        is_number = are_numbers(names)
        known = [name if is_number else f"{label} {name}" for label, name in enumerate(names[:20])]
        given = f"give {'' if is_number else 'numbers or '}names of {'; '.join(known)}{' ...' * (len(names) > 20)}"
        raise ValueError(f"--hold-back {part}: no such class: {given}")
    return number


def task_names(data):
    """Return the class names of each task, main and transfer, as lists; data: Q1's dict."""
    names, main = data["class_names"], data.get("main_classes", MAIN_CLASSES)
    return {"main": names[:main], "transfer": names[main:]}


def apportion(total, sizes, low, high):
    """Return integers that add up to `total`, in proportion to `sizes` as far as the limits low and high allow.

    sizes, low, high: int (k,). The largest remainders are rounded up (Hamilton's method). Raises ValueError if there
    is no solution.
    """
    if not low.sum() <= total <= high.sum():
        raise ValueError(f"{total}: must be from {low.sum()} to {high.sum()}, so that every class is in both subsets")
    exact = total * sizes / sizes.sum()
    shares = np.clip(np.floor(exact).astype(np.int64), low, high)
    while shares.sum() != total:
        step = np.sign(total - shares.sum())
        possible = shares < high if step > 0 else shares > low
        shares[np.argmax(np.where(possible, step * (exact - shares), -np.inf))] += step
    return shares


def trainable(counts):
    """Return how many images per class can be for training: all but one, which is for testing, or a single image."""
    return np.where(counts > 1, counts - 1, counts)


def stratified_split(labels, train_size, seed):
    """Return the indices, int64, of `train_size` training images and of the rest, each in random order.

    All classes are split in the same proportion. A class of two or more images is in both subsets; a single image is
    for training. Raises ValueError if `train_size` does not allow this.
    """
    counts = np.bincount(labels)
    train_counts = apportion(train_size, counts, low=np.minimum(counts, 1), high=trainable(counts))
    halves = [], []
    for label, train_count in enumerate(train_counts):
        # Each class has its own random numbers, so its split does not depend on the other classes.
        shuffled = np.random.default_rng([seed, label]).permutation(np.flatnonzero(labels == label))
        halves[0].append(shuffled[:train_count])
        halves[1].append(shuffled[train_count:])
    rng = np.random.default_rng([seed, len(counts)])
    train, test = (rng.permutation(np.concatenate(half)) for half in halves)
    return train, test


def file_order_split(labels, train_size, seed):
    """Return the indices of the first `train_size` images, and of the rest; `seed` has no effect."""
    indices = np.arange(len(labels))
    return indices[:train_size], indices[train_size:]


def own_split(in_train, seed):
    """Return the indices of the training images, given by `in_train`, bool (n,), and of the rest, in random order."""
    rng = np.random.default_rng(seed)
    return rng.permutation(np.flatnonzero(in_train)), rng.permutation(np.flatnonzero(~in_train))


SPLITS = {"auto": stratified_split, "stratified": stratified_split, "file": file_order_split}
ASSIGNMENT_SIZES = {"main": 18000, "transfer": 1000}  # training images of Galaxy10 SDSS
TOTALS = {"main": 20360, "transfer": 1425}  # all its images


def train_sizes(labels, given, num_main=MAIN_CLASSES, in_train=None):
    """Return the number of training images per task, main and transfer; labels: int (n,).

    A task without images is omitted. given: the values of --main-train and --transfer-train by task, None if unset;
    num_main: number of main classes, which come first; in_train: bool (n,), the file's split if it has one; then the
    numbers are None. The defaults are the assignment's for Galaxy10 SDSS, recognized by its counts; for any other file
    they are in the same proportion, and a line is printed. Raises ValueError, naming the option, unless at least one
    image is left for testing.
    """
    counts = np.bincount(labels, minlength=num_main)
    of_task = {"main": counts[:num_main], "transfer": counts[num_main:]}
    if not of_task["transfer"].any():
        del of_task["transfer"]
        if given["transfer"]:
            raise ValueError(f"--transfer-train {given['transfer']}: no classes are held back (--hold-back)")
    if in_train is not None:
        if any(given.values()):
            remedy = "omit --main-train and --transfer-train, or use --split stratified"
            raise ValueError(f"the file defines the split: {remedy}")
        return dict.fromkeys(of_task)
    sizes = ASSIGNMENT_SIZES
    if tuple(counts) != CLASS_COUNTS or num_main != MAIN_CLASSES:
        sizes = {
            task: int(min(round(n.sum() * ASSIGNMENT_SIZES[task] / TOTALS[task]), trainable(n).sum()))
            for task, n in of_task.items()
        }
        if None in [given[task] for task in of_task]:
            print(describe_sizes(of_task, {task: given[task] or sizes[task] for task in of_task}))
    sizes = {task: given[task] or sizes[task] for task in of_task}
    for task, n in of_task.items():
        if sizes[task] >= n.sum():
            raise ValueError(
                f"--{task}-train {sizes[task]}: there are {n.sum():,} images, and at least one is needed for testing"
            )
    return sizes


def describe_sizes(counts, sizes):
    """Return a sentence on the number of training images; counts: int (k,) per class, by task; sizes: by task."""
    main, *others = counts["main"], *counts.get("transfer", ())
    numbers = [str(len(main) + place) for place in range(len(others))]
    galaxy10 = "These are not Galaxy10 SDSS's 21,785 images. " if (len(main), len(others)) == (8, 2) else ""
    text = f"{galaxy10}Training images: {sizes['main']:,} of {main.sum():,} (classes 0-{len(main) - 1})"
    if not others:
        return f"{text}; change with --main-train."
    held = " and ".join(filter(None, (", ".join(numbers[:-1]), numbers[-1])))
    transfer = f"{sizes['transfer']:,} of {sum(others):,} (classes {held})"
    return f"{text}, {transfer}; change with --main-train and --transfer-train."


def split_indices(labels, sizes, split, seed, num_main=MAIN_CLASSES, in_train=None):
    """Return the int64 indices in `labels`, int (n,), of each of SUBSETS; empty for a task that `sizes` lacks.

    sizes: number of training images by task; split: one of SPLITS; num_main, in_train: as for `train_sizes`. Raises
    ValueError, naming the option, if a size is too small or too large for all classes, and as `check_classes` does.
    """
    groups = {"main": np.flatnonzero(labels < num_main), "transfer": np.flatnonzero(labels >= num_main)}
    indices = dict.fromkeys(SUBSETS, np.zeros(0, dtype=np.int64))
    for task in sizes:
        group = groups[task]
        try:
            if in_train is None:
                train, test = SPLITS[split](labels[group], sizes[task], seed)
            else:
                train, test = own_split(in_train[group], seed)
        except ValueError as error:
            raise ValueError(f"--{task}-train {error}") from None
        indices |= {f"{task}_train": group[train], f"{task}_test": group[test]}
        sorted_by_class = "if the file is sorted by class, use --split stratified"
        remedy = sorted_by_class if in_train is None else "see the dataset split in the file, or use --split stratified"
        check_classes(labels, group, group[train], f"{task}_train", remedy)
        check_classes(labels, group, group[test], f"{task}_test", remedy)
    return indices


def check_classes(labels, group, subset, name, remedy):
    """Raise ValueError if a subset, int64 indices, is empty or has images of one class only.

    A test subset may have one class if the `group` that was split has no two classes of two images.
    """
    classes = np.unique(labels[subset])
    if not len(classes):
        raise ValueError(f"there are no images for {name}: {remedy}")
    possible = (np.bincount(labels[group]) > 1).sum() > 1
    if len(classes) == 1 and (possible or name.endswith("train")):
        why = remedy if possible else "the file has no others"
        raise ValueError(f"all {len(subset):,} images of {name} are of class {classes[0]}: {why}")


def fingerprint(data):
    """Return the SHA-256, in hexadecimal, of all images and labels in their split and order."""
    digest = hashlib.sha256()
    for subset in SUBSETS:
        digest.update(data[f"{subset}_images"].permute(0, 2, 3, 1).numpy())
        digest.update(data[f"{subset}_labels"].numpy())
    return digest.hexdigest()


def class_counts(data):
    """Return the number of images per class, a list, in each of SUBSETS."""
    return {
        f"{task}_{half}": torch.bincount(data[f"{task}_{half}_labels"], minlength=len(names)).tolist()
        for task, names in task_names(data).items()
        for half in ("train", "test")
    }


def describe_split(data):
    """Return as text the images per class of Q1's data, and how many test images are copies of a training image."""
    counts = class_counts(data)
    train, test = (counts[f"main_{subset}"] + counts[f"transfer_{subset}"] for subset in ("train", "test"))
    lines = [f"{data['source']}: images per class, training + test"]
    for label, name in enumerate(data["class_names"]):
        lines.append(f"  {label}  {name:30} {train[label]:6,} + {test[label]:5,}")
    for task in task_names(data):
        train, test = (image_hashes(data[f"{task}_{subset}_images"]) for subset in ("train", "test"))
        if repeated := sum(map(set(train).__contains__, test)):
            lines.append(f"{repeated:,} of {len(test):,} test images ({task}) are exact copies of a training image.")
    return "\n".join(lines)
