"""Measure how predict.py scales: JPEGs per second in one process and with local Dask workers, and a task's overhead.

Prints a table. Writes SYNTHETIC galaxies as JPEGs, an untrained network and cluster.json to --out/benchmarks. The
workers, one thread each, share this machine's cores with the scheduler and predict.py, so on two cores two workers
are not twice as fast. Needs the package distributed.
"""

import os
from pathlib import Path

from benchmarks.measure import machine, seconds
from benchmarks.pictures import untrained, write_jpegs
from common import cli
from common.hardware.parallel import side_by_side
from common.storage.artifacts import save_json
from use.pieces import PIECE, predictions

EXAMPLES = ("python -m benchmarks.cluster", "python -m benchmarks.cluster --count 2048 --workers 1")
TASKS = 200  # for the overhead


def rate(files, classifier, dask=None):
    """Return the pictures per second in the second pass over all of them."""

    def classify():
        return sum(len(batch.records) for batch in predictions(files, classifier, dask=dask))

    classify()
    return len(files) / seconds(classify)


def task_overhead(files, address):
    """Return the time in ms of a task with PIECE file names that computes nothing."""
    items = [(files * PIECE)[:PIECE]] * TASKS
    return 1000 * seconds(lambda: list(side_by_side(len, items, dask=address))) / TASKS


def main():
    args = get_args()
    from distributed import SubprocessCluster

    folder = Path(args.out).resolve() / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    classifier = untrained(folder, args.seed)
    files = write_jpegs(folder / "pictures", args.count, args.seed)
    rates = {"one process": rate(files, classifier)}
    options = {"threads_per_worker": 1, "worker_class": "distributed.Worker", "dashboard_address": None}
    for workers in args.workers:
        with SubprocessCluster(n_workers=workers, **options) as cluster:
            cluster.wait_for_workers(workers)
            rates[f"Dask workers: {workers}"] = rate(files, classifier, cluster.scheduler_address)
            overhead = task_overhead(files, cluster.scheduler_address)
    record = {"pictures_per_second": rates, "task_overhead_ms": overhead, "load": os.getloadavg(), "args": vars(args)}
    save_json({"machine": machine(), "cores": os.cpu_count()} | record, folder / "cluster.json")
    for name, value in rates.items():
        print(f"{name:16} {value:8,.0f} JPEGs of 424 pixels per second")
    print(f"overhead of a task of {PIECE:,} pictures: {overhead:.1f} ms")
    print(f"load of the machine: {record['load'][0]:.1f} on {os.cpu_count()} cores")


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--count", type=cli.positive_int, default=4 * PIECE, metavar="N", help="number of JPEGs")
    add("--workers", type=cli.positive_int, nargs="+", default=[1, 2], metavar="N", help="numbers of Dask workers")
    cli.add_out_and_seed(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
