"""Moodle's files: collect its zips with `nbgrader zip_collect`, write files for it with `nbgrader export`.

The grading worksheet, Moodle's CSV file next to the zips, contains the names of all participants.
"""

import csv
import re
import zipfile
from collections import Counter, defaultdict
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from course.marking import errors_of
from course.notes import notes
from course.repair import grade_id

import nbformat
from nbgrader.api import Gradebook
from nbgrader.plugins import ExportPlugin, FileNameCollectorPlugin

# Moodle's folders, or with other settings its files, begin with "Ada Lovelace_123456_assignsubmission_file". The number
# is Moodle's identifier of the participant in this assignment, not the student number.
MOODLE_NAME = re.compile(r"(?:^|/)(?P<name>[^/_]+)_(?P<number>\d+)_assignsubmission_file")
COPIES = re.compile(r"(^|/)(\.|__MACOSX)")  # made by programs: .ipynb_checkpoints, ._galaxies.ipynb
OUTDATED = "Not in feedback.zip, rerun nbgrader generate_feedback galaxies: no page since the last grading"
NAME, GRADE = ("Full name", "Nom complet"), ("Grade", "Note")  # columns of the worksheet


def read_worksheet(archive):
    """Return the header and, by participant's number, the rows of a folder's newest CSV file; empty without one."""
    for path in sorted(archive.glob("*.csv"), key=lambda path: path.stat().st_mtime)[-1:]:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header, *rows = csv.reader(file)
        return header, {re.sub(r"\D", "", row[0]): row for row in rows if row}
    return [], {}


def column(header, names):
    """Return the index in a header of the column that has one of `names`, or None."""
    return next((index for index, name in enumerate(header) if name in names), None)


def is_notebook(path):
    """Return whether a file is a notebook. Removes a byte order mark at its beginning."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        nbformat.reads(text, as_version=4)
    except Exception:  # of many kinds
        return False
    path.write_text(text, encoding="utf-8", newline="")
    return True


def priority(path):
    """Return the sort key of a student's notebooks: whether it is called galaxies, the browser's number, the path."""
    number = re.search(r"\((\d+)\)$", path.stem)
    return "galaxies" in path.stem.lower(), int(number[1]) if number else 0, str(path)


class OneNotebook(FileNameCollectorPlugin):
    """Collect one notebook per student, whatever its name, from the zip that was downloaded last."""

    def collect(self, submitted_file):
        """Return nbgrader's description of a file that is collected, None for other files."""
        return self.chosen.get(submitted_file)

    @cached_property
    def chosen(self):
        """The collected files, by path. Writes names to the gradebook, and lists files that are not collected."""
        coursedir = self.parent.coursedir
        downloaded = Path(coursedir.root, "downloaded", coursedir.assignment_id)
        header, rows = read_worksheet(downloaded / "archive")
        names, files = sort_files(downloaded)
        names = {number: row[column(header, NAME) or 0] for number, row in rows.items()} | names
        chosen = {}
        for number, paths in files.items():
            who = f"{names[number]} ({number})"
            notebooks = sorted((path for path in paths if path.suffix == ".ipynb"), key=priority)
            if not notebooks or not is_notebook(notebooks[-1]):
                found = ", ".join(path.name for path in paths)
                notes["Not collected"].append(f"{who}: {found}, {'damaged' if notebooks else 'no notebook'}")
            else:
                chosen[str(notebooks[-1])] = self.describe(number, notebooks[-1])
                for path in notebooks[:-1]:
                    notes["Skipped"].append(f"{who}: {path.name}, because {notebooks[-1].name} is collected")
        notes["Missing"] += [f"{names[number]} ({number})" for number in rows if number not in files]
        with Gradebook(coursedir.db_url, coursedir.course_id) as gradebook:
            for number, name in names.items():
                first, _, last = name.rpartition(" ")
                email = next((cell for cell in rows.get(number, []) if "@" in cell), None)
                gradebook.update_or_create_student(number, first_name=first, last_name=last, email=email)
        return chosen

    def describe(self, number, path):
        """Return nbgrader's description of a notebook. autograde grades it again if its timestamp is newer."""
        coursedir = self.parent.coursedir
        before = Path(coursedir.format_path(coursedir.submitted_directory, number, coursedir.assignment_id))
        notebook, time = before / f"{coursedir.assignment_id}.ipynb", before / "timestamp.txt"
        is_same = notebook.exists() and time.exists() and notebook.read_bytes() == path.read_bytes()
        timestamp = time.read_text() if is_same else datetime.now(UTC).isoformat(" ")
        return {"student_id": number, "file_id": coursedir.assignment_id, "timestamp": timestamp}


def sort_files(downloaded):
    """Return the participants' names and files, by number; the files come from the last download that has any."""
    times = {path.stem: path.stat().st_mtime for path in (downloaded / "archive").iterdir()}
    names, files, latest = {}, defaultdict(list), defaultdict(float)
    for path in sorted((downloaded / "extracted").rglob("*")):
        relative = path.relative_to(downloaded / "extracted").as_posix()
        if path.is_dir() or path.suffix == ".csv" or COPIES.search(relative):
            continue
        found = MOODLE_NAME.search(relative)
        if found is None:
            notes["Not collected"].append(f"{relative}: no participant's number in its name")
            continue
        number, time = found["number"], times.get(relative.partition("/")[0], 0)
        names[number] = found["name"]
        if time > latest[number]:
            latest[number], files[number] = time, []
        if time == latest[number]:
            files[number].append(path)
    return names, files


class MoodleExport(ExportPlugin):
    """Write grades.csv and feedback.zip for Moodle, and tests.csv: how many students lost points in each test."""

    def export(self, gradebook):
        """Write the three files to the course's folder."""
        assignment, root = (self.assignment or ["galaxies"])[0], Path(self.parent.coursedir.root)
        submissions = {each.student.id: each for each in gradebook.assignment_submissions(assignment)}
        books = {path.parts[-3]: path for path in root.glob(f"autograded/*/{assignment}/*.ipynb")}
        tested = [(submissions[student], nbformat.read(path, as_version=4)) for student, path in books.items()]
        complete = {each.student.id: each for each, _ in tested if not each.needs_manual_grade}
        incomplete = [each.student for number, each in submissions.items() if number not in complete]
        notes["Without grade and feedback, not fully graded"] += [f"{full_name(s)} ({s.id})" for s in incomplete]
        grades = grade_rows(submissions, complete, *read_worksheet(root / "downloaded" / assignment / "archive"))
        for name, rows in (("grades.csv", grades), ("tests.csv", test_rows(tested))):
            with open(root / name, "w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(rows)
        changed = (root / "gradebook.db").stat().st_mtime
        with zipfile.ZipFile(root / "feedback.zip", "w", zipfile.ZIP_DEFLATED) as feedback:
            for student in (each.student for each in complete.values()):
                page = root / "feedback" / student.id / assignment / f"{assignment}.html"
                if page.exists() and page.stat().st_mtime >= changed:
                    feedback.write(page, f"{full_name(student)}_{student.id}_assignsubmission_file/{page.name}")
                else:
                    notes[OUTDATED].append(f"{full_name(student)} ({student.id})")
        self.log.info("Written: grades.csv, tests.csv and feedback.zip")


def full_name(student):
    """Return a student's name, or the number if the name is unknown."""
    return f"{student.first_name or ''} {student.last_name or ''}".strip() or student.id


def grade_rows(submissions, complete, header, rows):
    """Return the worksheet, or a table like it, with the grades of the fully graded submissions."""
    if not rows:
        header = ["Identifier", "Full name", "Grade"]
        rows = {number: [number, full_name(each.student), ""] for number, each in submissions.items()}
    if (place := column(header, GRADE)) is None:
        raise ValueError("the grading worksheet has no column Grade: download it with Moodle in English")
    for number, row in rows.items():
        row[place] = f"{complete[number].score:g}" if number in complete else ""
    return [header, *rows.values()]


def test_rows(tested):
    """Return, for each test, how many lost points, how many are undecided, and the most frequent error.

    tested: pairs of a submission and its notebook. Written answers are left out.
    """
    lost, undecided, errors = Counter(), Counter(), defaultdict(Counter)
    for submission, book in tested:
        for grade in submission.notebooks[0].grades:
            if grade.cell.cell_type == "markdown":
                continue
            undecided[grade.name] += grade.needs_manual_grade
            lost[grade.name] += not grade.needs_manual_grade and grade.score < grade.max_score
        for cell in book.cells:
            name = grade_id(cell)
            errors[name].update(error.evalue for error in errors_of(cell))
    usual = {name: found.most_common(1)[0][0] for name, found in errors.items() if found}
    header = ["test", "submissions", "lost points", "undecided", "most frequent error"]
    return [header, *([n, len(tested), lost[n], undecided[n], usual.get(n, "")] for n in sorted(undecided))]
