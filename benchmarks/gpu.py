"""Check and time the GPU path on one card, in under eight minutes.

Runs the chain at the assignment's settings on SYNTHETIC galaxies, times the parts of an epoch, compares the card with
the CPU, replayed with plain steps, interrupted and resumed runs with whole ones, and runs the tests where --device auto
is the card. Writes, under --out/gpu, the artifacts, the logs and gpu.json. Prints a table; the exit status is 1 if a
check fails. --device cpu --count 400 is its dry run.
"""

import multiprocessing
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

from benchmarks.epochs import start
from benchmarks.measure import ROOT, machine, seconds
from common import cli
from common.data import Normalize, RandomCrop, load_data, make_loaders, seed_epoch
from common.hardware.device import choose_device, place
from common.storage.artifacts import load_json, load_tensors, save_json
from common.storage.resume import TrainingCheckpoint
from common.train import epoch_means, predict, train_epoch
from q2_fcn import make_fcn
from q3_cnn import make_backbone, make_cnn

import joblib
import torch
from torch import nn
from torchvision import transforms

EXAMPLES = ("python -m benchmarks.gpu", "python -m benchmarks.gpu --device cpu --count 400 --epochs 2")
TRAINED = ("q2_fcn", "q3_cnn", "q5_transfer")
# The tests most likely to fail where auto is a card.
TESTS = ("resident", "device", "train", "seams", "resume", "checkpoint", "chain", "transfer", "predict", "distributed")


class Checks:
    """The rows of the table, and the folder of the runs."""

    def __init__(self, folder, device):
        self.folder, self.device, self.rows = folder, device, []

    def note(self, name, value, passed=None):
        """Add a row and print it; passed: None for a figure that no check depends on."""
        mark = {None: "", True: "pass", False: "FAIL"}[passed]
        self.rows.append({"name": name, "value": value, "passed": passed})
        print(f"{mark:5}{name}: {value}", flush=True)

    def run(self, name, script, *args, seconds=240, **environment):
        """Run a script of the project; return its exit status and its output, which also goes into a log."""
        command = [sys.executable, script, *map(str, args)]
        options = {"cwd": ROOT, "env": os.environ | environment, "timeout": seconds, "check": False}
        done = subprocess.run(command, capture_output=True, text=True, **options)
        (self.folder / f"{name}.log").write_text(done.stdout + done.stderr)
        return done.returncode, done.stdout + done.stderr

    def with_data(self, folder):
        """Return the path of a run's folder, in which the galaxies of the chain are."""
        out = self.folder / folder
        out.mkdir(exist_ok=True)
        if not (out / "q1_data.pt").exists():
            (out / "q1_data.pt").symlink_to(self.folder / "chain" / "q1_data.pt")
        return out

    def train(self, folder, script, *args):
        """Run a training script on the galaxies of the chain, in a folder of its own; return status and output."""
        log = f"{folder}-{script}-{len(list(self.folder.glob('*.log')))}"
        return self.run(log, f"{script}.py", *args, "--out", self.with_data(folder))

    def history(self, folder, script="q3_cnn"):
        """Return the history in a run's record."""
        return load_json(self.folder / folder / f"{script}.json")["history"]

    def same_weights(self, first, second):
        """Return whether two runs ended with the same bits, and the largest difference between their weights."""
        pairs = (load_tensors(self.folder / each / "q3_cnn.pt", "q3_cnn.py") for each in (first, second))
        first, second = (torch.cat([tensor.flatten() for tensor in each.values()]) for each in pairs)
        return torch.equal(first, second), (first - second).abs().max().item()


def run_chain(checks, count, epochs):
    """Run the five scripts, alone on the machine, and note the times of their loops."""
    out, device = checks.folder / "chain", ("--device", checks.device)
    size = ("--count", count) if count else ()
    status, _ = checks.run("q1_data", "q1_data.py", "--source", "synthetic", *size, "--out", out)
    passes = ("--epochs", epochs) if epochs else ()
    for script in ("q2_fcn", "q3_cnn", "q4_confusion", "q5_transfer"):
        options = device if script == "q4_confusion" else (*device, *passes)
        status = status or checks.run(script, f"{script}.py", *options, "--out", out)[0]
    checks.note("chain", f"exit status {status}", status == 0)
    loops = {script: sum(checks.history("chain", script)["epoch_seconds"]) for script in TRAINED}
    text = ", ".join(f"{script} {total:.2f} s" for script, total in loops.items())
    checks.note("training loops", f"{text}, together {sum(loops.values()):.2f} s")
    for script in TRAINED:
        record = load_json(out / f"{script}.json")
        epoch = statistics.median(record["history"]["epoch_seconds"])
        checks.note(script, f"test accuracy {record['test_accuracy']:.1%}, median epoch {1000 * epoch:.1f} ms")


def initial(make_network, device, precision="float32"):
    """Return a network with initial weights, its optimizer, and what `accelerate` makes of it."""
    torch.manual_seed(0)
    network = make_network()
    return network, *start(network, device, 0.002, precision)


def milliseconds(function, device, times=5):
    """Return the median time of a call in ms, after one to warm up."""
    seconds(function, device)
    return round(1000 * statistics.median(seconds(function, device) for _ in range(times)), 2)


def time_parts(checks, data):
    """Note where an epoch's time goes, for each network."""
    device = torch.device(checks.device)
    transform = transforms.Compose([RandomCrop(48), Normalize(data["mean"], data["std"])])
    main, transfer = (place(make_loaders(data, name, transform), device) for name in ("main", "transfer"))
    time_network(checks, "FCN", main, data, make_fcn)
    time_network(checks, "CNN", main, data, make_cnn)
    time_network(checks, "CNN, bf16", main, data, make_cnn, precision="bf16")
    frozen = nn.Sequential(make_backbone().requires_grad_(False), nn.Linear(64, 2))
    time_network(checks, "transfer", transfer, data, lambda: frozen)


def time_network(checks, name, task, data, make_network, precision="float32"):
    """Note the times of a network's epoch, sampling, evaluation and checkpoint, and the kernels of a step."""
    device = torch.device(checks.device)
    network, optimizer, faster, run_epoch = initial(make_network, device, precision)

    def epoch():
        seed_epoch(task.train_loader, 0, 1)
        epoch_means(*run_epoch(faster, nn.CrossEntropyLoss(), optimizer, task.train_loader))

    parts = {
        "epoch": milliseconds(epoch, device),
        "test": milliseconds(lambda: predict(network, task.test_loader), device),
    }
    if device.type != "cpu":
        parts["sampling"] = milliseconds(task.train_loader.sample_epoch, device)
    checkpoint = TrainingCheckpoint("measured", {"out": checks.folder, "resume": None, "epochs": 1}, data)
    parts["checkpoint"] = milliseconds(lambda: checkpoint.save(network, optimizer, {"test_loss": [1.0]}), device)
    checks.note(f"{name}, ms", ", ".join(f"{part} {value}" for part, value in parts.items()))
    if getattr(run_epoch, "replay", None):
        checks.note(f"{name}, kernels", describe_kernels(epoch, len(task.train_loader)))


def describe_kernels(epoch, steps):
    """Return in words what kernels an epoch launches per step, and which take longest."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        epoch()
        torch.cuda.synchronize()
    kernels = [(e.self_device_time_total / steps, e.count / steps, e.key) for e in profile.key_averages()]
    kernels = sorted((kernel for kernel in kernels if kernel[0]), reverse=True)
    longest = "".join(f"\n      {time:6.1f} us  {count:4.1f} times  {key[:100]}" for time, count, key in kernels[:12])
    total, count = (sum(kernel[place] for kernel in kernels) for place in (0, 1))
    return f"{count:.1f} per step, {total:.0f} us together{longest}"


def check_steps(folder, name):
    """Return rows: do replayed steps give the bits of plain ones, and does a failed capture leave nothing behind?

    In a process of its own, as cuBLAS reads when it starts whether it is to be deterministic.
    """
    rows, data = [], load_data(folder / "chain")
    device = choose_device(name, deterministic=True)
    transform = transforms.Compose([RandomCrop(48), Normalize(data["mean"], data["std"])])
    loader = place(make_loaders(data, "main", transform), device).train_loader
    weights, captured = [], None
    for replayed in (True, False):
        network, optimizer, faster, run_epoch = initial(make_cnn, device)
        for epoch in (1, 2):
            seed_epoch(loader, 0, epoch)
            (run_epoch if replayed else train_epoch)(faster, nn.CrossEntropyLoss(), optimizer, loader)
        captured = captured or getattr(run_epoch, "capture", None) is not None
        weights.append(torch.cat([parameter.detach().flatten() for parameter in network.parameters()]))
    same = torch.equal(*weights)
    rows.append(("replayed and plain steps, deterministic", f"captured {captured}, same bits {same}", same))
    torch.use_deterministic_algorithms(False)

    def synchronizing(logits, labels):
        loss = nn.functional.cross_entropy(logits, labels)
        loss.item()  # which waits for the card, as no captured step can
        return loss

    for which, loss, is_captured in (
        ("loss that waits", synchronizing, False),
        ("after it", nn.CrossEntropyLoss(), True),
    ):
        network, optimizer, faster, run_epoch = initial(make_cnn, device)
        seed_epoch(loader, 0, 1)
        mean_loss, _ = epoch_means(*run_epoch(faster, loss, optimizer, loader))
        captured = bool(getattr(run_epoch, "replay", None)) and run_epoch.capture is not None
        on_default = device.type == "cpu" or torch.cuda.current_stream() == torch.cuda.default_stream()
        passed = on_default and (device.type == "cpu" or captured == is_captured) and mean_loss < 2.5
        rows.append((f"a capture, {which}", f"captured {captured}, loss {mean_loss:.3f}", passed))
    return rows


def run_side_by_side(checks, epochs):
    """Run scripts side by side: killed and resumed, on both devices and from one to the other, in bf16, by torchrun.

    Return what each gave, by name: exit status and output of those that are one run of one script.
    """
    device = "--device", checks.device

    def on_both_devices(folder, first, second):
        # Small steps: with Q3's own, two kinds of CPU differ by 0.01 too after an epoch, from rounding alone.
        for script in ("q2_fcn", "q3_cnn"):
            checks.train(folder, script, "--device", first, "--epochs", 1, "--lr", 1e-4)
        shutil.copytree(checks.folder / folder, checks.folder / f"{folder}_resumed", symlinks=True)
        checks.train(f"{folder}_resumed", "q3_cnn", "--device", second, "--epochs", 2, "--lr", 1e-4, "--resume")

    def killed():
        out = checks.with_data("killed")
        command = [sys.executable, "q3_cnn.py", "--deterministic", *device, "--epochs", "2000", "--out", out]
        victim = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        state, deadline = out / "q3_cnn.resume.pt", time.monotonic() + 120
        while not state.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        done = len(torch.load(state, weights_only=True)["history"]["test_loss"])
        checks.train("killed", "q3_cnn", "--deterministic", *device, "--epochs", done + epochs, "--resume")
        checks.train("whole", "q3_cnn", "--deterministic", *device, "--epochs", done + epochs)

    tasks = {
        "cpu": lambda: on_both_devices("on_cpu", "cpu", checks.device),
        "card": lambda: on_both_devices("on_card", checks.device, "cpu"),
        "killed": killed,
        "bf16": lambda: checks.train("bf16", "q3_cnn", "--precision", "bf16", *device, "--epochs", epochs),
    }
    if checks.device == "cuda":
        tasks["torchrun"] = lambda: torchrun(checks, "torchrun", 1)
        tasks["two"] = lambda: torchrun(checks, "two", 2)
        tasks["memory"] = lambda: checks.run("memory", "-c", OUT_OF_MEMORY)
    with ThreadPoolExecutor(min(5, joblib.cpu_count())) as pool:
        return dict(zip(tasks, pool.map(lambda task: task(), tasks.values()), strict=True))


def check_runs(checks, epochs, results):
    """Compare the runs of `run_side_by_side`, whose `results` are exit statuses and outputs."""
    for name, epoch, script in (("", 0, "q2_fcn"), ("", 0, "q3_cnn"), ("_resumed", 1, "q3_cnn")):
        on_cpu, on_card = (checks.history(f"{first}{name}", script) for first in ("on_cpu", "on_card"))
        gap = max(abs(on_cpu[key][epoch] - on_card[key][epoch]) for key in ("train_loss", "test_loss"))
        what = f"{script} with --lr 1e-4, losses of epoch {epoch + 1}"
        what += ", resumed on the other device" if name else ""
        checks.note(f"{what}: difference between card and CPU", f"at most {gap:.1e}", gap < 1e-3)
    same, gap = checks.same_weights("killed", "whole")
    checks.note("killed and resumed, deterministic", f"same bits {same}, at most {gap:.1e}", same)
    last = min(epochs, len(checks.history("chain")["train_loss"])) - 1
    gap = abs(checks.history("bf16")["train_loss"][last] - checks.history("chain")["train_loss"][last])
    checks.note("bf16 minus float32, training loss", f"{gap:.3f}", gap < 0.1)
    if checks.device == "cuda":
        status, _ = results["torchrun"]
        gap = abs(checks.history("torchrun")["train_loss"][0] - checks.history("chain")["train_loss"][0])
        passed = status == 0 and gap < 1e-3
        checks.note("torchrun, one process", f"exit status {status}, loss differs by {gap:.1e}", passed)
        clear = "processes but 1 GPU" in results["two"][1]
        checks.note("torchrun, two processes on one card", "a clear error" if clear else "no clear error", clear)
        checks.note("out of memory", results["memory"][1].strip().splitlines()[-1][:100], results["memory"][0] == 2)


OUT_OF_MEMORY = """
import torch
from common import cli
cli.run(lambda: torch.empty(2**50, device="cuda"), trains=True)
"""


def torchrun(checks, folder, processes):
    """Train for an epoch by torchrun; return status and output."""
    launch = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "q3_cnn.py")
    options = ("--device", checks.device, "--epochs", 1, "--out", checks.with_data(folder))
    return checks.run(folder, *launch, *options)


def main():
    args = get_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA device here: benchmarks.gpu needs one (--device cpu --count 400 is its dry run).")
        return
    choose_device(args.device)
    folder = Path(args.out).resolve() / "gpu"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    checks, begin = Checks(folder, args.device), time.perf_counter()
    name = torch.cuda.get_device_name() if args.device == "cuda" else "no card: a dry run"
    checks.note("machine", f"{name}, {machine()}, {joblib.cpu_count()} cores; SYNTHETIC galaxies")
    run_chain(checks, args.count, args.epochs)
    data = load_data(folder / "chain")
    time_parts(checks, data)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        for row in process.submit(check_steps, folder, args.device).result():
            checks.note(*row)
    epochs = min(args.epochs or 12, 12)
    check_runs(checks, epochs, run_side_by_side(checks, epochs))
    if args.tests:
        files = [ROOT / "tests" / f"test_{each}.py" for each in TESTS]
        options = (
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-n",
            min(10, joblib.cpu_count()),
            "--dist",
            "loadfile",
        )
        status, output = checks.run("tests", *options, *files, seconds=300, OMP_NUM_THREADS="1", MEMORY_LIMIT_GB="100")
        checks.note("tests", output.strip().splitlines()[-1], status == 0)
    failed = [row["name"] for row in checks.rows if row["passed"] is False]
    checks.note("seconds", f"{time.perf_counter() - begin:.0f}")
    save_json({"rows": checks.rows, "args": vars(args)}, folder / "gpu.json")
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
    add("--no-tests", dest="tests", action="store_false", help="leave the tests out")
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
