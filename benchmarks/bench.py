"""Time this project against the baseline (baseline.py), in one run that alternates the two; print a table.

Generates the SYNTHETIC Galaxy10 (the galaxies do not affect the times) and writes, under --out/benchmarks, galaxies.h5,
q1_data.pt and results.json.
"""

import json
from pathlib import Path

from benchmarks.epochs import time_everything
from benchmarks.measure import machine, peak_memory
from common import cli
from common.data import load_data
from common.galaxies.synthetic import write_synthetic
from common.hardware.device import choose_device
from common.storage import artifacts

import torch

EXAMPLES = ("python -m benchmarks.bench", "python -m benchmarks.bench --count 3000 --rounds 2 --out small")


def table(results):
    """Return the results as text."""
    lines = [f"{results['machine']}, {results['threads']} threads, device {results['device']}; SYNTHETIC galaxies"]
    lines.append(f"{'one epoch':16}{'baseline':>12}{'here':>10}{'ratio':>8}{'images/s':>12}")
    for name, timing in results["epochs"].items():
        lines.append(
            f"{name:16}{timing['baseline_seconds']:10.2f} s{timing['seconds']:8.2f} s"
            f"{timing['ratio']:7.1f}x{timing['images_per_second']:12,.0f}"
        )
    whole = results["whole_assignment"]
    lines.append(
        f"{'50 + 50 + 20':16}{whole['baseline_seconds']:10.0f} s{whole['seconds']:8.0f} s{whole['ratio']:7.1f}x"
        "   projected from the epochs"
    )
    memory = results["peak_memory_gb"]
    lines.append(
        f"peak memory: Q1 {memory['q1']:.2f} GB, training {memory['training']:.2f} GB, baseline "
        f"{memory['baseline']:.2f} GB; importing the packages alone {memory['imports']:.2f} GB"
    )
    return "\n".join(lines)


def main():
    args = get_args()
    device = choose_device(args.device)
    out = Path(args.out).resolve() / "benchmarks"
    write_synthetic(out / "galaxies.h5", args.count, args.seed)
    main_train, transfer_train = round(args.count * 18000 / 21785), round(args.count * 1000 / 21785)
    q1 = ("q1_data.py", "--data", out / "galaxies.h5", "--out", out, "--main-train", main_train)
    imports = "import torch, torchvision, h5py, matplotlib.pyplot, sklearn.linear_model, scipy.stats, pooch"
    memory = {
        "q1": peak_memory(*q1, "--transfer-train", transfer_train),
        "training": peak_memory("q3_cnn.py", "--epochs", 1, "--device", args.device, "--out", out),
        "baseline": peak_memory("-m", "benchmarks.baseline", out / "galaxies.h5", main_train),
        "imports": peak_memory("-c", imports),
    }
    data = load_data(out)
    timings = time_everything(out, data, args.rounds, device)
    times = {
        key: sum(timings[name][key] * epochs for name, epochs in (("FCN", 50), ("CNN", 50), ("transfer", 20)))
        for key in ("seconds", "baseline_seconds")
    }
    results = {
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "args": vars(args),
        "epochs": timings,
        "whole_assignment": times | {"ratio": times["baseline_seconds"] / times["seconds"]},
        "peak_memory_gb": memory,
    }
    artifacts.save_text(json.dumps(results, indent=1) + "\n", out / "results.json")
    print(table(results))


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    parser.add_argument("--count", type=cli.positive_int, default=21785, metavar="N", help="number of images")
    parser.add_argument("--rounds", type=cli.positive_int, default=5, metavar="N", help="rounds of timing both")
    cli.add_out_and_seed(parser)
    cli.add_device(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
