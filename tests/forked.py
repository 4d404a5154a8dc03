"""Run the scripts in processes forked from one that has imported everything, so that they start in milliseconds."""

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
# Bytes of pytest's process and a test's largest process together. (A GPU's context takes more.)
MEMORY_LIMIT = float(os.environ.get("MEMORY_LIMIT_GB", 3)) * 1e9
SCRIPTS = ("q1_data", "q2_fcn", "q3_cnn", "q4_confusion", "q5_transfer", "summary", "predict", "export")

# The fork server looks for modules in the current folder only and, once it has imported tests.forked, also in this one.
# Otherwise each process would import `forked` and `test_fuzz` again, which takes longer than running it.
sys.path.append(str(Path(__file__).parent))
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.forked", "forked", "test_fuzz", *SCRIPTS])


def peak_memory(who=resource.RUSAGE_SELF):
    """Return the peak memory in bytes of this process or, for RUSAGE_CHILDREN, of its largest finished child."""
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run_script(script, args, stdout, stderr, stdin, project, environment):
    """In the new process: run `python script *args` or, without .py, `python -m script *args`, with files as streams.

    project: a copy of the project, to run there; environment: variables to set. The process is the fork server's child,
    not pytest's, so it checks its memory itself, against half of the limit.
    """
    os.environ.update(environment)
    if project:
        use_copy(project)
    for stream, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.dup2(os.open(stdin, os.O_RDONLY), 0)
    # The fork server's streams assume files, but stdin or stdout may be a pipe.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background may ignore it
    sys.argv = [str(script), *map(str, args)]
    try:
        if script.endswith(".py"):
            sys.argv[0] = str(Path(project or ROOT) / script)
            runpy.run_path(sys.argv[0], run_name="__main__")
        else:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
    finally:
        if peak_memory() > MEMORY_LIMIT / 2:
            raise MemoryError(f"{script} took {peak_memory() / 1e9:.1f} GB, more than half of what a test may take")


def use_copy(project):
    """In the new process: work in a copy of the project, and import its modules instead of those already imported."""
    os.chdir(project)
    sys.path.insert(0, str(project))
    own = {path.stem for path in Path(project).iterdir()}
    for name in list(sys.modules):
        if name.partition(".")[0] in own:
            del sys.modules[name]


def start(script, *args, log, errors=None, stdin=os.devnull, project=None, **environment):
    """Start a script or module, with its output in the file `log` and stderr there or in `errors`; return its Process.

    stdin: a file; project: a copy of the project, to run there; environment: variables to set.
    """
    arguments = script, args, log, errors or log, stdin, project, environment
    process = CONTEXT.Process(target=run_script, args=arguments)
    process.start()
    return process


def run(script, *args, **options):
    """Run a script or module as a user would; return a CompletedProcess with its output as text.

    options: stdin, project and environment of `start`.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / "stdout", Path(folder) / "stderr"]
        process = start(script, *args, log=files[0], errors=files[1], **options)
        process.join(300)
        process.kill()
        process.join()
        stdout, stderr = (file.read_text() if file.exists() else "" for file in files)
    return subprocess.CompletedProcess([script, *args], process.exitcode, stdout, stderr)
