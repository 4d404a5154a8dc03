"""Time this project against the baseline (baseline.py) and the notebook's own code, in turn; print a table.

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


def row(timing):
    """Return the times and the ratios of a timing as text."""
    times = "".join(f"{timing[key]:8.2f} s" for key in ("baseline_seconds", "notebook_seconds", "seconds"))
    return f"{times}{timing['ratio']:6.1f}x{timing['notebook_ratio']:5.1f}x"


def table(results):
    """Return the results as text."""
    lines = [f"{results['machine']}, {results['threads']} threads, device {results['device']}; SYNTHETIC galaxies"]
    lines.append(f"{'one epoch':16}{'baseline':>10}{'notebook':>10}{'here':>10}{'ratios':>13}{'images/s':>12}")
    for name, timing in results["epochs"].items():
        lines.append(f"{name:16}{row(timing)}{timing['images_per_second']:12,.0f}")
    lines.append(f"{'50 + 50 + 20':16}{row(results['whole_assignment'])}   projected from the epochs")
    quiet, busy = results["epochs"]["CNN"], results["epochs"]["CNN, busy"]
    lines.append(
        "beside one busy process an epoch of the CNN takes "
        f"{busy['seconds'] / quiet['seconds']:.1f} times as long here, "
        f"{busy['baseline_seconds'] / quiet['baseline_seconds']:.1f} times with the baseline"
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
        for key in ("seconds", "baseline_seconds", "notebook_seconds")
    }
    times["ratio"] = times["baseline_seconds"] / times["seconds"]
    times["notebook_ratio"] = times["notebook_seconds"] / times["seconds"]
    results = {
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "args": vars(args),
        "epochs": timings,
        "whole_assignment": times,
        "peak_memory_gb": memory,
    }
    artifacts.save_text(json.dumps(results, indent=1) + "\n", out / "results.json")
    print(table(results))


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    parser.add_argument("--count", type=cli.positive_int, default=21785, metavar="N", help="number of images")
    parser.add_argument("--rounds", type=cli.positive_int, default=3, metavar="N", help="rounds of timing both")
    cli.add_out_and_seed(parser)
    cli.add_device(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
