import json
import os
import resource
import signal

from common.data import Loader, MyDataset, RandomCrop

import h5py
import numpy as np
import pytest
import torch
from filelock import FileLock
from forked import MEMORY_LIMIT, ROOT, peak_memory, run
from hypothesis import HealthCheck, settings
from torchvision import transforms

EFIGI = ROOT.parent / "shared" / "data" / "efigi10.h5"
# The examples are the same at every run and on every machine, and no example fails for being slow on a busy one.
# `pytest --hypothesis-profile=search` tries other examples at each run: a search to start by hand.
settings.register_profile("fixed", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", settings.get_profile("fixed"), derandomize=False, database=None, print_blob=True)
settings.load_profile("fixed")
# The test command must not depend on what is in the user's own cache, nor wait for the real mirrors.
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("LOKY_MAX_CPU_COUNT", "1")  # a core for each process of pytest-xdist: studies start no others
os.environ["OMP_NUM_THREADS"] = "1"  # the last bits of a result depend on it
torch.set_num_threads(1)


def run_well(script, *args, **options):
    """Run a script that must succeed; return what it printed on stdout. options: of `run`."""
    done = run(script, *args, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def error_of(done):
    """Return the one line of a run that must have failed as bad input fails: status 2, no traceback."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert done.stderr.splitlines()[-1] == lines[0]
    return lines[0]


def heed_ctrl_c():
    """In a new process: end at SIGINT, also where the tests themselves run in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def write_galaxy10(path, count=60, **changes):
    """Write a small HDF5 file in Galaxy10's schema, of noise; `changes` replaces or, with None, drops datasets."""
    rng = np.random.default_rng(0)
    datasets = {
        "images": rng.integers(0, 256, (count, 69, 69, 3), dtype=np.uint8),
        "ans": np.arange(count, dtype=np.uint8) % 10,
        **changes,
    }
    with h5py.File(path, "w") as file:
        for key, value in datasets.items():
            if value is not None:
                file[key] = value
    return path


def products_of(network):
    """Return how many products lead from a network's input to an output: the sum over its layers."""
    return sum(weights[0].numel() for weights in network.parameters() if weights.dim() > 1)


def float32_tolerance(products, values):
    """Return how far two float32 computations of `values`, sums of so many products, may differ on any processor.

    Rounding errors are independent of each other, so that they grow with the root of the number of products (Higham
    and Mary, SIAM J. Sci. Comput. 41, 2019, A2815): root times eps times the largest magnitude. The probabilities of a
    softmax differ by half as much as the logits at most.
    """
    return products**0.5 * torch.finfo(torch.float32).eps * torch.as_tensor(values).abs().max().item()


class Harmful:
    """A pickle of this would write a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def crop_transform(mean, std):
    """The assignment's transform: random crops, normalised."""
    return transforms.Compose([RandomCrop(48), transforms.Normalize(mean, std)])


def loaders_of(train, test, transform, **options):
    """Return the training and the test loader of two pairs of images and labels, as the scripts make them."""
    return Loader(MyDataset(*train, transform), shuffle=True, **options), Loader(MyDataset(*test, transform))


def subset(data, name):
    """Return images and labels of a subset of Q1's data."""
    return data[f"{name}_images"], data[f"{name}_labels"]


def random_data(count=100, size=69, num_classes=8):
    """Return uint8 (count, 3, size, size) images of noise and int64 labels, of which all classes occur."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    return images, torch.arange(count) % num_classes


def made_once(tmp_path_factory, name, make):
    """Return the folder `name` and what `make(folder)` returned, plain values, when it filled it.

    pytest-xdist runs the tests in several processes: the first that needs the folder makes it for all.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    returned = folder.with_suffix(".json")
    with FileLock(folder.with_suffix(".lock")):
        if not returned.exists():
            folder.mkdir(exist_ok=True)
            returned.write_text(json.dumps(make(folder)))
    return folder, json.loads(returned.read_text())


@pytest.fixture(scope="session", autouse=True)
def memory_limit():
    """Fail at the end of the tests, or of each process of pytest-xdist, if they took too much memory.

    This process, with all packages and what its tests leave behind, and the largest that it started may take 60% of the
    limit each, though not at the same time: the system counts a process with the peak of the one that started it, so
    their sum would count this one twice.
    """
    yield
    own, other = peak_memory() / 1e9, peak_memory(resource.RUSAGE_CHILDREN) / 1e9
    assert max(own, other) < 0.6e-9 * MEMORY_LIMIT, f"{own:.2f} GB and, by the largest other process, {other:.2f} GB"


@pytest.fixture(scope="session")
def synthetic_run(tmp_path_factory):
    """The folder of a whole chain, run by the command line on a small synthetic set on the CPU, and what it printed."""

    def make(out):
        printed = {"q1": run_well("q1_data.py", "--source", "synthetic", "--count", 800, "--out", out)}
        for script in ("q2_fcn", "q3_cnn", "q5_transfer"):
            printed[script[:2]] = run_well(f"{script}.py", "--epochs", 2, "--device", "cpu", "--out", out)
        return printed | {"q4": run_well("q4_confusion.py", "--device", "cpu", "--out", out)}

    return made_once(tmp_path_factory, "synthetic", make)
