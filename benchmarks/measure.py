"""How much time and memory a call or a process needs, and on which machine."""

import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes: systems count memory in different units

# A process is counted with the peak of the one that started it, so a small one in between starts the script.
STARTER = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


def run_measured(*command):
    """Run a Python script; return how long it took, in s, and its peak resident memory, in GB, as the system counts."""
    command = [sys.executable, "-S", "-c", STARTER, sys.executable, *map(str, command)]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise ValueError(f"{' '.join(command[5:])} failed, so it cannot be measured")
    return time.perf_counter() - start, int(done.stdout) * MAXRSS_UNIT / 1e9


def peak_memory(*command):
    """Run a Python script; return its peak resident memory in GB."""
    return run_measured(*command)[1]


def seconds(function, device):
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
    return time.perf_counter() - start


def alternate(ways, rounds):
    """Call functions that return seconds in turn, `rounds` times; return their medians, and their ratios to `seconds`.

    ways: by name, `seconds` and others such as `baseline_seconds`, whose ratio, the median of the rounds' ratios, is
    called `baseline_ratio`; that of the baseline is `ratio` alone.
    """
    times = [{name: way() for name, way in ways.items()} for _ in range(rounds)]
    timing = {name: statistics.median(each[name] for each in times) for name in ways}
    for name in ways.keys() - {"seconds"}:
        ratio = name.replace("seconds", "ratio").removeprefix("baseline_")
        timing[ratio] = statistics.median(each[name] / each["seconds"] for each in times)
    return timing


def machine():
    """Return the processor's kind, torch's version and the vector instructions that it uses, as text."""
    return f"{platform.machine()}, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
