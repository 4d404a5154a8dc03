"""Write files completely or not at all, from one process at a time."""

import errno
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP}  # locking errors of mounts without locks: some NFS, FUSE and Lustre ones


@contextmanager
def exclusive_lock(folder, name, timeout=0):
    """Create `folder`, and keep other processes from writing `name`.* there inside the with block.

    Removes temporary files of killed processes and, after an error, the lock file and empty folders created here. On a
    mount without locks, other processes are not excluded. timeout: seconds to wait for another process, -1 for no
    limit. Raises BlockingIOError if another process still holds the lock, OSError if the folder cannot be written.
    """
    folder = Path(folder)
    lock_path = folder / f".{name}.lock"
    created = [path for path in (lock_path, folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_path, timeout=timeout)
    try:
        lock.acquire()
    except Timeout:
        reason = f"{folder}: another run is writing {name} there: wait for it, or write elsewhere"
        raise BlockingIOError(reason) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise OSError(error.errno, error.strerror, str(folder)) from None
    try:
        for leftover in folder.glob(f".{name}.*.tmp"):
            leftover.unlink()
        yield
    except BaseException:
        with suppress(OSError):  # a folder that holds other files stays
            for path in created:
                path.unlink(missing_ok=True) if path == lock_path else path.rmdir()
        raise
    finally:
        lock.release()


@contextmanager
def atomic_write(*paths):
    """Yield a list of temporary paths; on success rename the files there to `paths`, in that order.

    All files are complete and flushed to disk before the first is renamed, so a full disk changes nothing. Links are
    kept: their target is replaced, and keeps its mode. Raises OSError, naming the folder, if the files cannot be
    written, or if a path is a folder, a device or a pipe.
    """
    paths = [Path(path) for path in paths]
    for path in paths:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "is not a file that can be replaced: name another one", str(path))
    targets = [Path(os.path.realpath(path)) for path in paths]
    temporaries = [target.with_name(f".{target.name}.{os.getpid()}.tmp") for target in targets]
    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        yield temporaries
        for temporary, target in zip(temporaries, targets, strict=True):
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            if target.exists():
                with suppress(OSError):  # CIFS, vfat and gcsfuse refuse it
                    shutil.copymode(target, temporary)
        for temporary, target in zip(temporaries, targets, strict=True):
            os.replace(temporary, target)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch.save wraps the system's error
        if getattr(cause, "errno", None) is None:
            raise
        names = ", ".join(path.name for path in paths)
        what = f"{os.strerror(cause.errno)}: {names} cannot be written; existing files are left untouched"
        raise OSError(cause.errno, what, str(paths[0].parent)) from error
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


def identity(path):
    """Return a value that is the same for all names of a file, whether or not the file exists."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def refuse_overlap(outputs, inputs):
    """Raise ValueError if an output has an empty name, or is the same file as another output or an input.

    outputs: paths by option; inputs: pairs of a path and its description.
    """
    found = {}
    for option, path in outputs.items():
        if not os.fspath(path):
            raise ValueError(f"{option}: the file name is empty")
        same = found.setdefault(identity(path), option)
        if same != option:
            raise ValueError(f"{option} {path} is the same file as {same}: name another one")
    for path, what in inputs if found else ():
        option = found.get(identity(path))
        if option:
            raise ValueError(f"{option} {outputs[option]} is the same file as {what}: name another one")
