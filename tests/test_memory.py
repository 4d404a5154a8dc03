"""The check of the tests' own memory: it can fail, also for a process of the fork server."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

# Nothing is imported beforehand, and eval can be pickled without a module of this test's.
ALLOCATES = """
from forked import CONTEXT

def test_passes():
    CONTEXT.set_forkserver_preload([])
    process = CONTEXT.Process(target=eval, args=("len(b'x' * {bytes})",))
    process.start()
    process.join()
    assert process.exitcode == 0
"""


@pytest.mark.parametrize(
    ("allocated", "status", "options"), [(1_000, 0, ()), (400_000_000, 1, ()), (400_000_000, 1, ("-p", "xdist", "-n2"))]
)
def test_a_process_above_the_limit_fails_the_run_though_every_test_passes(allocated, status, options, tmp_path):
    (tmp_path / "test_allocates.py").write_text(ALLOCATES.format(bytes=allocated))
    # Through a shell: a process that takes this one's place would be counted with this one's peak.
    shell = ["sh", "-c", '"$@"; exit $?', "sh"]
    command = [*shell, sys.executable, "-m", "pytest", "-p", "memory", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [*command, *options, "--memory-limit", "0.3", tmp_path],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed" in done.stdout
    assert done.returncode == status
    lines = re.findall(r"peak memory: (\S+) GB .* (\S+) GB largest .* = (\S+) GB", done.stdout)
    own, other, peak = max((list(map(float, figures)) for figures in lines), key=lambda figures: figures[1])
    assert len(lines) == (2 if options else 1)
    assert peak == pytest.approx(own + other, abs=0.02)  # each is rounded to 0.01
    assert other > allocated / 1e9
    assert ("ERROR: above" in done.stdout) == (status == 1)
