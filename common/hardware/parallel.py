"""Compute in parallel: in threads, in processes on this machine (joblib), or on the workers of a Dask cluster."""

import asyncio
import errno
import logging
import os
import socket
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from common.storage.packages import require

import joblib
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError

DASK_HELP = "compute with the workers of this Dask scheduler, such as tcp://10.0.0.1:8786; all must see this folder"
PATIENCE = 10  # seconds to wait for a Dask scheduler, and for its first worker
SILENCE = 60  # seconds without a result after which a line says where to look
UNSEEN = "the Dask worker on {} does not see this {}, as all workers must"


def side_by_side(function, items, processes=None, dask=None, ahead=16):
    """Yield function(item) for each item, each computed with one torch thread.

    processes: the most to use, by default one per core; results are in any order. dask: address of a scheduler whose
    workers compute instead; results are in order, and at most `ahead` tasks per core are submitted in advance. Raises
    the errors of `function`, MemoryError if processes were killed, and ConnectionError as `dask_client` does.
    """
    if dask is not None:
        yield from by_dask(function, items, dask, ahead)
        return
    items = list(items)
    jobs = max(1, min(processes or joblib.cpu_count(), len(items)))
    try:
        work = joblib.Parallel(jobs, return_as="generator_unordered", batch_size=1)
        yield from work(joblib.delayed(with_one_thread)(function, item) for item in items)
    except TerminatedWorkerError:
        raise MemoryError("a process was killed: rerun with fewer cores (taskset)") from None


def by_dask(function, items, address, ahead):
    """Yield function(item) for each item, in order, computed by Dask workers, including workers that join later."""
    with dask_client(address) as client:
        import cloudpickle  # distributed depends on it
        from distributed import TimeoutError, wait

        compute = worker_function(os.getcwd(), str(Path(__file__).resolve().parents[2]))
        tasks = (client.submit(compute, cloudpickle.dumps((function, item)), pure=False) for item in items)
        for task in in_turn(tasks, ahead * sum(client.ncores().values())):
            try:
                wait([task], timeout=SILENCE)
            except TimeoutError:
                state = f"No result from Dask for {SILENCE} seconds (workers: {len(client.ncores())})"
                print(f"{state}: if this continues, see the logs of the scheduler and the workers", file=sys.stderr)
            yield cloudpickle.loads(task.result())


def worker_function(folder, project):
    """Return the function that workers run. It takes and returns pickles: the scheduler does not need the project."""

    def compute(content):  # a local function is sent by value, so workers need not import it
        import cloudpickle

        for path in (folder, project):
            if not os.path.isdir(path):
                raise FileNotFoundError(errno.ENOENT, UNSEEN.format(socket.gethostname(), "folder"), path)
        os.chdir(folder)
        if project not in sys.path:
            sys.path.append(project)
        from common.hardware.parallel import with_one_thread

        return cloudpickle.dumps(with_one_thread(*cloudpickle.loads(content)))

    return compute


def unseen(what):
    """Return the message that this worker does not see a file or folder."""
    return UNSEEN.format(socket.gethostname(), what)


@contextmanager
def dask_client(address):
    """Yield a Client of a Dask scheduler. Raises ConnectionError without a scheduler, workers or a connection."""
    require("--dask", "distributed")
    import distributed

    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # the errors below say the same
    try:
        asyncio.run(asyncio.wait_for(check_scheduler(distributed.rpc, address), 1.5 * PATIENCE))
        client = distributed.Client(address, timeout=PATIENCE)
        client.wait_for_workers(1, timeout=PATIENCE)
    except Exception as error:  # other kinds of servers cause many types of errors
        known = isinstance(error, OSError | ValueError) and " ".join(str(error).split())
        message = f"--dask {address}: no scheduler with workers answers there ({known or type(error).__name__})"
        raise ConnectionError(f"{message}: give the address that dask scheduler prints") from None
    with client:
        try:
            yield client
        except (distributed.CancelledError, distributed.comm.CommClosedError):
            raise ConnectionError(f"--dask {address}: the connection to the scheduler was lost") from None
        except distributed.KilledWorker:
            raise MemoryError("a computation killed several Dask workers, one after another") from None


async def check_scheduler(rpc, address):
    """Raise an error unless a Dask scheduler answers at `address`; a Client would wait forever."""
    async with rpc(address, timeout=PATIENCE) as server:
        kind = (await server.identity())["type"]
    if kind != "Scheduler":
        raise ValueError(f"but a {kind}")


def in_turn(futures, ahead):
    """Yield futures in order, each after `ahead` more have been submitted."""
    waiting = deque()
    for future in futures:
        waiting.append(future)
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


def in_order(function, items, threads, ahead):
    """Yield function(item) for each item, in order, computed by `threads` threads; at most `ahead` more are waiting."""
    with ThreadPoolExecutor(threads) as pool:
        for future in in_turn((pool.submit(function, item) for item in items), ahead):
            yield future.result()


def with_one_thread(function, item):
    """Return function(item), computed with one torch thread: the last bits depend on the number of threads."""
    with torch_threads(1):
        return function(item)


@contextmanager
def torch_threads(count):
    """Compute with `count` torch threads inside the with block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
