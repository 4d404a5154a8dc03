"""What all studies share: the split of a seed, the results of seeds as files, and how they are computed side by side.

The result of a key, such as seed-3, is a file of its own, {out}/studies/{study}/seed-3.json. So a study that was
interrupted resumes with what is there, and a cluster's job array can compute one key per job.
"""

import argparse
import json
import multiprocessing
import os
import re
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import torch
from torchvision import transforms
from tqdm import tqdm

from common import plots
from common.cli import one_line
from common.data import RandomCrop, make_loader
from common.galaxies import split as splits
from common.galaxies.facts import MAIN_CLASSES, SUBSETS
from common.hardware.device import choose_device
from common.storage.artifacts import load_json, save_json, save_question
from common.storage.atomic import exclusive_lock
from q1_data import channel_statistics

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


def draw_split(data, seed, split="stratified"):
    """Return the dict that `q1_data.py --seed SEED --split SPLIT` makes of the file that `data` was made from.

    data: Q1's dict, of any split; the numbers of training images stay. Images, uint8 (n, 3, h, w), labels and
    indices, int64 (n,), of each subset, mean, std and fingerprint are new.
    Raises ValueError for a dict without indices, or whose mean and std come from another number of images.
    """
    if not all(f"{subset}_indices" in data for subset in SUBSETS):
        raise ValueError("q1_data.pt holds no indices, without which no other split can be made: rerun q1_data.py")
    if not all(map(torch.allclose, first_statistics(data), (data["mean"], data["std"]))):
        raise ValueError(f"q1_data.pt was made with other --stats-images than {STATS_IMAGES}: rerun q1_data.py without")
    old = {subset: data[f"{subset}_indices"].numpy() for subset in SUBSETS}
    count = sum(map(len, old.values()))
    labels, subset_of, row_of = np.empty(count, np.uint8), np.empty(count, int), np.empty(count, int)
    for number, (subset, chosen) in enumerate(old.items()):
        first_class = MAIN_CLASSES if subset.startswith("transfer") else 0
        labels[chosen] = data[f"{subset}_labels"].numpy() + first_class
        subset_of[chosen], row_of[chosen] = number, np.arange(len(chosen))

    groups = {"main": np.flatnonzero(labels < MAIN_CLASSES), "transfer": np.flatnonzero(labels >= MAIN_CLASSES)}
    sizes = {task: len(old[f"{task}_train"]) for task in groups}
    drawn = dict(data)
    for subset, chosen in splits.split_indices(labels, groups, sizes, split, seed).items():
        height, width = data[f"{subset}_images"].shape[2:]
        pixels = np.empty((len(chosen), height, width, 3), np.uint8)
        for number, name in enumerate(SUBSETS):
            here = subset_of[chosen] == number
            pixels[here] = data[f"{name}_images"].permute(0, 2, 3, 1).numpy()[row_of[chosen[here]]]
        drawn[f"{subset}_images"] = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        drawn[f"{subset}_labels"] = torch.from_numpy(labels[chosen].astype(np.int64)) % MAIN_CLASSES
        drawn[f"{subset}_indices"] = torch.from_numpy(chosen)
    drawn["fingerprint"] = splits.fingerprint(drawn)
    drawn["mean"], drawn["std"] = first_statistics(drawn)
    return drawn


def first_statistics(data):
    """Return mean and std, float32 (3,) each, of crops of the first training images, as q1_data.py does by default."""
    first = (data[f"main_train_{kind}"][:STATS_IMAGES] for kind in ("images", "labels"))
    return channel_statistics(make_loader(*first, transforms.Compose([RandomCrop(48)])))


def collect(out, study, keys, compute, settings, fingerprint, device="cpu", threads=1):
    """Return the results of a study, a dict by key in the order of `keys`; compute those that are not there yet.

    The result of a key is the file {out}/studies/{study}/{key}.json: what `compute(key)` returned, a dict of plain
    values, with `fingerprint` and `args`, the settings. A file of another fingerprint or other settings is replaced.
    compute: a function at the top level of a module, or a functools.partial of one. On the CPU as many
    processes as there are cores for compute, each with `threads` threads; on a GPU one key after another.
    Raises ValueError, naming the key, when `compute` raises an error that a user can put right, and MemoryError when
    a process was killed.
    """
    folder = Path(out) / "studies" / study
    settings = json.loads(json.dumps(settings))
    results = {key: stored_result(folder, key, settings, fingerprint) for key in keys}
    missing = [key for key, result in results.items() if result is None]
    arguments = (folder, compute, settings, fingerprint)
    with tqdm(total=len(keys), initial=len(keys) - len(missing), desc=study, unit="run", disable=None) as bar:
        for key, result in computed(missing, arguments, device, threads):
            results[key] = result
            bar.update()
    return results


def stored_result(folder, key, settings, fingerprint):
    """Return the result in {folder}/{key}.json, or None if it is not there or of other data or settings."""
    try:
        result = load_json(Path(folder) / f"{key}.json")
    except (FileNotFoundError, ValueError):
        return None
    return result if (result.get("fingerprint"), result.get("args")) == (fingerprint, settings) else None


def computed(keys, arguments, device, threads):
    """Compute the results of `keys`; give each key and its result as soon as it is there, in any order."""
    cores = os.cpu_count() or 1
    # With several threads each, two processes fill each other's gaps, and more of them would wait for each other.
    processes = min(len(keys), cores if threads == 1 else max(2, cores // threads))
    if processes <= 1 or choose_device(device).type != "cpu":
        with torch_threads(threads):
            yield from ((key, compute_one(key, *arguments)) for key in keys)
        return
    with worker_processes(processes, threads) as executor:
        futures = {executor.submit(compute_one, key, *arguments): key for key in keys}
        for future in as_completed(futures):
            yield futures[future], future.result()


@contextmanager
def torch_threads(count):
    """Compute with `count` threads inside the block: on their number the last digits of a result depend."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def worker_processes(count, threads):
    """Give an executor of `count` processes; end them at once when an error or Ctrl-C ends the block.

    Raises MemoryError when one of them was killed.
    """
    others = set(multiprocessing.active_children())
    # Threads that wait give up their core. Spinning, as is the default, they keep it from other processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Not forked from this process, whose torch has threads already, but from one that has only imported it.
    servers = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if servers else "spawn")
    context.set_forkserver_preload(["studies.runs"])
    executor = ProcessPoolExecutor(count, context, initializer=start_worker, initargs=(threads,))
    try:
        yield executor
    except BaseException as error:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise MemoryError("a process of the study was killed: rerun it, with fewer cores (taskset)") from None
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def start_worker(threads):
    """Set up a process that computes results: its threads, and its end when Ctrl-C or a signal ends the study."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the study itself ends its processes
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def compute_one(key, folder, compute, settings, fingerprint):
    """Return the result of a key, computed and written to its file, or read if another process has just written it.

    What `compute` prints is discarded. Raises ValueError, naming the key, for an error that a user can put right.
    """
    try:
        with exclusive_lock(folder, key):
            result = stored_result(folder, key, settings, fingerprint)
            if result is None:
                with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                    result = compute(key)
                result = {"fingerprint": fingerprint, "args": settings} | result
                save_json(result, folder / f"{key}.json")
                result = load_json(folder / f"{key}.json")
        return result
    except (OSError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{folder.name}, {key}: {one_line(error)}") from error


def save_study(out, study, figure, record):
    """Print the answer, a list of sentences, and write {study}.png and {study}.json into {out}/studies."""
    print(plots.titled(f"studies.{study}", record["source"]), *record["answer"], sep="\n")
    folder = Path(out) / "studies"
    with exclusive_lock(folder, study, patience=-1):
        save_question(folder, study, None, figure, record)
