"""Time and memory of the five questions against the number of images, from 3,000 to 300,000.

Each script runs in a process of its own, as `make all` runs it, on SYNTHETIC galaxies and for one epoch. Writes, under
--out/benchmarks, scale.json and scale.png. 300,000 images need 5 GB of memory and 10 GB of disk.
"""

import shutil
from pathlib import Path

from benchmarks.measure import machine, run_measured
from common import cli
from common.galaxies.facts import IMAGE_SIZE
from common.storage.artifacts import save_figure, save_json
from studies.methods.runs import number_list

import matplotlib.pyplot as plt
import numpy as np
import torch

EXAMPLES = ("python -m benchmarks.scale", "python -m benchmarks.scale --counts 3000,30000")
SCRIPTS = {"q1_data": "Q1", "q2_fcn": "Q2", "q3_cnn": "Q3", "q4_confusion": "Q4", "q5_transfer": "Q5"}
TRAINING_RUNS = ("q2_fcn", "q3_cnn", "q5_transfer")


def measure(count, folder, device):
    """Run the five questions on `count` synthetic images; return seconds and peak memory in GB of each, by name."""
    options = {"q1_data": ("--source", "synthetic", "--count", count)}
    options |= {name: ("--device", device, "--epochs", 1) for name in TRAINING_RUNS}
    options |= {"q4_confusion": ("--device", device)}
    found = {}
    for name in SCRIPTS:
        seconds, memory = run_measured(f"{name}.py", *options[name], "--out", folder)
        found[name] = {"seconds": seconds, "peak_memory_gb": memory}
        print(f"{count:9,} images  {SCRIPTS[name]}  {seconds:7.1f} s  {memory:6.2f} GB", flush=True)
    return found


def slope(counts, values):
    """Return the exponent p of values ~ counts ** p between the two largest counts: 1 when linear."""
    (first, last), (low, high) = counts[-2:], values[-2:]
    return float(np.log(high / low) / np.log(last / first))


def draw(counts, results):
    """Return a figure of time and memory against the number of images, with the size of the pictures themselves."""
    figure, (times, memories) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, label in SCRIPTS.items():
        for axes, key in ((times, "seconds"), (memories, "peak_memory_gb")):
            axes.plot(counts, [results[str(count)][name][key] for count in counts], marker="o", label=label)
    memories.plot(counts, [gigabytes(count) for count in counts], "k--", label="the pictures")
    for axes, title in ((times, "time in s, one epoch"), (memories, "peak memory in GB")):
        axes.set(xlabel="SYNTHETIC images of 69 pixels", title=title, ylim=(0, None))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def gigabytes(count):
    """Return the size of `count` pictures in GB."""
    return count * IMAGE_SIZE**2 * 3 / 1e9


def main():
    args = get_args()
    out = Path(args.out).resolve() / "benchmarks"
    results = {}
    for count in args.counts:
        folder = out / f"scale-{count}"
        results[str(count)] = measure(count, folder, args.device)
        shutil.rmtree(folder)
    record = {
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "source": "synthetic",
        "args": vars(args),
        "results": results,
    }
    most, largest = str(args.counts[-1]), gigabytes(args.counts[-1])
    above = max(each["peak_memory_gb"] for each in results[most].values()) - largest
    print(f"At {args.counts[-1]:,} images the peak memory is {above:.2f} GB above the pictures' own {largest:.2f} GB.")
    if len(args.counts) > 1:
        record["time_exponent"] = {
            name: slope(args.counts, [results[str(count)][name]["seconds"] for count in args.counts])
            for name in SCRIPTS
        }
        exponents = ", ".join(f"{SCRIPTS[name]} {value:.2f}" for name, value in record["time_exponent"].items())
        print(f"Time grows as the number of images to the power of: {exponents} (1 is linear; two largest counts).")
    save_json(record, out / "scale.json")
    save_figure(draw(args.counts, results), out / "scale.png")


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    parser.add_argument(
        "--counts", type=number_list, default=[3_000, 30_000, 300_000], metavar="LIST", help="numbers of images"
    )
    cli.add_out(parser)
    cli.add_device(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
