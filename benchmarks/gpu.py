"""Check and time the code on a GPU.

Runs the five scripts with the assignment's settings on SYNTHETIC galaxies, times the parts of an epoch, and compares
the GPU with the CPU and with the baseline. Writes artifacts, logs and gpu.json to --out/gpu. Prints a line per check;
the exit status is 1 if one fails. --device cpu --count 400 is a dry run. tests/test_gpu.py compares bits on the GPU.
"""

import os
import shutil
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.epochs import loaders_of, make_frozen, time_epochs
from benchmarks.measure import ROOT, machine, seconds
from common import cli
from common.data import load_data
from common.hardware.device import adam_options, bind_step, choose_device
from common.hardware.layers import reorder_layers
from common.storage.artifacts import load_json, save_json
from common.train import predict, train_step
from q2_fcn import make_fcn
from q3_cnn import make_cnn

import torch
from torch import nn

EXAMPLES = ("python -m benchmarks.gpu", "python -m benchmarks.gpu --device cpu --count 400 --epochs 2")
SMALL_STEPS = ("--lr", 1e-4)  # at Q3's learning rate, rounding makes two kinds of CPU differ by 0.01 after an epoch


class Checks:
    """The rows of the table, and the runs' folders."""

    def __init__(self, folder, device):
        self.folder, self.device, self.rows = folder, device, []

    def note(self, name, value, passed=None):
        """Add a row and print it; passed: None for a value that is not checked."""
        self.rows.append({"name": name, "value": value, "passed": passed})
        print(f"{ {None: '', True: 'pass', False: 'FAIL'}[passed]:5}{name}: {value}", flush=True)

    def run(self, folder, script, *args):
        """Run a script in a folder with the chain's q1_data.pt; return its exit status."""
        out = self.folder / folder
        out.mkdir(exist_ok=True)
        if folder != "chain" and not (out / "q1_data.pt").exists():
            (out / "q1_data.pt").symlink_to(self.folder / "chain" / "q1_data.pt")
        with open(self.folder / f"{folder}.log", "a") as log:
            command = [sys.executable, f"{script}.py", *map(str, args), "--out", str(out)]
            return subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, timeout=240, check=False).returncode

    def record(self, folder, script="q3_cnn"):
        """Return the record of a run."""
        return load_json(self.folder / folder / f"{script}.json")


def run_chain(checks, count, epochs):
    """Run the five scripts and note the times of their training loops."""
    device, passes = ("--device", checks.device), ("--epochs", epochs) if epochs else ()
    options = {"q1_data": ("--source", "synthetic", *(("--count", count) if count else ())), "q4_confusion": device}
    order = ("q1_data", "q2_fcn", "q3_cnn", "q4_confusion", "q5_transfer")
    status = [checks.run("chain", script, *options.get(script, (*device, *passes))) for script in order]
    checks.note("chain", f"exit status {status}", not any(status))
    trained = ("q2_fcn", "q3_cnn", "q5_transfer")
    loops = {script: sum(checks.record("chain", script)["history"]["epoch_seconds"]) for script in trained}
    text = ", ".join(f"{script} {total:.2f} s" for script, total in loops.items())
    checks.note("training loops", f"{text}, together {sum(loops.values()):.2f} s")


def make_step(make_network, device):
    """Return a network with initial weights and its training step."""
    torch.manual_seed(0)
    network = make_network().to(device)
    optimizer = torch.optim.Adam((p for p in network.parameters() if p.requires_grad), 0.002, **adam_options(device))
    arguments = train_step, reorder_layers(network).train(), nn.CrossEntropyLoss(), optimizer
    return network, bind_step(*arguments)


def run_steps(step, loader):
    """Take the steps of an epoch."""
    for batch in loader.batches(0, 1):
        step(*batch)


def time_parts(checks, data, device):
    """Note the times of an epoch's parts for each network, and on a GPU the kernels of a replayed step."""
    networks = {"FCN": ("main", make_fcn), "CNN": ("main", make_cnn), "transfer": ("transfer", make_frozen)}
    for name, (task, make_network) in networks.items():
        train_loader, test_loader = loaders_of(data, task, device)
        network, step = make_step(make_network, device)
        parts = {
            "steps": partial(run_steps, step, train_loader),
            "test": partial(predict, network, test_loader),
            "crops alone": partial(run_steps, lambda images, labels: None, train_loader),
        }
        times = []
        for part, function in parts.items():
            seconds(function, device)  # to warm up
            median = statistics.median(seconds(function, device) for _ in range(5))
            times.append(f"{part} {1000 * median:.1f}")
        checks.note(f"{name}, ms", ", ".join(times))
        if device.type == "cuda":
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                run_steps(step, train_loader)
            events, steps = profile.key_averages(), len(train_loader)
            total = sum(event.self_device_time_total for event in events) / steps
            checks.note(f"{name}, kernels per step", f"{sum(e.count for e in events) / steps:.0f}, {total:.0f} µs")


def compare_devices(checks):
    """Note the differences between the losses on GPU and CPU, also of runs resumed on the other device."""
    for folder, first, second in (("on_cpu", "cpu", checks.device), ("on_card", checks.device, "cpu")):
        for script in ("q2_fcn", "q3_cnn"):
            checks.run(folder, script, "--device", first, "--epochs", 1, *SMALL_STEPS)
        shutil.copytree(checks.folder / folder, checks.folder / f"{folder}_resumed", symlinks=True)
        checks.run(f"{folder}_resumed", "q3_cnn", "--device", second, "--epochs", 2, *SMALL_STEPS, "--resume")
    for name, epoch, script in (("", 0, "q2_fcn"), ("", 0, "q3_cnn"), ("_resumed", 1, "q3_cnn")):
        on_cpu, on_card = (checks.record(f"{first}{name}", script)["history"] for first in ("on_cpu", "on_card"))
        gap = max(abs(on_cpu[key][epoch] - on_card[key][epoch]) for key in ("train_loss", "test_loss"))
        what = f"{script}{name}, epoch {epoch + 1}, GPU and CPU"
        checks.note(what, f"losses differ by at most {gap:.1e}", gap < 1e-3)


def main():
    args = get_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks.gpu needs a CUDA device, and there is none (--device cpu --count 400 is a dry run).")
        return
    device = choose_device(args.device)
    folder = Path(args.out).resolve() / "gpu"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    checks = Checks(folder, args.device)
    name = torch.cuda.get_device_name() if args.device == "cuda" else "no GPU: a dry run"
    checks.note("machine", f"{name}, {machine()}, {os.cpu_count()} cores; SYNTHETIC galaxies")
    run_chain(checks, args.count, args.epochs)
    data = load_data(folder / "chain")
    time_parts(checks, data, device)
    compare_devices(checks)
    for task, timing in time_epochs(folder / "chain", data, 1, device).items():
        text = f"{timing['baseline_seconds']:.3f} s, here {timing['seconds']:.3f} s, {timing['ratio']:.1f}x"
        checks.note(f"baseline, {task}", text)
    save_json({"rows": checks.rows, "args": vars(args)}, folder / "gpu.json")
    failed = [row["name"] for row in checks.rows if row["passed"] is False]
    if failed:
        print(f"Failed, {len(failed)} of {len(checks.rows)}: {', '.join(failed)}")
        sys.exit(1)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run")
    add("--count", type=cli.positive_int, metavar="N", help="synthetic galaxies; unset: as many as in Galaxy10 SDSS")
    add("--epochs", type=cli.positive_int, metavar="N", help="epochs of all training runs; unset: the assignment's")
    cli.add_out(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
