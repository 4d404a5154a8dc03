"""The scripts as processes that start in milliseconds, everything imported: for tests that start many."""

import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Bytes, of pytest's process and the largest process of a test together. (A GPU's context takes more.)
MEMORY_LIMIT = float(os.environ.get("MEMORY_LIMIT_GB", 3)) * 1e9
SCRIPTS = ("q1_data", "q2_fcn", "q3_cnn", "q4_confusion", "q5_transfer", "summary", "predict", "export")

# The fork server looks for modules in the current folder alone and, once it has imported tests.forked, in this one too:
# else each process would import `forked` and `test_fuzz` anew, which takes longer than what it runs.
sys.path.append(str(Path(__file__).parent))
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.forked", "forked", "test_fuzz", *SCRIPTS])


def peak_memory(who=resource.RUSAGE_SELF):
    """Return the peak resident memory, in bytes, of this process or, of RUSAGE_CHILDREN, its largest finished one."""
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run_script(script, args, stdout, stderr, stdin=os.devnull):
    """In the new process: run a script as `python script *args` would, its input from a file, its output into files.

    A process of the fork server is no child of pytest's, so it watches its memory itself: half the limit is its own.
    """
    for stream, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.dup2(os.open(stdin, os.O_RDONLY), 0)
    # The fork server's own know of a file, which a pipe is not.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which the tests may ignore, where they run in background
    sys.argv = [str(ROOT / script), *map(str, args)]
    try:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    finally:
        if peak_memory() > MEMORY_LIMIT / 2:
            raise MemoryError(f"{script} took {peak_memory() / 1e9:.1f} GB, more than half of what a test may take")


def start(script, *args, log, errors=None, stdin=os.devnull):
    """Start a script, its output into the file `log`, or what is on stderr into `errors`; return its Process."""
    process = CONTEXT.Process(target=run_script, args=(script, args, log, errors or log, stdin))
    process.start()
    return process


def run(script, *args, stdin=os.devnull):
    """Run a script, its input from a file; return it, finished, as subprocess.run does, with its output as text."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / "stdout", Path(folder) / "stderr"]
        process = start(script, *args, log=files[0], errors=files[1], stdin=stdin)
        process.join(300)
        process.kill()
        process.join()
        stdout, stderr = (file.read_text() if file.exists() else "" for file in files)
    return subprocess.CompletedProcess([script, *args], process.exitcode, stdout, stderr)
