"""How predict.py scales: pictures per second in one process and with Dask workers on this machine, and what limits it.

Writes, under --out/benchmarks, SYNTHETIC galaxies as JPEGs, an untrained network and cluster.json. Prints a table. The
workers, one thread each, share this machine's cores and disk with the scheduler and with predict.py itself, so on two
cores two workers cannot be twice as fast. Needs the package distributed.
"""

import os
import pickle
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.measure import ROOT, machine, run_measured, seconds
from benchmarks.pictures import untrained, write_jpegs
from common import cli
from common.hardware.parallel import side_by_side
from common.storage.artifacts import save_json
from use.output import CsvFile
from use.pieces import AHEAD, PIECE, predictions

import torch
from PIL import Image

EXAMPLES = ("python -m benchmarks.cluster", "python -m benchmarks.cluster --count 5000 --many 20000 --workers 1")
TASKS = 200  # of which each does nothing


@contextmanager
def cluster(folder, workers):
    """Start a Dask scheduler and workers on this machine; give its address and their processes, by name."""
    from distributed import Client

    found, options = {}, ("--no-dashboard", "--scheduler-file", str(folder / "scheduler.json"))
    try:
        for number in range(workers + 1):
            kind = "worker" if number else "scheduler"
            more = ("--nthreads", "1", "--no-nanny", "--local-directory", str(folder)) if number else ("--port", "0")
            command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--host", "127.0.0.1", *options, *more]
            log = open(folder / f"{kind}-{number}.log", "w")  # noqa: SIM115 (the process's)
            found[f"{kind} {number}" if number else kind] = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
            while not number and not (folder / "scheduler.json").exists():
                time.sleep(0.1)
        with Client(scheduler_file=str(folder / "scheduler.json"), set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=120)
            address = client.scheduler.address
        yield address, found
    finally:
        for process in found.values():
            process.terminate()
            process.wait()
        (folder / "scheduler.json").unlink(missing_ok=True)


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
    file = CsvFile(folder / "written.csv", len(batches[0].records[0]["probabilities"]), None)
    file.open()

    def take():
        for batch in pickle.loads(sent):
            for record in batch.records:
                file.write(record, None)
            file.flush()

    took = min(seconds(take, torch.device("cpu")) for _ in range(5))
    file.file.close()
    file.part.unlink()
    return sum(len(batch.records) for batch in batches) / took


def measure(folder, count, many, numbers, seed):
    """Return the measurements by name: of `count` JPEGs, of `many` small pictures, with these numbers of workers."""
    classifier = untrained(folder, seed)
    files = list(map(str, write_jpegs(folder / "pictures", count, seed)))
    found = {"pictures_per_second": {"one process": rate(files, classifier)}}
    found["written_per_second"] = written_per_second(files, classifier, folder)
    for workers in numbers:
        with cluster(folder, workers) as (address, processes):
            name = f"{workers} Dask worker{'s' * (workers > 1)}"
            found["pictures_per_second"][name] = rate(files, classifier, address)
            items = [(files * PIECE)[:PIECE]] * TASKS
            list(side_by_side(len, items[:10], dask=address, ahead=AHEAD))
            empty = seconds(lambda items=items, address=address: list(
                side_by_side(len, items, dask=address, ahead=AHEAD)), torch.device("cpu"))  # fmt: skip
            found["task_overhead_ms"] = 1000 * empty / TASKS
            if workers == numbers[-1]:
                found["many"] = memory(many, files[0], folder, address, processes)
    return found


def memory(count, jpeg, folder, address, processes):
    """Return time and peak memory, in GB, of predict.py with `count` small pictures, the scheduler and the workers."""
    listed, small = folder / "pictures.txt", folder / "small.png"
    Image.open(jpeg).resize((69, 69)).save(small)
    listed.write_text(f"{small}\n" * count)
    options = ("--model", folder / "untrained.pt", "--csv", folder / "answers.csv", "--quiet", "--dask", address)
    code = "import sys, predict; sys.stdin = open(sys.argv.pop(1)); predict.main()"
    took, own = run_measured("-c", code, listed, "-", *options)
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
    add("--count", type=whole, default=10_000, metavar="N", help="JPEGs that are timed")
    add("--many", type=whole, default=100_000, metavar="N", help="pictures for the memory")
    add("--workers", type=whole, nargs="+", default=[1, 2], metavar="N", help="numbers of Dask workers")
    cli.add_out_and_seed(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
