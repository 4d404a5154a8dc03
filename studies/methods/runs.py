"""Options, splits and runs of the studies; results are computed in parallel and saved in files.

A run is a dict of the values that identify it, such as dict(seed=0, network="cnn"). Its result is saved in
{out}/studies/{study}/seed-0-network-cnn.json, so an interrupted study resumes where it stopped, and a job array on a
cluster can compute one seed per job.
"""

import json
from functools import partial
from pathlib import Path

import q1_data
from common import cli, plots
from common.data import MyDataset, RandomCrop
from common.galaxies import split as splits
from common.galaxies.facts import SUBSETS
from common.hardware.device import choose_device
from common.hardware.parallel import DASK_HELP, side_by_side
from common.storage.artifacts import load_json, save_figure, save_json, save_question
from common.storage.atomic import exclusive_lock
from common.storage.streams import one_line
from studies.methods.training import DEFAULTS, training_settings

import numpy as np
import torch
from tqdm import tqdm

STATS_IMAGES = q1_data.get_args([]).stats_images


def number_list(text):
    """argparse type: whole numbers such as 0-4 or 0,3,7 or 0-2,8, as a sorted list without repeats."""
    numbers = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if int(last or first) < int(first):
            raise ValueError  # argparse names the option and the text
        numbers.update(range(int(first), int(last or first) + 1))
    return sorted(numbers)


def study_parser(description, *examples, seeds="0-4", epochs=DEFAULTS["cnn"].epochs):
    """Return a Parser with the options of every study: --out, --seeds, --epochs (by default Q3's), --dask, --device."""
    parser = cli.Parser(description, examples)
    add = parser.add_argument
    cli.add_out(parser)
    add("--seeds", type=number_list, default=seeds, metavar="LIST", help="random seeds, such as 0-4 or 0,3")
    add("--epochs", type=cli.positive_int, default=epochs, metavar="N", help="passes over the training set")
    add("--dask", metavar="ADDRESS", help=DASK_HELP)
    cli.add_device(parser)
    return parser


def resplit(data, seed, split="stratified"):
    """Return the dict that `q1_data.py --seed SEED --split SPLIT` would make from the same file, without `appearance`.

    data: Q1's dict, with any split. The number of training images stays the same; if the file defines the split, the
    training images do, too. Raises ValueError if mean and std were not computed on the default number of images.
    """
    if not all(map(torch.allclose, first_statistics(data), (data["mean"], data["std"]))):
        raise ValueError(f"q1_data.pt was made with --stats-images other than {STATS_IMAGES}: rerun q1_data.py")
    images, place = in_file_order(data)
    names = splits.task_names(data)
    first_class = {"main": 0, "transfer": len(names["main"])}
    labels = [data[f"{subset}_labels"] + first_class[subset.partition("_")[0]] for subset in SUBSETS]
    labels = torch.cat(labels)[place].numpy()
    sizes = {task: len(data[f"{task}_train_labels"]) for task in first_class if names[task]}
    in_train = None
    if data["own_split"]:
        in_train = np.isin(np.arange(len(labels)), torch.cat([data[f"{task}_train_indices"] for task in names]))
    per_subset = (*SUBSETS, "appearance")
    new = {name: value for name, value in data.items() if not name.startswith(per_subset)}
    for subset, chosen in splits.split_indices(labels, sizes, split, seed, first_class["transfer"], in_train).items():
        new[f"{subset}_images"] = images[place[chosen]]
        new[f"{subset}_labels"] = torch.from_numpy(labels[chosen]) - first_class[subset.partition("_")[0]]
        new[f"{subset}_indices"] = torch.from_numpy(chosen)
    new["fingerprint"] = splits.fingerprint(new)
    new["mean"], new["std"] = first_statistics(new)
    return new


def in_file_order(data):
    """Return all images of Q1's `data`, uint8 (n, 3, h, w), and int64 (n,): images[place] is in file order."""
    place = np.argsort(np.concatenate([data[f"{subset}_indices"] for subset in SUBSETS]))
    # The colours of a pixel are adjacent, as in the file: faster to crop.
    images = torch.cat([data[f"{subset}_images"].permute(0, 2, 3, 1) for subset in SUBSETS])
    return images.permute(0, 3, 1, 2), place


def first_statistics(data):
    """Return mean and std, float32 (3,) each, measured as in q1_data.py with the default options."""
    first = (data[f"main_train_{kind}"][:STATS_IMAGES] for kind in ("images", "labels"))
    return q1_data.channel_statistics(MyDataset(*first, RandomCrop(48)))


def collect(study, measure, runs, args, data, **settings):
    """Return the results of a study's runs: a list of dicts, each with the values of the run and its result.

    Missing results are computed: measure(out, device, **run, **settings) returns a dict of plain values. A saved result
    is reused until the data, the settings, or the networks and their training change (see `training_settings`). On the
    CPU, each core runs a process; on a GPU, runs follow one another; with --dask, the workers of a cluster compute.
    study: path of its script; args: its options; data: Q1's dict. Raises ValueError, naming the run, if `measure`
    raises an error that a user can correct, and MemoryError if a process was killed.
    """
    folder = Path(args.out) / "studies" / Path(study).stem
    described = {"fingerprint": data["fingerprint"], "networks": training_settings(), "args": settings}
    described = json.loads(json.dumps(described))  # as read from a file
    paths = [folder / f"{'-'.join(f'{key}-{value}' for key, value in run.items())}.json" for run in runs]
    missing = [each for each in zip(runs, paths, strict=True) if stored_result(each[1], described) is None]
    compute = partial(compute_run, described=described, measure=measure, out=args.out, device=args.device)
    processes = None if choose_device(args.device).type == "cpu" else 1
    with tqdm(total=len(runs), initial=len(runs) - len(missing), desc=folder.name, unit="run") as bar:
        for _ in side_by_side(compute, missing, processes, args.dask):
            bar.update()
    found = [stored_result(path, described) for path in paths]
    if None in found:
        raise ValueError(f"{folder}: the results of the Dask workers are not here: use a shared folder as --out")
    return [run | result for run, result in zip(runs, found, strict=True)]


def stored_result(path, described):
    """Return the result in a run's file; None if it is missing, damaged or of different data, networks or settings."""
    try:
        stored = load_json(path)
    except (FileNotFoundError, ValueError):
        return None
    same = all(stored.get(key) == value for key, value in described.items())
    return stored.get("result") if same else None


def compute_run(run_and_path, described, measure, out, device):
    """Compute and save the result of a run, unless another process just did; raise ValueError, naming the run."""
    run, path = run_and_path
    try:
        with exclusive_lock(path.parent, path.stem, timeout=-1):
            if stored_result(path, described) is None:
                result = measure(out=out, device=choose_device(device), **run, **described["args"])
                save_json(described | {"result": result}, path)
    except (OSError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{path.parent.name}, {path.stem}: {one_line(error)}") from error


def select(rows, **values):
    """Return the rows, dicts, with these values."""
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def save_study(study, args, data, figure, sentences, other_figures=None, **record):
    """Print the sentences (the answer and notes); write the study's .png and .json to {out}/studies.

    study: path of its script; other_figures: dict, with the key "filters" for {study}_filters.png; record: further
    entries of the JSON file. The name of the data is added to the figures' titles.
    """
    name, folder = Path(study).stem, Path(args.out) / "studies"
    print(plots.titled(f"studies.{name}", data["source"]), *sentences, sep="\n")
    options = {key: value for key, value in vars(args).items() if key != "dask"}  # it does not change the results
    described = {"source": data["source"], "fingerprint": data["fingerprint"], "args": options}
    described |= {"answer": sentences[0], "notes": sentences[1:]}
    other_figures = other_figures or {}
    for each in (figure, *other_figures.values()):
        each.suptitle(plots.titled(each.get_suptitle(), data["source"]))
    with exclusive_lock(folder, name, timeout=-1):
        for ending, each in other_figures.items():
            save_figure(each, folder / f"{name}_{ending}.png")
        save_question(folder, name, None, figure, described | record)
