"""Many computations side by side, by joblib."""

from contextlib import contextmanager

import joblib
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError


def side_by_side(function, items, processes=None):
    """Yield function(item) of each item as soon as it is there, in any order, each computed with one thread of torch.

    processes: at most; unset: as many as there are cores for this process. With one, everything is computed here.
    function: at the top level of a module, or a functools.partial of one. What it raises is raised here; raises
    MemoryError when a process was killed.
    """
    items = list(items)
    processes = min(len(items), processes or joblib.cpu_count())
    work = joblib.Parallel(n_jobs=max(processes, 1), return_as="generator_unordered")
    try:
        yield from work(joblib.delayed(with_one_thread)(function, item) for item in items)
    except TerminatedWorkerError:
        raise MemoryError("a process was killed: rerun it, with fewer cores (taskset)") from None


def with_one_thread(function, item):
    """Return function(item), computed with one thread: the last bits of a result depend on their number."""
    with torch_threads(1):
        return function(item)


@contextmanager
def torch_threads(count):
    """Compute with `count` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
