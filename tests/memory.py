"""What the tests may cost in memory: pytest's hooks, which print the peak at the end and fail above the limit.

The peak is that of pytest's own process plus that of the largest process that a test started. On Linux a process is
counted with what the one that started it holds, and with the libraries that it shares with others, so the sum is an
upper bound, also for the tests that run two of torchrun's workers at a time. With pytest-xdist, which runs the files of
tests in two processes at once, each of the two has its own line, and the limit is that of one.
"""

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from forked import stop_fork_server

LIMIT = 3.0  # GB
PEAKS = pytest.StashKey()
own_peak = 0  # bytes: of this process, during the tests so far


def peak_memory(who=resource.RUSAGE_SELF):
    """Return the peak resident memory, in bytes, of this process or, of RUSAGE_CHILDREN, of the largest."""
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def pytest_runtest_logfinish():
    """After each test: note the peak, return freed memory to the system, and let Linux count the peak anew.

    Else every process that a later test starts would be counted with the peak of all tests before it.
    """
    global own_peak
    own_peak = max(own_peak, peak_memory())
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim:
            trim(0)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def pytest_addoption(parser):
    parser.addoption("--memory-limit", type=float, default=LIMIT, metavar="GB", help="most memory of all processes")


def pytest_configure(config):
    config.stash[PEAKS] = []  # a worker's own and its largest child's, in GB: of each worker, where there are several


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """In the process that hands the tests out: a worker of pytest-xdist has ended, and tells its peaks."""
    node.config.stash[PEAKS] += getattr(node, "workeroutput", {}).get("peaks", [])  # one that died tells nothing


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist sends what a worker has to tell
def pytest_sessionfinish(session):
    stop_fork_server()  # its processes are counted once it has ended
    peaks = session.config.stash[PEAKS]
    if not peaks:
        own, other = max(own_peak, peak_memory()), peak_memory(resource.RUSAGE_CHILDREN)
        peaks.append([own / 1e9, other / 1e9])
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["peaks"] = peaks
    elif max(map(sum, peaks)) > session.config.getoption("memory_limit") and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    limit = config.getoption("memory_limit")
    for own, other in config.stash[PEAKS]:
        line = f"peak memory: {own:.2f} GB pytest + {other:.2f} GB largest other process = {own + other:.2f} GB"
        verdict = "ERROR: above" if own + other > limit else "within"
        terminalreporter.write_line(f"{line}, {verdict} the limit of {limit:g} GB", red=own + other > limit)
