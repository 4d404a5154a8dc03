"""Files written whole or not at all, by one process at a time."""

import errno
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP}  # errors of locking on mounts without locks: some of NFS, FUSE and Lustre


@contextmanager
def exclusive_lock(folder, name, timeout=0):
    """Create `folder`, and keep other processes from writing the files `name`.* there inside the with block.

    Temporary files of a killed process are removed; after an error, so are a lock file and an empty folder that were
    created here. On a mount without locks other processes are not excluded. timeout: seconds to wait for another
    process, -1 for no limit. Raises BlockingIOError when it still holds the lock, and OSError when the folder cannot be
    written: now, not after an hour's training.
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
    """Give a list of temporary paths; on success the files there take the place of `paths`, in that order.

    All are complete and flushed to the disk before the first is renamed: a full disk changes nothing. A symbolic link
    stays, and the file that it leads to is replaced. Raises OSError, naming the folder, when they cannot be written,
    and when a path is a folder, a device or a pipe.
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
        replace_files(temporaries, targets)
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


def replace_files(temporaries, targets):
    """Flush each temporary file to the disk, give it the mode of the file that it replaces, and rename it to that."""
    for temporary, target in zip(temporaries, targets, strict=True):
        with open(temporary, "rb+") as file:  # Windows flushes only what is open for writing
            os.fsync(file.fileno())
        if target.exists():
            with suppress(OSError):  # CIFS, vfat and gcsfuse refuse it
                shutil.copymode(target, temporary)
    for temporary, target in zip(temporaries, targets, strict=True):
        os.replace(temporary, target)


def identity(path):
    """Return what all names of a file have in common, whether it exists or not."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def refuse_overlap(outputs, inputs):
    """Raise ValueError if a file to be written is to be written twice, or is also read.

    outputs: paths by option; inputs: (path, what it is) pairs.
    """
    found = {}
    for option, path in outputs.items():
        if not os.fspath(path):
            raise ValueError(f"{option}: the name of the file is empty")
        same = found.setdefault(identity(path), option)
        if same != option:
            raise ValueError(f"{option} {path} is the same file as {same}: name another one")
    for path, what in inputs if found else ():
        option = found.get(identity(path))
        if option:
            raise ValueError(f"{option} {outputs[option]} is the same file as {what}: name another one")
