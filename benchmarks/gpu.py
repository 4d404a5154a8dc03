"""Check and time the GPU path on one card, in under eight minutes.

Runs the chain at the assignment's settings on SYNTHETIC galaxies, times the parts of an epoch, and compares the card
with the CPU, replayed with plain steps, and interrupted with whole runs. Writes artifacts, logs and gpu.json under
--out/gpu. Prints a line per check; the exit status is 1 if one fails. --device cpu --count 400 is its dry run.
"""

import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.epochs import loaders_of, make_frozen
from benchmarks.measure import ROOT, machine, seconds
from common import cli
from common.data import load_data
from common.hardware.device import adam_options, bind_step, choose_device
from common.hardware.layers import reorder_layers
from common.storage.artifacts import load_json, load_tensors, save_json
from common.train import predict, train_step
from q2_fcn import make_fcn
from q3_cnn import make_cnn

import torch
from torch import nn

EXAMPLES = ("python -m benchmarks.gpu", "python -m benchmarks.gpu --device cpu --count 400 --epochs 2")
TRAINED = ("q2_fcn", "q3_cnn", "q5_transfer")
SMALL_STEPS = ("--lr", 1e-4)  # with Q3's own rate two kinds of CPU differ by 0.01 too after an epoch, from rounding


class Checks:
    """The lines of the table, and the folder of the runs."""

    def __init__(self, folder, device):
        self.folder, self.device, self.rows = folder, device, []

    def note(self, name, value, passed=None):
        """Add a line and print it; passed: None for a value that no check depends on."""
        self.rows.append({"name": name, "value": value, "passed": passed})
        print(f"{ {None: '', True: 'pass', False: 'FAIL'}[passed]:5}{name}: {value}", flush=True)

    def prepare(self, folder):
        """Return the path of a folder of runs, in which the galaxies of the chain are."""
        out = self.folder / folder
        out.mkdir(exist_ok=True)
        if folder != "chain" and not (out / "q1_data.pt").exists():
            (out / "q1_data.pt").symlink_to(self.folder / "chain" / "q1_data.pt")
        return out

    def run(self, folder, script, *args):
        """Run a script in a folder of runs; return its exit status."""
        command = [sys.executable, f"{script}.py", *map(str, args), "--out", str(self.prepare(folder))]
        with open(self.folder / f"{folder}.log", "a") as log:
            return subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, timeout=240, check=False).returncode

    def history(self, folder, script="q3_cnn"):
        """Return the history in a run's record."""
        return load_json(self.folder / folder / f"{script}.json")["history"]


def run_chain(checks, count, epochs):
    """Run the five scripts, alone on the machine, and note the times of their loops."""
    device, passes = ("--device", checks.device), ("--epochs", epochs) if epochs else ()
    options = {"q1_data": ("--source", "synthetic", *(("--count", count) if count else ())), "q4_confusion": device}
    order = ("q1_data", "q2_fcn", "q3_cnn", "q4_confusion", "q5_transfer")
    status = [checks.run("chain", script, *options.get(script, (*device, *passes))) for script in order]
    checks.note("chain", f"exit status {status}", not any(status))
    loops = {script: sum(checks.history("chain", script)["epoch_seconds"]) for script in TRAINED}
    text = ", ".join(f"{script} {total:.2f} s" for script, total in loops.items())
    checks.note("training loops", f"{text}, together {sum(loops.values()):.2f} s")


def make_step(make_network, device):
    """Return a network with initial weights, its training step, and the step as it runs fastest on the device."""
    torch.manual_seed(0)
    network = make_network().to(device)
    optimizer = torch.optim.Adam((p for p in network.parameters() if p.requires_grad), 0.002, **adam_options(device))
    faster = reorder_layers(network).train()
    arguments = train_step, faster, nn.CrossEntropyLoss(), optimizer
    return network, partial(*arguments), bind_step(*arguments)


def run_steps(step, loader, epoch=1):
    """Take the steps of an epoch; return their mean loss."""
    return torch.stack([step(*batch)[0] * 1 for batch in loader.batches(0, epoch)]).mean().item()


def time_parts(checks, data, device):
    """Note where an epoch's time goes, for each network, and which kernels a replayed step launches."""
    networks = {"FCN": ("main", make_fcn), "CNN": ("main", make_cnn), "transfer": ("transfer", make_frozen)}
    for name, (task, make_network) in networks.items():
        train_loader, test_loader = loaders_of(data, task, device)
        network, _, step = make_step(make_network, device)
        parts = {
            "steps": partial(run_steps, step, train_loader),
            "test": partial(predict, network, test_loader),
            "crops alone": lambda loader=train_loader: [None for _ in loader.batches(0, 1)],
        }
        times = {}
        for part, function in parts.items():
            seconds(function, device)  # to warm up
            times[part] = 1000 * statistics.median(seconds(function, device) for _ in range(5))
        checks.note(f"{name}, ms", ", ".join(f"{part} {value:.1f}" for part, value in times.items()))
        if device.type == "cuda":
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                run_steps(step, train_loader)
            events, steps = profile.key_averages(), len(train_loader)
            total = sum(event.self_device_time_total for event in events) / steps
            checks.note(f"{name}, kernels per step", f"{sum(e.count for e in events) / steps:.0f}, {total:.0f} µs")


def compare_steps(folder, device_name):
    """Return whether replayed steps give the bits of plain ones, with deterministic algorithms, as a line to note.

    In a separate process, as cuBLAS reads when it starts whether it is to be deterministic.
    """
    device = choose_device(device_name, deterministic=True)
    loader, _ = loaders_of(load_data(folder / "chain"), "main", device)
    weights = []
    for replayed in (True, False):
        network, plain, step = make_step(make_cnn, device)
        for epoch in (1, 2):
            run_steps(step if replayed else plain, loader, epoch)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in network.parameters()]))
        if replayed:
            captured = getattr(step, "replay", None) is not None
    same = torch.equal(*weights)
    passed = same and captured == (device.type == "cuda")
    return "replayed and plain steps, deterministic", f"captured {captured}, same bits {same}", passed


def compare_devices(checks):
    """Note how far the first losses of the card are from the CPU's, and those of runs resumed on the other device."""
    for folder, first, second in (("on_cpu", "cpu", checks.device), ("on_card", checks.device, "cpu")):
        for script in ("q2_fcn", "q3_cnn"):
            checks.run(folder, script, "--device", first, "--epochs", 1, *SMALL_STEPS)
        shutil.copytree(checks.folder / folder, checks.folder / f"{folder}_resumed", symlinks=True)
        checks.run(f"{folder}_resumed", "q3_cnn", "--device", second, "--epochs", 2, *SMALL_STEPS, "--resume")
    for name, epoch, script in (("", 0, "q2_fcn"), ("", 0, "q3_cnn"), ("_resumed", 1, "q3_cnn")):
        on_cpu, on_card = (checks.history(f"{first}{name}", script) for first in ("on_cpu", "on_card"))
        gap = max(abs(on_cpu[key][epoch] - on_card[key][epoch]) for key in ("train_loss", "test_loss"))
        what = f"{script}{name}, epoch {epoch + 1}, card and CPU"
        checks.note(what, f"losses differ by at most {gap:.1e}", gap < 1e-3)


def compare_resumed(checks, epochs):
    """Note whether a run that is killed and resumed ends with the bits of an uninterrupted one."""
    options = ("--deterministic", "--device", checks.device)
    checks.run("killed", "q3_cnn", *options, "--epochs", 1)  # makes the folder
    command = [sys.executable, "q3_cnn.py", *options, "--epochs", "2000", "--out", str(checks.folder / "killed")]
    state, begin = checks.folder / "killed" / "q3_cnn.resume.pt", time.time()
    victim = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while state.stat().st_mtime < begin and time.time() < begin + 120:
        time.sleep(0.05)
    victim.kill()
    victim.wait()
    done = len(torch.load(state, weights_only=True)["history"]["test_loss"])
    checks.run("killed", "q3_cnn", *options, "--epochs", done + epochs, "--resume")
    checks.run("whole", "q3_cnn", *options, "--epochs", done + epochs)
    weights = [load_tensors(checks.folder / each / "q3_cnn.pt", "q3_cnn.py") for each in ("killed", "whole")]
    same = all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    checks.note("killed and resumed, deterministic", f"same bits {same}", same)


def main():
    args = get_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA device here: benchmarks.gpu needs one (--device cpu --count 400 is its dry run).")
        return
    device = choose_device(args.device)
    folder = Path(args.out).resolve() / "gpu"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    checks = Checks(folder, args.device)
    name = torch.cuda.get_device_name() if args.device == "cuda" else "no card: a dry run"
    checks.note("machine", f"{name}, {machine()}, {os.cpu_count()} cores; SYNTHETIC galaxies")
    run_chain(checks, args.count, args.epochs)
    time_parts(checks, load_data(folder / "chain"), device)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        checks.note(*process.submit(compare_steps, folder, args.device).result())
    compare_devices(checks)
    compare_resumed(checks, min(args.epochs or 12, 12))
    save_json({"rows": checks.rows, "args": vars(args)}, folder / "gpu.json")
    failed = [row["name"] for row in checks.rows if row["passed"] is False]
    if failed:
        print(f"Failed, {len(failed)} of {len(checks.rows)}: {', '.join(failed)}")
        sys.exit(1)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run")
    add("--count", type=cli.positive_int, metavar="N", help="synthetic galaxies; unset: as many as Galaxy10 SDSS has")
    add("--epochs", type=cli.positive_int, metavar="N", help="of all training runs; unset: the assignment's")
    cli.add_out(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
