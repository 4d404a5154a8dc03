"""Files written whole or not at all, by one process at a time."""

import os
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout


def is_writer():
    """Return whether this process is the one to write: rank 0 of torchrun's, or the only one."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


@contextmanager
def exclusive_lock(folder, name, patience=0):
    """Make `folder`, and be the only process, while this lasts, that writes the files called `name`.* there.

    What a killed process has left half written of them is removed. patience: seconds to wait for another
    process, -1 for as long as it takes. Raises BlockingIOError when that was not enough, and OSError now, not
    after an hour's training, when the folder cannot be written. Of torchrun's processes the first is the writer.
    """
    if not is_writer():
        yield
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f".{name}.lock", timeout=patience)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(f"{folder}: another run is writing {name} there: wait for it, or go elsewhere") from None
    except NotImplementedError:
        pass  # a file system without locks
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None
    try:
        for leftover in folder.glob(f".{name}.*.tmp"):
            leftover.unlink()
        yield
    finally:
        lock.release()


@contextmanager
def atomic_write(*paths):
    """Give a list of temporary names beside `paths`; on success the files there take their places, in that order.

    All are whole and flushed to the disk before the first takes its place: a full disk changes nothing.
    Raises OSError, naming the folder, when they cannot be written.
    """
    paths = [Path(path) for path in paths]
    temporaries = [path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in paths]
    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        yield temporaries
        for temporary in temporaries:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        for temporary, path in zip(temporaries, paths, strict=True):
            os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch.save wraps the system's error
        if getattr(cause, "errno", None) is None:
            raise
        names = ", ".join(path.name for path in paths)
        what = f"{os.strerror(cause.errno)}: {names} cannot be written; what was there is as it was"
        raise OSError(cause.errno, what, str(paths[0].parent)) from error
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)
