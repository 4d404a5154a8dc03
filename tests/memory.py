"""What the tests may cost in memory: pytest's hooks, which print the peak at the end and fail above the limit.

The peak is an upper bound of what the machine must have: the peak of pytest's own process and twice that of the
largest process that a test started, as no test has more than two large ones at a time (torchrun's workers).
A process's resident memory includes the libraries that it shares with the others.
"""

import resource
import sys

import pytest
from forked import stop_fork_server

LIMIT = 3.0  # GB
LARGE_PROCESSES_AT_ONCE = 2
PEAKS = pytest.StashKey()


def peak_memory(who=resource.RUSAGE_SELF):
    """Return the peak resident memory, in bytes, of this process or, of RUSAGE_CHILDREN, of the largest."""
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def pytest_addoption(parser):
    parser.addoption("--memory-limit", type=float, default=LIMIT, metavar="GB", help="most memory of all processes")


def pytest_sessionfinish(session):
    stop_fork_server()  # its processes are counted once it has ended
    own, other = (peak_memory(who) / 1e9 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    peak = own + LARGE_PROCESSES_AT_ONCE * other
    session.config.stash[PEAKS] = own, other, peak
    if peak > session.config.getoption("memory_limit") and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    own, other, peak = config.stash[PEAKS]
    limit = config.getoption("memory_limit")
    line = f"peak memory: {own:.2f} GB pytest + {LARGE_PROCESSES_AT_ONCE} x {other:.2f} GB the largest other process"
    verdict = "ERROR: above" if peak > limit else "within"
    terminalreporter.write_line(f"{line} = {peak:.2f} GB, {verdict} the limit of {limit:g} GB", red=peak > limit)
