"""The runs of a study: their options, the split of a seed, and their results as files, computed side by side.

A run is a dict of what distinguishes it, such as dict(seed=0, network="cnn"). Its result is a file of its own,
{out}/studies/{study}/seed-0-network-cnn.json. So a study that was interrupted resumes with what is there, and a
cluster's job array can compute one seed per job.
"""

import argparse
import json
import re
from functools import partial
from pathlib import Path

from common import cli, plots
from common.data import RandomCrop, make_loader
from common.galaxies import split as splits
from common.galaxies.facts import SUBSETS
from common.hardware.device import choose_device
from common.hardware.parallel import DASK_HELP, side_by_side
from common.storage.artifacts import load_json, save_json, save_question
from common.storage.atomic import exclusive_lock
from common.storage.streams import one_line
from q1_data import channel_statistics

import numpy as np
import torch
from torchvision import transforms
from tqdm import tqdm

STATS_IMAGES = 1000  # training images that q1_data.py measures mean and std on by default


def number_list(text):
    """argparse type: whole numbers such as 0-4 or 0,3,7 or 0-2,8, as a sorted list without repeats."""
    numbers = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not match or int(match[1]) > int(match[2] or match[1]):
            raise argparse.ArgumentTypeError(f"{text} is no list of whole numbers such as 0-4 or 0,3,7")
        numbers.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return sorted(numbers)


def add_study_options(parser, seeds="0-4", epochs=50):
    """Add the options of every study: --out, --seeds, --epochs, --dask and --device."""
    add = parser.add_argument
    cli.add_out(parser)
    add("--seeds", type=number_list, default=seeds, metavar="LIST", help="random seeds, such as 0-4 or 0,3")
    add("--epochs", type=cli.positive_int, default=epochs, metavar="N", help="passes over the training set")
    add("--dask", metavar="ADDRESS", help=DASK_HELP)
    cli.add_device(parser)


def resplit(data, seed, split="stratified"):
    """Return the dict that `q1_data.py --seed SEED --split SPLIT` makes of the file that `data` was made from.

    data: Q1's dict, of any split; the numbers of training images stay, and with a split of your own (the dataset split)
    so do the training images. `appearance`, which no study needs, is left out.
    Raises ValueError for a dict whose mean and std come from another number of images.
    """
    if not all(map(torch.allclose, first_statistics(data), (data["mean"], data["std"]))):
        raise ValueError(f"q1_data.pt was made with other --stats-images than {STATS_IMAGES}: rerun q1_data.py without")
    place = np.argsort(np.concatenate([data[f"{subset}_indices"] for subset in SUBSETS]))
    # In the order of the file, the colours of a pixel side by side.
    images = torch.cat([data[f"{subset}_images"].permute(0, 2, 3, 1) for subset in SUBSETS])
    names = splits.task_names(data)
    first_class = {"main": 0, "transfer": len(names["main"])}
    labels = [data[f"{subset}_labels"] + first_class[subset.partition("_")[0]] for subset in SUBSETS]
    labels = torch.cat(labels)[place].numpy()
    sizes = {task: len(data[f"{task}_train_labels"]) for task in first_class if names[task]}
    in_train = None
    if data.get("own_split"):
        in_train = np.isin(np.arange(len(labels)), torch.cat([data[f"{task}_train_indices"] for task in names]))
    new = {name: data[name] for name in ("class_names", "main_classes", "source", "own_split") if name in data}
    for subset, chosen in splits.split_indices(labels, sizes, split, seed, first_class["transfer"], in_train).items():
        new[f"{subset}_images"] = images[place[chosen]].permute(0, 3, 1, 2)
        new[f"{subset}_labels"] = torch.from_numpy(labels[chosen]) - first_class[subset.partition("_")[0]]
        new[f"{subset}_indices"] = torch.from_numpy(chosen)
    new["fingerprint"] = splits.fingerprint(new)
    new["mean"], new["std"] = first_statistics(new)
    return new


def first_statistics(data):
    """Return mean and std, float32 (3,) each, of crops of the first training images, as q1_data.py does by default."""
    first = (data[f"main_train_{kind}"][:STATS_IMAGES] for kind in ("images", "labels"))
    return channel_statistics(make_loader(*first, transforms.Compose([RandomCrop(48)])))


def collect(study, measure, runs, args, data, **settings):
    """Return the results of a study's runs, a list of dicts: each run's own keys and values, and its results.

    Those that are not there yet are computed: measure(out, device, **run, **settings) returns a dict of plain values.
    args: the study's options; data: Q1's dict; settings: what the results depend on beside the runs' keys. A file of
    another fingerprint or other settings is replaced. On the CPU one process per core computes; on a GPU one run
    follows another; with --dask the workers of a cluster compute. Raises ValueError, naming the run, when `measure`
    raises an error that a user can put right, and MemoryError when a process was killed.
    """
    folder = Path(args.out) / "studies" / study
    described = {"fingerprint": data["fingerprint"], "args": json.loads(json.dumps(settings))}
    found = [stored_result(folder, run, described) for run in runs]
    missing = [run for run, result in zip(runs, found, strict=True) if result is None]
    compute = partial(
        compute_one, folder=folder, described=described, measure=measure, out=args.out, device=args.device
    )
    processes = None if choose_device(args.device).type == "cpu" else 1
    with tqdm(total=len(runs), initial=len(runs) - len(missing), desc=study, unit="run", disable=None) as bar:
        for _ in side_by_side(compute, missing, processes, args.dask):
            bar.update()
    found = [stored_result(folder, run, described) for run in runs]
    if None in found:
        raise ValueError(f"{folder}: what Dask's workers wrote is not here: --out must be a folder that all see")
    return [run | result for run, result in zip(runs, found, strict=True)]


def file_of(folder, run):
    """Return the path of a run's result in `folder`."""
    return Path(folder) / f"{'-'.join(f'{key}-{value}' for key, value in run.items())}.json"


def stored_result(folder, run, described):
    """Return the result in the file of a run, or None if it is not there or of other data or settings."""
    try:
        stored = load_json(file_of(folder, run))
    except (FileNotFoundError, ValueError):
        return None
    same = all(stored.get(key) == value for key, value in described.items())
    return stored.get("result") if same else None


def compute_one(run, folder, described, measure, out, device):
    """Compute the result of a run and write its file, unless another process has just written it.

    Raises ValueError, naming the run, for an error that a user can put right.
    """
    path = file_of(folder, run)
    try:
        with exclusive_lock(folder, path.stem, timeout=-1):
            if stored_result(folder, run, described) is None:
                result = measure(out=out, device=choose_device(device), **run, **described["args"])
                save_json(described | {"result": result}, path)
    except (OSError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{path.parent.name}, {path.stem}: {one_line(error)}") from error


def select(rows, **values):
    """Return those of a list of dicts that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def save_study(study, args, data, figure, answer, notes=(), **record):
    """Print the answer, a sentence, and the notes; write {study}.png and {study}.json into the folder of studies.

    record: what the JSON has beside source, fingerprint, args, answer and notes.
    """
    print(plots.titled(f"studies.{study}", data["source"]), answer, *notes, sep="\n")
    settings = {key: value for key, value in vars(args).items() if key != "dask"}  # who computes changes nothing
    described = {"source": data["source"], "fingerprint": data["fingerprint"], "args": settings}
    folder = Path(args.out) / "studies"
    with exclusive_lock(folder, study, timeout=-1):
        save_question(folder, study, None, figure, described | {"answer": answer, "notes": list(notes)} | record)
