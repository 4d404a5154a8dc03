"""Measure the time and peak memory of a call or a process."""

import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes

# A process inherits the peak memory of its parent, so a small process starts the script.
STARTER = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


def peak_memory(*command, stdin=None):
    """Run a Python script with the file object `stdin` as its input; return its peak resident memory in GB."""
    command = [sys.executable, "-S", "-c", STARTER, sys.executable, *map(str, command)]
    done = subprocess.run(command, cwd=ROOT, stdin=stdin, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise ValueError(f"{' '.join(command[5:])} failed, so it cannot be measured")
    return int(done.stdout) * MAXRSS_UNIT / 1e9


def seconds(function, device="cpu"):
    """Return the duration of a call on a device."""
    start = time.perf_counter()
    function()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(ours, baseline, rounds):
    """Call two functions that return seconds, in turn, `rounds` times; return the medians of times and ratios."""
    times = [(ours(), baseline()) for _ in range(rounds)]
    here, there = zip(*times, strict=True)
    return {
        "seconds": statistics.median(here),
        "baseline_seconds": statistics.median(there),
        "ratio": statistics.median(second / first for first, second in times),
    }


def machine():
    """Return the processor type, torch's version and its vector instructions as text."""
    return f"{platform.machine()}, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
