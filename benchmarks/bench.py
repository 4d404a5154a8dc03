"""Time this project and the baseline in turn, and measure their memory; print a table.

The baseline is baseline.py; for predict.py it is a loop with PIL and torchvision (pictures.py). The galaxies are
SYNTHETIC, which does not affect the times. Writes galaxies, an untrained network and results.json to --out/benchmarks.
"""

import json
from pathlib import Path

from benchmarks.epochs import time_epochs
from benchmarks.measure import machine, peak_memory
from benchmarks.pictures import memory_of_many, time_pictures
from common import cli
from common.data import load_data
from common.galaxies.synthetic import write_synthetic
from common.hardware.device import choose_device
from common.storage.artifacts import save_text

import torch

EXAMPLES = (
    "python -m benchmarks.bench",
    "python -m benchmarks.bench --count 3000 --pictures 500 --many 5000 --rounds 2 --out small",
)
EPOCHS = {"FCN": 50, "CNN": 50, "transfer": 20}
PACKAGES = "import torch, torchvision, h5py, matplotlib.pyplot, sklearn.linear_model, scipy.stats, pooch"


def table(results):
    """Return the results as text."""
    lines = [f"{results['machine']}, {results['threads']} threads, device {results['device']}; SYNTHETIC galaxies"]
    lines.append(f"{'':24}{'baseline':>12}{'here':>12}{'ratio':>9}{'images/s':>12}")
    for name, timing in results["timings"].items():
        per_second = f"{timing['images_per_second']:12,.0f}" if "images_per_second" in timing else ""
        times = f"{timing['baseline_seconds']:10.2f} s{timing['seconds']:10.2f} s{timing['ratio']:8.1f}x"
        lines.append(f"{name:24}{times}{per_second}")
    for name, gigabytes in results["peak_memory_gb"].items():
        columns = f"{gigabytes:9.2f} GB" if name == "baseline" else f"{'':12}{gigabytes:9.2f} GB"
        lines.append(f"{f'memory: {name}':24}{columns}")
    return "\n".join(lines)


def main():
    args = get_args()
    device = choose_device(args.device)
    out = Path(args.out).resolve() / "benchmarks"
    write_synthetic(out / "galaxies.h5", args.count, args.seed)
    main_train, transfer_train = round(args.count * 18000 / 21785), round(args.count * 1000 / 21785)
    q1 = ("--data", out / "galaxies.h5", "--out", out, "--main-train", main_train, "--transfer-train", transfer_train)
    memory = {
        "Q1": peak_memory("q1_data.py", *q1),
        "training": peak_memory("q3_cnn.py", "--epochs", 1, "--device", args.device, "--out", out),
        "baseline": peak_memory("-m", "benchmarks.baseline", out / "galaxies.h5", main_train),
        "packages": peak_memory("-c", PACKAGES),
    }
    timings = time_epochs(out, load_data(out), args.rounds, device)
    whole = {
        key: sum(timings[name][key] * epochs for name, epochs in EPOCHS.items())
        for key in ("seconds", "baseline_seconds")
    }
    timings["50 + 50 + 20, projected"] = whole | {"ratio": whole["baseline_seconds"] / whole["seconds"]}
    timings[f"{args.pictures:,} JPEGs"] = time_pictures(out, args.pictures, args.rounds, args.seed)
    for count in (args.pictures, args.many):
        memory[f"{count:,} pictures"] = memory_of_many(out, out / "pictures" / "00000.jpg", count)
    results = {
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "args": vars(args),
        "timings": timings,
        "peak_memory_gb": memory,
    }
    save_text(json.dumps(results, indent=1) + "\n", out / "results.json")
    print(table(results))


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--count", type=cli.positive_int, default=21785, metavar="N", help="galaxies for training")
    add("--pictures", type=cli.positive_int, default=5000, metavar="N", help="JPEGs for predict.py")
    add(
        "--many",
        type=cli.positive_int,
        default=100000,
        metavar="N",
        help="pictures for measuring the memory of predict.py",
    )
    add("--rounds", type=cli.positive_int, default=3, metavar="N", help="rounds of timing")
    cli.add_out_and_seed(parser)
    cli.add_device(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
