"""How much memory a process needs."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def peak_bytes(usage):
    """Return the peak resident memory in a resource usage, in bytes; systems count it in different units."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_memory(*command):
    """Run a Python script; return its peak resident memory in GB, as the operating system counts it."""
    process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise ValueError(f"{' '.join(map(str, command))} failed, so its memory cannot be measured")
    return peak_bytes(usage) / 1e9
