"""Files written whole or not at all, by one process at a time."""

import errno
import os
import re
import shutil
import stat
import tempfile
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from filelock import FileLock, Timeout


def is_writer():
    """Return whether this process is the one to write: rank 0 of torchrun's, or the only one."""
    return os.environ.get("RANK", "0") == "0"


# Errors of locking on file systems without locks, such as some of NFS, FUSE and Lustre.
NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP}


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
        reason = f"{folder}: another run is writing {name} there: wait for it, or write elsewhere"
        raise BlockingIOError(reason) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise OSError(error.errno, error.strerror, str(folder)) from None


# The open files of this process, by the names that the shell gives them: /dev/stdout is a link to one.
DESCRIPTOR = re.compile(r"(?:/dev/fd|/proc/(?:self|thread-self)/fd)/(\d+)")


def descriptor(path):
    """Return n if `path` is /dev/fd/n, /dev/stdout or a link to one of these, or else None."""
    path = os.path.abspath(path)
    for _ in range(40):  # as many links as Linux follows
        match = DESCRIPTOR.fullmatch(path)
        if match or not os.path.islink(path):
            return int(match[1]) if match else None
        path = os.path.abspath(os.path.join(os.path.dirname(path), os.readlink(path)))
    return None


def output_file(path):
    """Return the file, as an absolute Path, that is replaced when `path` is written; None for a device or a pipe.

    These are written through. Of a symbolic link the file that it leads to is replaced, and the link stays.
    Raises OSError for a folder and for a link that leads nowhere or in a circle.
    """
    if descriptor(path) is not None:
        return None
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if os.path.islink(path):
            reason = f"is a symbolic link to {os.readlink(path)}, which does not exist"
            raise FileNotFoundError(errno.ENOENT, reason, str(path)) from None
        mode = stat.S_IFREG
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder: name a file", str(path))
    return Path(os.path.realpath(path)) if stat.S_ISREG(mode) else None


def open_through(path):
    """Open a device or a pipe for writing, as a binary file."""
    number = descriptor(path)
    return open(path if number is None else os.dup(number), "wb")


def identity(path):
    """Return what all names of a file have in common, whether it exists or not; None for a device."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return None if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode) else (status.st_dev, status.st_ino)


def refuse_overlap(outputs, inputs):
    """Raise ValueError if a file to be written is to be written twice, or is also read.

    outputs: paths by option; inputs: (path, what it is) pairs. Raises OSError as `output_file` does.
    """
    found = {}
    for option, path in outputs.items():
        if not os.fspath(path):
            raise ValueError(f"{option}: the name of the file is empty")
        output_file(path)
        same = found.setdefault(identity(path), option)
        if same != option and identity(path) is not None:
            raise ValueError(f"{option} {path} is the same file as {same}: name another one")
    found.pop(None, None)
    for path, what in inputs if found else ():
        option = found.get(identity(path))
        if option:
            raise ValueError(f"{option} {outputs[option]} is the same file as {what}: name another one")


@contextmanager
def atomic_write(*paths):
    """Give a list of temporary paths; on success the files there take the place of `paths`, in that order.

    All are complete and flushed to the disk before the first is renamed: a full disk changes nothing. An existing
    file's mode is kept, links and devices are treated as `output_file` says. Raises OSError, naming the folder, when
    they cannot be written.
    """
    paths = [Path(path) for path in paths]
    targets = [output_file(path) for path in paths]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) if None in targets else nullcontext() as elsewhere:
        temporaries = [
            target.with_name(f".{target.name}.{os.getpid()}.tmp") if target else Path(elsewhere, str(number))
            for number, target in enumerate(targets)
        ]
        try:
            paths[0].parent.mkdir(parents=True, exist_ok=True)
            yield temporaries
            replace_files(temporaries, targets, paths)
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


def replace_files(temporaries, targets, paths):
    """Rename each temporary file to its target, or where that is None copy it to the device or pipe `path`."""
    for temporary, target in zip(temporaries, targets, strict=True):
        with open(temporary, "rb+") as file:  # Windows flushes only what is open for writing
            os.fsync(file.fileno())
        if target and target.exists():
            shutil.copymode(target, temporary)
    for temporary, target, path in zip(temporaries, targets, paths, strict=True):
        if target is None:
            with open(temporary, "rb") as file, open_through(path) as through:
                shutil.copyfileobj(file, through)
    for temporary, target in zip(temporaries, targets, strict=True):
        if target:
            os.replace(temporary, target)
