"""nbgrader's settings for marking the assignment; see docs/teaching.md. This file lies in the course's folder."""

import os
from pathlib import Path

here = Path(__file__).resolve().parent
# What the submissions are marked with: a small synthetic file, and two epochs.
os.environ.setdefault("GALAXY10_FILE", str(here / "marking.h5"))
os.environ.setdefault("GALAXY10_EPOCHS", "2")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

c = get_config()  # noqa: F821 (of nbgrader)
c.CourseDirectory.course_id = "phys-467"
c.CourseDirectory.root = str(here)
c.ClearSolutions.code_stub = {"python": "# your code here"}
c.ClearSolutions.text_stub = "Your answer here."
c.ExecutePreprocessor.timeout = 120  # seconds a cell: the default, 30, interrupts a training run on a slow machine
c.ExecutePreprocessor.interrupt_on_timeout = False  # a cell that never ends ends that submission
c.ExecutePreprocessor.startup_timeout = 120
c.Autograde.create_student = True
# Moodle's names: "Ada Lovelace_123456_assignsubmission_file_/galaxies (1).ipynb", in folders or not.
c.FileNameCollectorPlugin.named_regexp = (
    r".*?(?P<first_name>[^_/]+)_(?P<student_id>\d+)_assignsubmission_file_?/?(?:.*/)?(?P<file_id>[^/]*)$"
)
