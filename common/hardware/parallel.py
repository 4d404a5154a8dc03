"""Many computations side by side, by joblib: in processes of this machine, or by the workers of a Dask cluster."""

import asyncio
import errno
import logging
import os
import socket
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from itertools import islice
from pathlib import Path

from common.storage.packages import require

import joblib
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError

DASK_HELP = "address of a Dask scheduler whose workers compute, such as tcp://10.0.0.1:8786; all must see this folder"


def side_by_side(function, items, processes=None, dask=None, ahead=None):
    """Yield function(item) of each item as soon as it is there, each computed with one thread of torch.

    processes: at most; unset: as many as there are cores for this process. With one, everything is computed here.
    dask: address of a scheduler, whose workers compute instead. ahead: then the results come in the order of `items`,
    and at most so many per core are computed at a time; unset: in any order. function: at the top level of a module, or
    a functools.partial of one. What it raises is raised here; raises MemoryError when processes were killed, and
    ConnectionError as `dask_workers` does.
    """
    items = iter(items) if ahead else list(items)
    if items == []:
        return
    here = nullcontext(processes or joblib.cpu_count())
    try:
        with here if dask is None else dask_workers(dask) as cores:
            jobs = cores if ahead else min(cores, len(items))
            order, dispatch = "generator" if ahead else "generator_unordered", "2*n_jobs" if dask is None else "all"
            work = joblib.Parallel(jobs, return_as=order, batch_size=1, pre_dispatch=dispatch)
            folder, items = None if dask is None else os.getcwd(), iter(items)
            while some := list(islice(items, ahead and ahead * cores)):
                yield from work(joblib.delayed(compute_one)(folder, function, item) for item in some)
    except TerminatedWorkerError:
        raise MemoryError("a process was killed: rerun it, with fewer cores (taskset)") from None


def compute_one(folder, function, item):
    """Return function(item), computed in `folder` with one thread: the last bits of a result depend on their number."""
    if folder:
        try:
            os.chdir(folder)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}: {unseen('folder')}", folder) from None
    with torch_threads(1):
        return function(item)


def unseen(what):
    """Return the sentence that this machine does not see a file or a folder."""
    return f"the Dask worker on {socket.gethostname()} does not see this {what}, as all workers must"


@contextmanager
def dask_workers(address):
    """Let joblib compute by the workers of a Dask scheduler inside the block; give the number of their cores.

    Raises ConnectionError when there are none, or when the connection is lost, and ValueError without the package.
    """
    require("--dask", "distributed")
    import distributed

    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what it would say, the errors below say
    try:
        asyncio.run(asyncio.wait_for(check_scheduler(distributed.rpc, address), 15))
        client = distributed.Client(address, timeout=10, set_as_default=False)
    except Exception as error:  # whatever another kind of server makes of it
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConnectionError(f"--dask {address}: no Dask scheduler answers there ({reason})") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=10)
        except distributed.TimeoutError:
            raise ConnectionError(f"--dask {address}: has no workers: start some (dask worker {address})") from None
        client.register_plugin(project_path(distributed.WorkerPlugin))
        ended = threading.Event()
        threading.Thread(target=watch, args=(client, ended), daemon=True).start()
        try:
            with joblib.parallel_config("dask", client=client):
                yield sum(client.ncores().values())
        except (distributed.CancelledError, distributed.comm.CommClosedError):
            raise ConnectionError(f"--dask {address}: the connection to the scheduler is lost") from None
        except distributed.KilledWorker:
            raise MemoryError("a computation ended several Dask workers, one after the other") from None
        finally:
            ended.set()


def watch(client, ended):
    """Say so on stderr, every ten seconds, while there is no worker, until `ended` is set."""
    with suppress(Exception):  # of a connection that is lost, others tell
        while not ended.wait(10):
            if not client.scheduler_info()["workers"]:
                print("All Dask workers have gone: waiting for new ones.", file=sys.stderr)


def project_path(plugin):
    """Return a Dask plugin that lets workers, also those that start later, import this project where it stands."""
    root = str(Path(__file__).resolve().parents[2])

    class ProjectPath(plugin):  # being local, it is sent as code: what is imported could not be imported there yet
        name = "project path"

        def setup(self, worker):
            if not os.path.isdir(root):
                where = f"the Dask worker on {socket.gethostname()} does not see this folder, as all workers must"
                raise FileNotFoundError(errno.ENOENT, where, root)
            sys.path.append(root)

    return ProjectPath()


async def check_scheduler(rpc, address):
    """Raise one of several exceptions unless a Dask scheduler answers at `address`; a Client would wait for ever."""
    async with rpc(address, timeout=10) as server:
        kind = (await server.identity())["type"]
    if kind != "Scheduler":
        raise ValueError(f"but a {kind}")


def in_order(function, items, threads, ahead):
    """Yield function(item) of each item, in order, computed by `threads` threads; at most `ahead` more are waiting."""
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def torch_threads(count):
    """Compute with `count` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
