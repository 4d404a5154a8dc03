"""The parts of nbgrader that the course replaces, by nbgrader_config.py: collecting from Moodle, and running.

This file lies in the course's folder, beside the configuration.
"""

import asyncio
import atexit
import os
import re
import shutil
import site
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import nbformat
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbgrader.converters import Autograde
from nbgrader.plugins import FileNameCollectorPlugin
from nbgrader.preprocessors import Execute, SaveAutoGrades
from nbgrader.preprocessors.execute import UnresponsiveKernelError
from nbgrader.utils import is_grade
from traitlets import Dict, Integer, Unicode


class OneNotebook(FileNameCollectorPlugin):
    """Collect one notebook per student, whatever its name; of several, the "galaxies" with the highest number."""

    def collect(self, submitted_file):
        """Return what the pattern finds in a path, or None for a file that is not collected."""
        found = super().collect(submitted_file)
        if found is None:
            return None
        # Everything that Moodle has of this student begins with the same words, up to the student's number.
        start = re.match(self.named_regexp, submitted_file).end("student_id")
        folder, _, name = submitted_file[:start].rpartition("/")
        candidates = [path for path in Path(folder).rglob("*.ipynb") if str(path).startswith(f"{folder}/{name}_")]
        candidates = [path for path in candidates if re.match(self.named_regexp, str(path))]
        best = max(candidates, key=lambda path: ("galaxies" in path.stem.lower(), copy_number(path), str(path)))
        if Path(submitted_file) != best:
            self.log.warning("%s is left out: of %s, %s is collected", submitted_file, found["student_id"], best.name)
            return None
        return found


def copy_number(path):
    """Return the number of a browser's copy: 2 of "galaxies (2).ipynb", 0 of "galaxies.ipynb"."""
    number = re.search(r"\((\d+)\)$", path.stem)
    return int(number[1]) if number else 0


# What starts the watch over a notebook, in the kernel and before its first cell.
START = """
import sys

sys.path.insert(0, {folder!r})
__import__("course.judge").judge.start(get_ipython().user_ns, {file!r})
"""
undecided = []  # lines, for the end


@atexit.register
def list_undecided():
    """Print what the tests could not decide."""
    if undecided:
        print("Undecided, for you to decide in formgrader:", *undecided, sep="\n", file=sys.stderr)


class Stopped(Exception):
    """A submission did what ends its run."""


class MarkingRun(Execute):
    """Run a submission in a folder that is thrown away, and end it when it loops, deletes its files or prints too much.

    It gets a copy of the data for marking as Galaxy10.h5. Afterwards the cells that are not marked show the student's
    own output again, beside the errors of this run: the descriptions are about that output. What a marked cell writes
    to stderr, such as a warning or a progress bar, would count as its failure, and is removed.
    """

    data = Unicode(help="the HDF5 file that submissions are run on").tag(config=True)
    environment = Dict(help="variables of the environment of the run").tag(config=True)
    max_output = Integer(10_000_000, help="bytes that a submission may print").tag(config=True)

    def preprocess(self, nb, resources):
        """Run a notebook. Raises UnresponsiveKernelError, after a line that says why, when the run was ended."""
        import matplotlib  # here: of nbgrader's commands only this one needs it

        names = resources["nbgrader"]
        self.printed, self.reason, self.cell = 0, None, nb.cells[0]
        with TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            # As deep as in the course, so that "../.." is a folder that is thrown away too.
            folder = Path(temporary) / "course" / "autograded" / names["student"] / names["assignment"]
            shutil.copytree(resources["metadata"]["path"], folder)
            shutil.copy(self.data, folder / "Galaxy10.h5")
            startup = Path(temporary) / "ipython" / "profile_default" / "startup" / "watch.py"
            startup.parent.mkdir(parents=True)
            startup.write_text(START.format(folder=temporary, file=str(folder / "Galaxy10.h5")))
            (Path(temporary) / "course" / "__init__.py").touch()
            for name in ("judge.py", "watch.py"):
                shutil.copy(Path(__file__).with_name(name), Path(temporary) / "course")
            self.files = [path for path in folder.rglob("*") if path.is_file()]
            kept = {"PYTHONUSERBASE": site.getuserbase(), "MPLCONFIGDIR": matplotlib.get_cachedir()}
            kept["IPYTHONDIR"] = str(Path(temporary) / "ipython")
            variables = {"HOME": temporary, **kept, **self.environment}
            inside = resources | {"metadata": resources["metadata"] | {"path": str(folder)}}
            try:
                with patch.dict(os.environ, variables):
                    nb, _ = super().preprocess(nb, inside)
            except (CellTimeoutError, DeadKernelError, Stopped) as error:
                first_line = self.cell.source.strip().partition("\n")[0]
                self.log.error(
                    "The submission of %s is not marked: a cell %s. The cell begins with: %s",
                    *(names["student"], self.reason or self.describe(error), first_line),
                )
                raise UnresponsiveKernelError from None
        self.show_own_output(nb, names)
        return nb, resources

    def describe(self, error):
        """Return in a few words what ended a run."""
        if isinstance(error, CellTimeoutError):
            return f"took longer than {self.timeout} seconds"
        return str(error) if isinstance(error, Stopped) else "ended Python, or took all memory"

    def preprocess_cell(self, cell, resources, index):
        """Run a cell. Raises Stopped when files are missing after it."""
        self.cell = cell
        cell, resources = super().preprocess_cell(cell, resources, index)
        missing = [path.name for path in self.files if not path.exists()]
        if missing:
            raise Stopped(f"deleted {', '.join(missing)}")
        return cell, resources

    def process_message(self, msg, cell, cell_index):
        """Take a message of the kernel; end the kernel when it has printed too much."""
        if self.reason:
            return None
        if msg["msg_type"] in ("stream", "display_data", "execute_result", "error"):
            self.printed += len(str(msg["content"]))
        if self.printed > self.max_output:
            self.reason = f"printed more than {self.max_output:,} bytes"
            self.ending = asyncio.ensure_future(self.km.shutdown_kernel(now=True))
            return None
        return super().process_message(msg, cell, cell_index)

    def show_own_output(self, nb, names):
        """Put the output of the submitted notebook back where nothing is marked; elsewhere keep what the test says."""
        coursedir = self.parent.parent.coursedir
        folder = coursedir.format_path(coursedir.submitted_directory, names["student"], names["assignment"])
        submitted = nbformat.read(Path(folder) / f"{names['notebook']}.ipynb", as_version=4)
        own = {identity(cell): cell.outputs for cell in submitted.cells if cell.cell_type == "code"}
        for cell in nb.cells:
            if cell.cell_type != "code":
                continue
            if is_grade(cell):
                cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
                for error in errors_of(cell):
                    error.traceback = [f"{error.ename}: {error.evalue}"]
                    if error.ename == "Undecided":
                        undecided.append(f"{names['student']} {identity(cell)}: {error.evalue}")
            elif own.get(identity(cell)):
                errors = errors_of(cell)
                note = "When this was marked, on a small synthetic file, the cell failed:\n"
                notes = [nbformat.v4.new_output("stream", name="stdout", text=note)] if errors else []
                cell.outputs = own[identity(cell)] + notes + errors


class SaveMarks(SaveAutoGrades):
    """Save the marks; a test that is undecided waits for the teacher."""

    def _add_score(self, cell, resources):
        super()._add_score(cell, resources)
        if any(error.ename == "Undecided" for error in errors_of(cell)):
            names = cell.metadata["nbgrader"]["grade_id"], self.notebook_id, self.assignment_id, self.student_id
            self.gradebook.find_grade(*names).needs_manual_grade = True
            self.gradebook.db.commit()


def errors_of(cell):
    """Return the errors that a cell has ended in."""
    return [each for each in cell.get("outputs", []) if each.output_type == "error"]


def identity(cell):
    """Return what tells a cell from others: nbgrader's name for it, or its text."""
    return cell.metadata.get("nbgrader", {}).get("grade_id") or cell.source


# What autograde does with a submission, with these steps in place of nbgrader's.
OURS = {Execute: MarkingRun, SaveAutoGrades: SaveMarks}
STEPS = [OURS.get(step, step) for step in Autograde.class_traits()["autograde_preprocessors"].default()]
