"""Run a submission's kernel isolated: with bubblewrap, else in a container, else, after a warning, as the teacher.

Isolated code can read the system and Python, can write to one folder and has no network. nbgrader communicates with the
kernel through sockets in that folder.
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
PROCESSES, MEMORY = 256, 8 * 2**30  # limits: processes per submission; bytes per process or container
SYSTEM = "/usr /bin /lib /lib64 /nix /etc/alternatives /etc/fonts /etc/ld.so.cache /etc/passwd"
UNSHARE_AS_ROOT = "--unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try"
NOBODY = 65534


def by_bubblewrap(command, folder, is_root):
    """Return the command that runs `command` in bubblewrap.

    Limits do not apply to root, so root's submissions run as nobody, and `folder` must belong to nobody.
    """
    unshare, mode, drop = "--unshare-all", "", ""
    if is_root:
        unshare, mode = UNSHARE_AS_ROOT, "--perms 1777"
        drop = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --bounding-set=-all"
    wrapped = f"bwrap --die-with-parent {unshare} --unsetenv JPY_PARENT_PID --proc /proc --dev /dev".split()
    wrapped += f"{mode} --tmpfs /dev/shm {mode} --tmpfs /tmp".split()
    python = sys.base_prefix, sys.prefix, Path(sys.executable).resolve().parents[1], site.getusersitepackages()
    for path in map(Path, (*SYSTEM.split(), *python)):
        for parent in reversed(path.parents[:-1]):  # otherwise nobody could not enter them
            wrapped += ["--dir", str(parent)]
        wrapped += ["--ro-bind-try", str(path), str(path)]
    limits = f"{drop} prlimit --nproc={PROCESSES} --data={MEMORY}".split()
    return [*wrapped, "--bind", str(folder), str(folder), *limits, *command]


def in_container(engine, command, folder, cwd, variables):
    """Return the command that runs `command` with docker or podman, in a container named like the folder."""
    user = "--userns=keep-id" if engine == "podman" else f"--user={os.getuid()}:{os.getgid()}"
    limits = ["--network=none", f"--pids-limit={PROCESSES}", f"--memory={MEMORY}", user]
    places = [f"--volume={folder}:{folder}", f"--workdir={cwd}"]
    values = [f"--env={name}={value}" for name, value in variables.items() if not name.endswith("PATH")]
    return [engine, "run", "--rm", f"--name={folder.name}", *limits, *places, *values, IMAGE, "python", *command[1:]]


def isolate(engine, command, folder, cwd, variables):
    """Return the command that runs `command` with `engine`: bwrap, docker, podman or None."""
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
    """Return the first of `engines` that can start this Python. Return None, after a warning, if there is none."""
    for engine in (
        engines if sys.platform == "linux" else ()
    ):  # on other systems sockets do not cross a container's boundary
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
    """A kernel that is started by `engine` and sees only `folder` and `variables`."""

    engine = Unicode(None, allow_none=True)
    folder = Unicode()
    variables = Dict()

    async def _async_launch_kernel(self, kernel_cmd, **options):
        command = isolate(self.engine, kernel_cmd, Path(self.folder), options["cwd"], self.variables)
        quiet = {
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
        }  # otherwise code could forge the lines at the end
        await super()._async_launch_kernel(command, **options | quiet | {"env": self.variables})

    async def _async_cleanup_resources(self, restart=False):
        await super()._async_cleanup_resources(restart)
        if self.engine in ("docker", "podman"):  # which keep a container running when its client is killed
            command = [self.engine, "rm", "--force", Path(self.folder).name]
            subprocess.run(command, capture_output=True, check=False)

    cleanup_resources = _async_cleanup_resources
