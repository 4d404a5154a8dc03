"""The files of a run of predict.py and where it is, so that one that was interrupted can resume."""

import math
import os
import sys
import time
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field

from common.storage.artifacts import load_json, save_json
from common.storage.atomic import exclusive_lock
from common.storage.resume import differences

SAVE_EVERY = 1  # seconds
BINS = 10  # of equal width, of the calibration error


@dataclass
class Progress:
    """How far a run is, and what it counts."""

    predicted: list  # pictures per class
    confusion: list  # pictures per true class and class
    piece: int = 0  # in which it is, and how many of its pictures are done
    done: int = 0
    failed: int = 0  # pictures that could not be read
    log_loss: float = 0.0  # sum over pictures with a true class
    bins: list = field(default_factory=lambda: [0.0] * BINS)  # sums of confidence minus correct, 0 or 1, by confidence

    @classmethod
    def start(cls, classes):
        """Return the Progress of a run that begins."""
        return cls([0] * classes, [[0] * classes for _ in range(classes)])

    @property
    def rows(self):
        """Return the number of pictures that were classified."""
        return sum(self.predicted)

    def count(self, probabilities, predicted, label):
        """Count a picture: its probabilities, a list, the predicted class and the true one, or None."""
        self.predicted[predicted] += 1
        if label is not None:
            confidence = probabilities[predicted]
            self.confusion[label][predicted] += 1
            self.log_loss -= math.log(max(probabilities[label], sys.float_info.epsilon))
            self.bins[min(int(confidence * BINS), BINS - 1)] += confidence - (predicted == label)


class Journal:
    """The files that a run writes, GrowingFiles, and beside the first one FILE.resume, a JSON record.

    It holds the settings on which the files depend, a Progress and the files' sizes then. Without files, or with a
    device or a pipe among them, there is no such file.
    """

    def __init__(self, files, settings, classes):
        self.files, self.settings, self.progress = files, settings, Progress.start(classes)
        parts = [file.part for file in files]
        self.path = files[0].target.with_name(f"{files[0].target.name}.resume") if parts and all(parts) else None
        self.last, self.last_saved = None, float("-inf")

    @contextmanager
    def writing(self, resume):
        """Open the files; give the Progress; complete the files when the block ends, and after an error keep them.

        resume: whether to continue an interrupted run. Raises ValueError when there is one and it is not to be, when it
        had other settings, or when a file is a device or a pipe, and BlockingIOError when it is still running.
        """
        with locked(self.path) if self.path else nullcontext():
            try:
                if self.files and not (resume and self.resume()):
                    self.start(resume)
                self.mark()
                yield self.progress
                for file in self.files:
                    file.complete()
                for file in reversed(self.files):  # the sheet first, which is written as a whole
                    file.rename()
            except BaseException:
                self.stop()
                raise
            if self.path:
                self.path.unlink()

    def start(self, resume):
        """Open new files."""
        for file in self.files:
            if file.part and file.part.exists():
                what = "delete it" if resume else "add --resume to continue it, or delete it"
                raise ValueError(f"{file.part} holds what an interrupted run has written: {what}")
        if resume:
            print(f"{self.files[0].path}.part not found, so nothing to resume: starting from the beginning.")
        for file in self.files:
            file.open()

    def resume(self):
        """Reopen the files of an interrupted run and return True; False if there is none."""
        if not self.path:
            raise ValueError("--resume: what is written to a device or a pipe cannot be continued")
        if not self.path.is_file():
            return False
        saved = load_json(self.path)
        different = differences(saved.get("settings", {}), self.settings)
        if different:
            raise ValueError(f"{self.path} belongs to a run with {different}: delete it and the .part to start again")
        there = [file.part.stat().st_size if file.part.exists() else -1 for file in self.files]
        if any(size < before for size, before in zip(there, saved["sizes"], strict=True)):  # killed as it ended
            for file in self.files:
                file.part.unlink(missing_ok=True)
            return False
        self.last, self.progress = saved, Progress(**saved["progress"])
        for file, size in zip(self.files, saved["sizes"], strict=True):
            file.reopen(size, self.progress.rows)
        print(f"Resuming {self.files[0].part}: {self.progress.rows:,} pictures are done.")
        return True

    def mark(self):
        """Note that the files agree with `progress`; at most once in SAVE_EVERY seconds, write it down."""
        sizes = [file.flush() for file in self.files]
        self.last = {"settings": self.settings, "progress": asdict(self.progress), "sizes": sizes}
        if self.path and time.monotonic() - self.last_saved > SAVE_EVERY:
            for file in self.files:
                file.save()
            save_json(self.last, self.path)
            self.last_saved = time.monotonic()

    def stop(self):
        """Close the files as they were when they last agreed, and say so; without a row they are removed."""
        rows = sum(self.last["progress"]["predicted"]) if self.last else 0
        opened = [(file, place) for place, file in enumerate(self.files) if file.file]
        for file, place in opened:
            with suppress(OSError, ValueError), closing(file.file):  # ValueError: if it is closed
                file.save()  # before the record that says how long it is
            if file.part and file.part.exists():
                with suppress(OSError):
                    os.truncate(file.part, self.last["sizes"][place]) if rows else file.part.unlink()
        if self.path and self.last:  # else it is another run's
            with suppress(OSError):
                save_json(self.last, self.path) if rows else self.path.unlink()
        parts = [str(file.part) for file, _ in opened if file.part]
        if rows and parts:
            print(f"{', '.join(parts)}: the {rows:,} pictures so far are kept there.", file=sys.stderr)


@contextmanager
def locked(path):
    """Keep other runs from writing the files of the journal `path` inside the block; no lock stays behind."""
    with exclusive_lock(path.parent, path.name):
        yield
        with suppress(OSError):  # of Windows
            (path.parent / f".{path.name}.lock").unlink()
