"""The steps of nbgrader's autograde that the course replaces: run a submission, and save its scores."""

import asyncio
import os
import shutil
import site
import textwrap
from pathlib import Path
from tempfile import TemporaryDirectory

from course.isolation import IsolatedKernel, choose_engine
from course.notes import notes
from course.repair import grade_id

import nbformat
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbgrader.preprocessors import Execute, SaveAutoGrades
from nbgrader.preprocessors.execute import UnresponsiveKernelError
from nbgrader.utils import is_grade
from traitlets import Dict, Integer, List, Unicode

# Starts the watch in the kernel, before the notebook's first cell.
START = """
import sys

sys.path.insert(0, {folder!r})
from course.judge import start

start(get_ipython().user_ns, {file!r})
"""
JUDGE = ("__init__.py", "judge.py", "watch.py")  # what the kernel imports
KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "SYSTEMROOT")  # environment variables


class Stopped(Exception):
    """A submission did something that ends its run."""


class MarkingRun(Execute):
    """Run a submission isolated; end the run if it loops, ends Python, deletes its files or prints too much.

    The submission gets a copy of the grading data as Galaxy10.h5. After the run, cells without tests show the student's
    original output again, which the written answers refer to, and the errors of this run. Output of tests on stderr,
    such as warnings or progress bars, is removed, because nbgrader would count it as a failure.
    """

    data = Unicode(help="HDF5 file to run submissions on").tag(config=True)
    environment = Dict(help="environment variables of the run").tag(config=True)
    engines = List(["bwrap", "docker", "podman"], help="programs to isolate a run; the first that works is used").tag(
        config=True
    )
    max_output = Integer(10_000_000, help="most bytes that a submission may print").tag(config=True)

    def preprocess(self, nb, resources):
        """Run a notebook. Raises UnresponsiveKernelError, after logging the reason, if the run was ended."""
        names = resources["nbgrader"]
        outputs = [cell.get("outputs") for cell in nb.cells]
        self.printed, self.reason, self.cell = 0, None, nb.cells[0]
        with TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            self.folder = Path(temporary)
            folder = self.fill_folder(names, resources["metadata"]["path"])
            inside = resources | {"metadata": resources["metadata"] | {"path": str(folder)}}
            try:
                nb, _ = super().preprocess(nb, inside)
            except (CellTimeoutError, DeadKernelError, Stopped) as error:
                reasons = {
                    CellTimeoutError: f"took longer than {self.timeout} seconds",
                    DeadKernelError: "ended Python, or used all memory",
                }
                reason = self.reason or reasons.get(type(error), str(error))
                name, first_line = grade_id(self.cell), self.cell.source.strip().partition("\n")[0]
                reason = f"{f'the cell {name}' if name else 'a cell'} {reason}. The cell begins with: {first_line}"
                self.log.error("%s is not graded: %s", names["student"], reason)
                notes["Not graded"].append(f"{names['student']}: {reason}")
                raise UnresponsiveKernelError from None
        self.show_own_output(nb, outputs, names["student"])
        return nb, resources

    def fill_folder(self, names, submission):
        """Fill the temporary folder; return its subfolder in which the submission runs.

        It is as deep as in the course, so that "../.." is temporary too if the run is not isolated.
        """
        import matplotlib  # here, because nbgrader's other commands do not need it

        folder = self.folder / "run" / "autograded" / names["student"] / names["assignment"]
        shutil.copytree(submission, folder)
        shutil.copy(self.data, folder / "Galaxy10.h5")
        self.files = [path for path in folder.rglob("*") if path.is_file()]
        shutil.copytree(matplotlib.get_cachedir(), self.folder / "matplotlib")
        (self.folder / "course").mkdir()
        for name in JUDGE:
            shutil.copy(Path(__file__).with_name(name), self.folder / "course")
        startup = self.folder / "ipython" / "profile_default" / "startup" / "watch.py"
        startup.parent.mkdir(parents=True)
        startup.write_text(START.format(folder=str(self.folder), file=str(folder / "Galaxy10.h5")))
        return folder

    def create_kernel_manager(self):
        """Return the manager of a kernel that is isolated if possible."""
        variables = {name: os.environ[name] for name in KEPT if name in os.environ}
        variables |= {"HOME": str(self.folder), "IPYTHONDIR": str(self.folder / "ipython"), "USER": "student"}
        variables |= {"PYTHONUSERBASE": site.getuserbase(), "MPLCONFIGDIR": str(self.folder / "matplotlib")}
        variables |= {"NBGRADER_EXECUTION": "autograde", **self.environment}
        engine = choose_engine(tuple(self.engines))
        by = "bubblewrap" if engine == "bwrap" else engine
        notes["Isolation"] = [f"student code isolated with {by}" if engine else "none: student code ran as you"]
        self.km = IsolatedKernel(
            config=self.config,
            kernel_name=self.nb.metadata.get("kernelspec", {}).get("name", "python3"),
            transport="ipc" if os.name == "posix" else "tcp",
            connection_file=str(self.folder / "kernel.json"),
            engine=engine,
            folder=str(self.folder),
            variables=variables,
        )
        return self.km

    def preprocess_cell(self, cell, resources, index):
        """Run a cell. Raises Stopped if files are missing afterwards."""
        self.cell = cell
        cell, resources = super().preprocess_cell(cell, resources, index)
        missing = [path.name for path in self.files if not path.exists()]
        if missing:
            raise Stopped(f"deleted {', '.join(missing)}")
        return cell, resources

    def on_cell_executed(self, **options):
        """Check the reply to a cell. Raises Stopped after exit(), which ends Python a moment later."""
        super().on_cell_executed(**options)
        payload = options["execute_reply"]["content"].get("payload", [])
        if any(each.get("source") == "ask_exit" for each in payload):
            raise Stopped("ended Python")

    def process_message(self, msg, cell, cell_index):
        """Process a message of the kernel; shut the kernel down if it has printed too much."""
        if self.reason:
            return None
        if msg["msg_type"] in ("stream", "display_data", "execute_result", "error"):
            self.printed += len(str(msg["content"]))
        if self.printed > self.max_output:
            self.reason = f"printed more than {self.max_output:,} bytes"
            self.ending = asyncio.ensure_future(self.km.shutdown_kernel(now=True))
            return None
        return super().process_message(msg, cell, cell_index)

    def show_own_output(self, nb, outputs, student):
        """Restore the submitted outputs of cells without tests; keep the messages of tests."""
        for cell, own in zip(nb.cells, outputs, strict=True):
            errors = errors_of(cell)
            if cell.cell_type == "code" and is_grade(cell):
                cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
                for error in errors:
                    error.traceback = textwrap.wrap(f"{error.ename}: {error.evalue}", 100)  # a page shows 105
                    if error.ename == "Undecided":
                        line = f"{student} {grade_id(cell)}: {error.evalue}"
                        notes["Undecided, for you to decide in formgrader"].append(line)
            elif own:
                text = "When this was graded, on a small synthetic file, the cell failed:\n"
                note = [nbformat.v4.new_output("stream", name="stdout", text=text)] if errors else []
                cell.outputs = own + note + errors


class SaveMarks(SaveAutoGrades):
    """Save the scores; undecided tests need manual grading."""

    def _add_score(self, cell, resources):
        super()._add_score(cell, resources)
        if any(error.ename == "Undecided" for error in errors_of(cell)):
            names = grade_id(cell), self.notebook_id, self.assignment_id, self.student_id
            self.gradebook.find_grade(*names).needs_manual_grade = True
            self.gradebook.db.commit()


def errors_of(cell):
    """Return the errors in the output of a cell."""
    return [each for each in cell.get("outputs", []) if each.output_type == "error"]
