"""The rows of a run of predict.py, in files that grow, so that an interrupted run resumes to the same bytes."""

import json
import os
import shutil
import sys
from contextlib import contextmanager, suppress
from typing import NamedTuple

from common.storage.atomic import exclusive_lock
from common.storage.resume import differences


class Place(NamedTuple):
    """How far a run is, after a batch."""

    rows: int
    piece: int  # in which it is, and how many of its pictures are done
    done: int
    sizes: tuple  # of the files of rows, in bytes


class Rows:
    """The rows of a run: CSV in FILE.part, other data of each row in FILE.part.KIND; and the journal, FILE.resume.

    Lines of JSON in the journal hold the settings and then, for each batch of pictures, the Place after it, the errors
    of those that could not be read, and the numbers of rows that are training images. A batch counts once its line is
    there. The journal stays after the run: --resume finds in it that nothing is left to do.
    """

    def __init__(self, target, kinds=(), is_kept=True):
        """target: absolute Path of FILE; is_kept: whether the rows are for the user."""
        self.part, self.journal = (target.with_name(f"{target.name}.{suffix}") for suffix in ("part", "resume"))
        self.paths = {"": self.part} | {kind: target.with_name(f"{self.part.name}.{kind}") for kind in kinds}
        self.is_kept, self.files = is_kept, []
        self.place, self.errors, self.trained = Place(0, 0, 0, ()), [], set()

    def has_ended(self, settings, outputs):
        """Return whether a run has written `outputs`, paths. Raises ValueError if its settings were others."""
        ended = self.journal.exists() and not self.part.exists() and all(map(os.path.exists, outputs))
        return ended and bool(self.read_journal(settings))

    def read_journal(self, settings):
        """Return the lines of the journal, without one that was torn. Raises ValueError for other settings."""
        lines = self.journal.read_bytes().splitlines(keepends=True) if self.journal.exists() else []
        lines = [line for line in lines if line.endswith(b"\n")]
        what = f"delete {self.journal} and {self.part} to start again"
        try:
            different = differences(json.loads(lines[0]), settings)
        except (ValueError, TypeError, IndexError):
            raise ValueError(f"{self.journal} is missing or damaged: {what}") from None
        if different:
            raise ValueError(f"{self.journal} belongs to a run with {different}: {what}")
        return lines

    @contextmanager
    def writing(self, settings, header, resume):
        """Open the files inside the block, to `append` to them and `end`; after an error keep the rows.

        resume: whether to continue an interrupted run. Raises ValueError if there is one and it is not to be, or if it
        cannot be continued, and BlockingIOError while it is still running.
        """
        with exclusive_lock(self.journal.parent, self.journal.name):
            is_new = not self.part.exists()
            if not is_new:
                self.restore(settings, resume)
            elif resume:
                print(f"{self.part} not found, so nothing to resume: starting from the beginning.")
            try:
                self.files = [open(path, "wb" if is_new else "ab") for path in (*self.paths.values(), self.journal)]  # noqa: SIM115
                if is_new:
                    self.files[-1].write(json.dumps(settings).encode() + b"\n")
                    self.append({"": header}, 0, 0, 0)
                yield
            except BaseException:
                self.keep()
                raise
        with suppress(OSError):  # of Windows
            (self.journal.parent / f".{self.journal.name}.lock").unlink()

    def restore(self, settings, resume):
        """Cut the files to the last batch that all of them hold, and read what the journal says up to there."""
        if not resume:
            what = "add --resume to continue it, or delete it"
            raise ValueError(f"{self.part} holds the rows of an interrupted run: {what}")
        lines = self.read_journal(settings)
        batches = list(map(json.loads, lines[1:]))
        there = [path.stat().st_size if path.exists() else -1 for path in self.paths.values()]
        while batches and any(size < before for size, before in zip(there, batches[-1][0][-1], strict=True)):
            batches.pop()
        if not batches:
            raise ValueError(f"{self.part} is not what {self.journal} is about: delete both to start again")
        self.place = Place(*batches[-1][0])
        for _, errors, trained in batches:
            self.errors += errors
            self.trained.update(trained)
        os.truncate(self.journal, sum(map(len, lines[: len(batches) + 1])))
        self.cut()
        print(f"Resuming {self.part}: {self.place.rows:,} pictures are done.")

    def append(self, contents, count, piece, done, errors=(), trained=()):
        """Append a batch of `count` rows, which the system has when this returns; contents: bytes by kind, "" the CSV.

        The others are as in the journal. Raises OSError, naming the file.
        """
        *files, journal = self.files
        try:
            for kind, file in zip(self.paths, files, strict=True):
                file.write(contents.get(kind, b""))
                file.flush()
            place = Place(self.place.rows + count, piece, done, [file.tell() for file in files])
            journal.write(json.dumps([place, list(errors), list(trained)]).encode() + b"\n")
            journal.flush()
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}: it cannot be written", str(self.part)) from None
        self.place = place
        self.errors += errors
        self.trained.update(trained)

    def cut(self):
        """Cut the files to their sizes after the last batch."""
        for path, size in zip(self.paths.values(), self.place.sizes, strict=False):
            os.truncate(path, size)

    def keep(self):
        """Leave the files as they were after the last batch, and say so; without a row they go."""
        for file in self.files:
            with suppress(OSError):
                file.close()
        with suppress(OSError):
            self.cut()
            for path in () if self.place.rows else (*self.paths.values(), self.journal):
                path.unlink(missing_ok=True)
        if self.place.rows and self.is_kept:
            print(f"{self.part}: the {self.place.rows:,} pictures so far are kept there.", file=sys.stderr)

    def end(self, csv=None):
        """Close the files, and give the rows the name `csv`, a Path, or remove them."""
        for file in self.files:
            os.fsync(file.fileno())
            file.close()
        if csv is None:
            self.part.unlink()
        else:
            with suppress(OSError):  # it is new, or its folder refuses chmod
                shutil.copymode(csv, self.part)
            os.replace(self.part, csv)
        for path in list(self.paths.values())[1:]:
            path.unlink()
