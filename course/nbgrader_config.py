"""nbgrader's settings for marking the assignment; see docs/teaching.md. This file lies in the course's folder."""

import os
import sys
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here))
# nbgrader starts alembic by its name, which lies beside this Python, also where the environment is not activated.
os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))

from marking import STEPS, OneNotebook  # noqa: E402

c = get_config()  # noqa: F821 (of nbgrader)
c.CourseDirectory.course_id = "phys-467"
c.CourseDirectory.root = str(here)
c.ClearSolutions.code_stub = {"python": "# your code here"}
c.ClearSolutions.text_stub = "Your answer here."

# Moodle's names, with folders or without: "Ada Lovelace_123456_assignsubmission_file_/work/galaxies (1).ipynb". The
# notebook is called like the assignment, whatever the student has called it; copies made by programs are left out.
c.ZipCollectApp.collector_plugin = OneNotebook
c.FileNameCollectorPlugin.named_regexp = (
    r".*/(?P<file_id>[^/]+)/extracted/(?!.*(?:\.ipynb_checkpoints|__MACOSX)/)"
    r"(?:.*/)?[^/]*_(?P<student_id>\d+)_assignsubmission_file"
)

# What a submission is marked with: a small synthetic file, two epochs, the CPU.
c.MarkingRun.data = str(here / "marking.h5")
c.MarkingRun.environment = {
    "GALAXY10_FILE": "Galaxy10.h5",
    "GALAXY10_EPOCHS": "2",
    "GALAXY10_SEED": "0",
    "MPLBACKEND": "agg",
    "CUDA_VISIBLE_DEVICES": "",
}
c.Autograde.autograde_preprocessors = STEPS
c.Autograde.create_student = True
c.ExecutePreprocessor.timeout = 60  # seconds per cell; the slowest one of the solution takes about one
c.ExecutePreprocessor.interrupt_on_timeout = False  # a cell that never ends ends that submission
c.ExecutePreprocessor.iopub_timeout = 30  # seconds for what a cell has printed to arrive, on a busy machine
c.ExecutePreprocessor.startup_timeout = 120
