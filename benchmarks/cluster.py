"""How predict.py scales: pictures per second in one process and with Dask workers on this machine, and what limits it.

Writes, under --out/benchmarks, SYNTHETIC galaxies as JPEGs, an untrained network and cluster.json. Prints a table. The
workers, one thread each, share this machine's cores and disk with the scheduler and with predict.py itself, so on two
cores two workers cannot be twice as fast. Needs the package distributed.
"""

import os
import pickle
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.measure import machine, seconds
from benchmarks.pictures import run_many, untrained, write_jpegs
from common import cli
from common.hardware.parallel import side_by_side
from common.storage.artifacts import save_json
from use.output import Columns
from use.pieces import AHEAD, PIECE, predictions
from use.rows import Rows

import torch

EXAMPLES = ("python -m benchmarks.cluster", "python -m benchmarks.cluster --count 5000 --many 20000 --workers 1")
TASKS = 200  # of which each does nothing


@contextmanager
def cluster(workers):
    """Start a Dask scheduler and workers on this machine; give its address and their processes, by name."""
    from distributed import SubprocessCluster

    options = {"n_workers": workers, "threads_per_worker": 1, "worker_class": "distributed.Worker"}
    with SubprocessCluster(**options, dashboard_address=None) as started:
        found = {f"worker {number + 1}": worker.process for number, worker in started.workers.items()}
        yield started.scheduler_address, {"scheduler": started.scheduler.process} | found


def peak_memory_of(process):
    """Return the peak resident memory of a running process in GB, as Linux counts it."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM"))


def rate(files, classifier, dask=None):
    """Return the pictures per second, after a piece to warm up for each of up to four workers."""
    cpu = torch.device("cpu")

    def classify(some):
        return sum(len(batch.records) for batch in predictions(some, classifier, dask=dask))

    classify(files[: 4 * PIECE if dask else 100])
    return len(files) / seconds(partial(classify, files), cpu)


def written_per_second(files, classifier, folder):
    """Return how many pictures per second one process can take from workers and write as CSV."""
    batches = list(predictions(files[:PIECE], classifier))
    sent = pickle.dumps([batch._replace(images=None) for batch in batches])
    classes = len(batches[0].records[0]["probabilities"])
    columns, rows = Columns([], range(classes), has_truth=False), Rows(folder / "written.csv")

    def take():
        for batch in pickle.loads(sent):
            rows.append({"": columns.rows(batch.records, {})}, len(batch.records), batch.piece, batch.done)

    with rows.writing({}, columns.header(), resume=False):
        took = min(seconds(take, torch.device("cpu")) for _ in range(5))
        rows.end()
    return sum(len(batch.records) for batch in batches) / took


def measure(folder, count, many, numbers, seed):
    """Return the measurements by name: of `count` JPEGs, of `many` small pictures, with these numbers of workers."""
    classifier = untrained(folder, seed)
    files = list(map(str, write_jpegs(folder / "pictures", count, seed)))
    found = {"pictures_per_second": {"one process": rate(files, classifier)}}
    found["written_per_second"] = written_per_second(files, classifier, folder)
    for workers in numbers:
        with cluster(workers) as (address, processes):
            name = f"{workers} Dask worker{'s' * (workers > 1)}"
            found["pictures_per_second"][name] = rate(files, classifier, address)
            if workers == numbers[-1]:
                found["task_overhead_ms"] = task_overhead(files, address)
                found["many"] = memory(many, files[0], folder, address, processes)
    return found


def task_overhead(files, address):
    """Return how many ms a task of PIECE file names takes that does nothing."""
    items = [(files * PIECE)[:PIECE]] * TASKS

    def send(tasks):
        return list(side_by_side(len, tasks, dask=address, ahead=AHEAD))

    send(items[:10])  # to warm up
    return 1000 * seconds(partial(send, items), torch.device("cpu")) / TASKS


def memory(count, jpeg, folder, address, processes):
    """Return time and peak memory, in GB, of predict.py with `count` small pictures, the scheduler and the workers."""
    took, own = run_many(folder, jpeg, count, "--quiet", "--dask", address)
    peaks = {"predict.py": own} | {name: peak_memory_of(process) for name, process in processes.items()}
    size = os.path.getsize(folder / "answers.csv")
    return {"pictures": count, "seconds": took, "peak_memory_gb": peaks, "csv_bytes_per_picture": size / count}


def main():
    args = get_args()
    folder = Path(args.out).resolve() / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    found = measure(folder, args.count, args.many, args.workers, args.seed)
    record = {"machine": machine(), "cores": os.cpu_count(), "load": os.getloadavg(), "args": vars(args)} | found
    save_json(record, folder / "cluster.json")
    for name, value in found["pictures_per_second"].items():
        print(f"{name:16} {value:8,.0f} JPEGs of 424 pixels per second")
    print(f"one process takes from workers and writes as CSV {found['written_per_second']:,.0f} pictures per second")
    print(f"overhead of a task of {PIECE:,} pictures: {found['task_overhead_ms']:.1f} ms")
    many = found["many"]
    peaks = ", ".join(f"{name} {value:.2f} GB" for name, value in many["peak_memory_gb"].items())
    print(f"peak memory at {many['pictures']:,} pictures: {peaks}")
    print(f"load of the machine: {record['load'][0]:.1f} on {record['cores']} cores")


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add, whole = parser.add_argument, cli.positive_int
    add("--count", type=whole, default=4000, metavar="N", help="JPEGs that are timed")
    add("--many", type=whole, default=100_000, metavar="N", help="pictures for the memory")
    add("--workers", type=whole, nargs="+", default=[1, 2], metavar="N", help="numbers of Dask workers")
    cli.add_out_and_seed(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
