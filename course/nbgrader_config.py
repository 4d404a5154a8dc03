"""nbgrader's settings for the assignment; see docs/teaching.md. This file belongs in the course's folder."""

import os
import sys
import warnings
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here))
# nbgrader starts alembic by name. It is next to this Python, even if the environment is not activated.
os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))

from course.marking import MarkingRun, SaveMarks  # noqa: E402
from course.moodle import MoodleExport, OneNotebook  # noqa: E402
from course.repair import Repair, RestoreTests  # noqa: E402

from nbgrader import preprocessors as steps  # noqa: E402
from nbgrader.converters import Autograde  # noqa: E402

c = get_config()  # noqa: F821 (of nbgrader)
c.CourseDirectory.course_id = "phys-467"
c.CourseDirectory.root = str(here)
c.ClearSolutions.code_stub = {"python": "# your code here"}
c.ClearSolutions.text_stub = "Your answer here."

# Collecting and feedback start over each time; autograde grades new and changed submissions.
c.ZipCollectApp.collector_plugin = OneNotebook
c.ZipCollectApp.force = c.ExtractorPlugin.force = c.GenerateFeedback.force = True
c.ExportApp.plugin_class = MoodleExport

c.Autograde.sanitize_preprocessors = [Repair, steps.OverwriteKernelspec, RestoreTests, steps.CheckCellMetadata]
ours = {steps.Execute: MarkingRun, steps.SaveAutoGrades: SaveMarks}
theirs = Autograde.class_traits()["autograde_preprocessors"].default()
c.Autograde.autograde_preprocessors = [ours.get(step, step) for step in theirs]
warnings.filterwarnings("ignore", module="nbgrader.api")  # about its use of SQLAlchemy

# Submissions are graded on a small synthetic file, with two epochs, on the CPU.
c.MarkingRun.data = str(here / "marking.h5")
c.MarkingRun.environment = {
    "GALAXY10_FILE": "Galaxy10.h5",
    "GALAXY10_EPOCHS": "2",
    "GALAXY10_SEED": "0",
    "MPLBACKEND": "agg",
    "CUDA_VISIBLE_DEVICES": "",
}
c.ExecutePreprocessor.timeout = 60  # seconds per cell; the slowest one of the solution takes about one
c.ExecutePreprocessor.interrupt_on_timeout = False  # a cell that never ends stops the run
c.ExecutePreprocessor.iopub_timeout = 30  # seconds to wait for a cell's output, on a busy machine
c.ExecutePreprocessor.startup_timeout = 120
