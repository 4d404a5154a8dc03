"""Run the kernel of a submission isolated: by bubblewrap, else in a container, else, after a warning, as the teacher.

Isolated code reads the system and Python, writes into one folder and has no network. nbgrader reaches the kernel by
sockets in that folder.
"""

import os
import site
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from jupyter_client.manager import AsyncKernelManager
from traitlets import Dict, Unicode
from traitlets.log import get_logger

IMAGE = "galaxy-marking"  # of the container; docs/teaching.md builds it
PROCESSES, MEMORY = 256, 8 * 2**30  # the most of a submission; bytes, by process or container
SYSTEM = "/usr /bin /lib /lib64 /nix /etc/alternatives /etc/fonts /etc/ld.so.cache /etc/passwd"
UNSHARE_AS_ROOT = "--unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try"
NOBODY = 65534


def by_bubblewrap(command, folder, is_root):
    """Return `command` as bubblewrap runs it.

    No limit holds for root: root's submissions run as nobody, and `folder` must belong to nobody.
    """
    unshare, mode, drop = "--unshare-all", "", ""
    if is_root:
        unshare, mode = UNSHARE_AS_ROOT, "--perms 1777"
        drop = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --bounding-set=-all"
    wrapped = f"bwrap --die-with-parent {unshare} --unsetenv JPY_PARENT_PID --proc /proc --dev /dev".split()
    wrapped += f"{mode} --tmpfs /dev/shm {mode} --tmpfs /tmp".split()
    python = sys.base_prefix, sys.prefix, Path(sys.executable).resolve().parents[1], site.getusersitepackages()
    for path in map(Path, (*SYSTEM.split(), *python)):
        for parent in reversed(path.parents[:-1]):  # which nobody could not enter otherwise
            wrapped += ["--dir", str(parent)]
        wrapped += ["--ro-bind-try", str(path), str(path)]
    limits = f"{drop} prlimit --nproc={PROCESSES} --data={MEMORY}".split()
    return [*wrapped, "--bind", str(folder), str(folder), *limits, *command]


def in_container(engine, command, folder, cwd, variables):
    """Return `command` as docker or podman runs it, in a container called like the folder."""
    user = "--userns=keep-id" if engine == "podman" else f"--user={os.getuid()}:{os.getgid()}"
    limits = ["--network=none", f"--pids-limit={PROCESSES}", f"--memory={MEMORY}", user]
    places = [f"--volume={folder}:{folder}", f"--workdir={cwd}"]
    values = [f"--env={name}={value}" for name, value in variables.items() if not name.endswith("PATH")]
    return [engine, "run", "--rm", f"--name={folder.name}", *limits, *places, *values, IMAGE, "python", *command[1:]]


def isolate(engine, command, folder, cwd, variables):
    """Return `command` as `engine` runs it, which is bwrap, docker, podman or None."""
    if engine is None:
        return command
    if engine != "bwrap":
        return in_container(engine, command, folder, cwd, variables)
    is_root = os.getuid() == 0
    for path in (folder, *folder.rglob("*")) if is_root else ():
        os.chown(path, NOBODY, NOBODY)
    return by_bubblewrap(command, folder, is_root)


@cache
def choose_engine(engines):
    """Return the first of `engines` by which this Python starts. Return None, after a warning, if there is none."""
    for engine in engines if sys.platform == "linux" else ():  # elsewhere the sockets do not reach out of a container
        with TemporaryDirectory() as folder:
            command = isolate(engine, [sys.executable, "-c", "import ipykernel"], Path(folder), folder, {})
            try:
                if subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False).returncode == 0:
                    return engine
            except (OSError, subprocess.TimeoutExpired):
                continue
    get_logger().warning("Student code runs as you, with your files and network. Install bubblewrap.")
    return None


class IsolatedKernel(AsyncKernelManager):
    """A kernel that `engine` starts and that sees `folder` and `variables` alone."""

    engine = Unicode(None, allow_none=True)
    folder = Unicode()
    variables = Dict()

    async def _async_launch_kernel(self, kernel_cmd, **options):
        command = isolate(self.engine, kernel_cmd, Path(self.folder), options["cwd"], self.variables)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # or code could forge the lines at the end
        await super()._async_launch_kernel(command, **options | quiet | {"env": self.variables})

    async def _async_cleanup_resources(self, restart=False):
        await super()._async_cleanup_resources(restart)
        if self.engine in ("docker", "podman"):  # which leave a container alone when its client is killed
            command = [self.engine, "rm", "--force", Path(self.folder).name]
            subprocess.run(command, capture_output=True, check=False)

    cleanup_resources = _async_cleanup_resources
