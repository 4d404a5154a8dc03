"""Append the rows of a predict.py run to files, so that an interrupted run resumes to the same bytes."""

import json
import os
import shutil
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from common.storage.atomic import exclusive_lock
from common.storage.resume import differences


class Rows:
    """The rows of a run: CSV in FILE.part, other data of each row in FILE.part.KIND, and the journal FILE.resume.

    The first line of the journal contains the settings as JSON. Each further line describes a batch of rows; a batch
    counts once its line is complete. The journal is kept after the run, so that --resume finds nothing to do.
    """

    def __init__(self, target=None, kinds=()):
        """target: path of FILE, by default in a temporary folder; links are followed."""
        self.is_kept = target is not None
        if not self.is_kept:
            self.folder = TemporaryDirectory()  # removed together with this object
            target = Path(self.folder.name, "rows")
        self.target = target = Path(target).resolve()
        self.part, self.journal = (target.with_name(f"{target.name}.{suffix}") for suffix in ("part", "resume"))
        self.paths = {"csv": self.part} | {kind: target.with_name(f"{self.part.name}.{kind}") for kind in kinds}
        self.files, self.sizes = [], []
        self.count = self.piece = self.done = 0  # rows; current piece; pictures of it that are done
        self.errors, self.trained = [], set()

    def has_ended(self, settings, outputs):
        """Return whether a run has completed `outputs`, paths. Raises ValueError if its settings were different."""
        ended = self.journal.exists() and not self.part.exists() and all(map(os.path.exists, outputs))
        return ended and bool(self.read_journal(settings))

    def read_journal(self, settings):
        """Return the complete lines of the journal. Raises ValueError if its settings are different."""
        lines = self.journal.read_bytes().splitlines(keepends=True) if self.journal.exists() else []
        lines = [line for line in lines if line.endswith(b"\n")]
        remedy = f"delete {self.journal} and {self.part} to start again"
        try:
            different = differences(json.loads(lines[0]), settings)
        except (ValueError, TypeError, IndexError):
            raise ValueError(f"{self.journal} is missing or damaged: {remedy}") from None
        if different:
            raise ValueError(f"{self.journal} belongs to a run with {different}: {remedy}")
        return lines

    @contextmanager
    def writing(self, settings, header, resume):
        """Open the files for `append` and `end` in the with block; keep complete batches after an error.

        Raises ValueError if an interrupted run is found without `resume`, or cannot be resumed, and BlockingIOError
        while another process writes the same files.
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
                    self.append({"csv": header}, 0, 0, 0)
                yield
            except BaseException as error:
                self.keep()
                if isinstance(error, (KeyboardInterrupt, SystemExit)) and self.is_kept and not self.count:
                    print("interrupted before the first pictures were classified: nothing was saved", file=sys.stderr)
                raise
        with suppress(OSError):  # of Windows
            (self.journal.parent / f".{self.journal.name}.lock").unlink()

    def restore(self, settings, resume):
        """Truncate the files to the last batch that is complete in all of them."""
        if not resume:
            remedy = "add --resume to continue it, or delete it"
            raise ValueError(f"{self.part} holds the rows of an interrupted run: {remedy}")
        lines = self.read_journal(settings)
        batches = list(map(json.loads, lines[1:]))
        sizes = [path.stat().st_size if path.exists() else -1 for path in self.paths.values()]
        while batches and any(size < needed for size, needed in zip(sizes, batches[-1]["sizes"], strict=True)):
            batches.pop()
        if not batches:
            raise ValueError(f"{self.part} and {self.journal} do not match: delete both to start again")
        for batch in batches:
            self.add(batch)
        os.truncate(self.journal, sum(map(len, lines[: len(batches) + 1])))
        self.truncate()
        print(f"Resuming {self.part}: {self.count:,} pictures are done.")

    def append(self, contents, count, piece, done, errors=(), trained=()):
        """Append a batch of `count` rows: `contents` in bytes by kind, then its line in the journal."""
        *files, journal = self.files
        for kind, file in zip(self.paths, files, strict=True):
            file.write(contents.get(kind, b""))
            file.flush()
        batch = {"count": self.count + count, "piece": piece, "done": done, "sizes": [file.tell() for file in files]}
        batch |= {"errors": list(errors), "trained": list(trained)}
        journal.write(json.dumps(batch).encode() + b"\n")
        journal.flush()
        self.add(batch)

    def add(self, batch):
        """Update the state of the run by a batch in the journal."""
        self.count, self.piece, self.done, self.sizes = (batch[key] for key in ("count", "piece", "done", "sizes"))
        self.errors += batch["errors"]
        self.trained.update(batch["trained"])

    def truncate(self):
        """Truncate the files to their sizes after the last batch."""
        for path, size in zip(self.paths.values(), self.sizes, strict=False):
            os.truncate(path, size)

    def keep(self):
        """Close the files after an error and keep complete batches; without any row, remove the files."""
        for file in self.files:
            with suppress(OSError):
                file.close()
        with suppress(OSError):
            self.truncate()
            for path in () if self.count else (*self.paths.values(), self.journal):
                path.unlink(missing_ok=True)
        if self.count and self.is_kept:
            print(f"{self.part}: contains the {self.count:,} pictures classified so far.", file=sys.stderr)

    def end(self, is_output):
        """Close the files, rename the rows to FILE if they are an output, and remove the others."""
        for file in self.files:
            os.fsync(file.fileno())
            file.close()
        if is_output:
            with suppress(OSError):  # FILE is new, or its file system has no modes
                shutil.copymode(self.target, self.part)
            os.replace(self.part, self.target)
        for path in self.paths.values():
            path.unlink(missing_ok=True)
