"""Files written whole or not at all, by one process at a time."""

import errno
import os
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


def is_writer():
    """Return whether this process is the one to write: rank 0 of torchrun's, or the only one."""
    return os.environ.get("RANK", "0") == "0"


# Errors of locking on file systems without locks, such as some of NFS, FUSE and Lustre.
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


@contextmanager
def exclusive_lock(folder, name, timeout=0):
    """Create `folder`, and keep other processes from writing the files `name`.* there inside the with block.

    Temporary files of a killed process are removed. timeout: seconds to wait for another process, -1 for no limit.
    Raises BlockingIOError when it still holds the lock, and OSError when the folder cannot be written: now, not after
    an hour's training. On a file system without locks other processes are not excluded. After an error, a folder
    and a lock file that were created here are removed, unless something else was written. Under torchrun only rank 0
    takes the lock.
    """
    if not is_writer():
        yield
        return
    folder = Path(folder)
    lock_path = folder / f".{name}.lock"
    created = [path for path in (lock_path, folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_path, timeout=timeout)
    acquire(lock, folder, name)
    try:
        for leftover in folder.glob(f".{name}.*.tmp"):
            leftover.unlink()
        yield
    except BaseException:
        with suppress(OSError):  # a folder in which something else was written stays
            for path in created:
                path.unlink(missing_ok=True) if path == lock_path else path.rmdir()
        raise
    finally:
        lock.release()


def acquire(lock, folder, name):
    """Acquire a FileLock of the files `name`.* in `folder`, unless the file system has no locks.

    Raises BlockingIOError when another process holds it, and OSError when the folder cannot be written.
    """
    try:
        lock.acquire()
    except Timeout:
        if has_locks(lock.lock_file):  # filelock before 3.13 waits in vain where there are none
            reason = f"{folder}: another run is writing {name} there: wait for it, or use another --out"
            raise BlockingIOError(reason) from None
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise OSError(error.errno, error.strerror, str(folder)) from None


def has_locks(path):
    """Return whether the file system of an existing file has locks."""
    try:
        import fcntl
    except ImportError:  # Windows, which has
        return True
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in NO_LOCKS
    return True


@contextmanager
def atomic_write(*paths):
    """Give a list of temporary paths beside `paths`; on success the files there are renamed to them, in that order.

    All are complete and flushed to the disk before the first is renamed: a full disk changes nothing.
    Raises OSError, naming the folder, when they cannot be written.
    """
    paths = [Path(path) for path in paths]
    temporaries = [path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in paths]
    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        yield temporaries
        for temporary in temporaries:
            with open(temporary, "rb+") as file:  # Windows flushes only what is open for writing
                os.fsync(file.fileno())
        for temporary, path in zip(temporaries, paths, strict=True):
            os.replace(temporary, path)
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
