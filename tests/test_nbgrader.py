"""The course from end to end by nbgrader's own commands: Moodle's zip, runs that misbehave, marks, feedback, export."""

import csv
import json
import subprocess
import sys
import zipfile

import pytest

pytest.importorskip("jupytext", reason="pip install -r requirements-teaching.txt")
pytest.importorskip("nbgrader", reason="pip install -r requirements-teaching.txt")

from course.build import make_course, make_skeleton

import nbformat
from conftest import made_once, run_well
from nbformat.v4 import new_code_cell, new_notebook, new_output

# Each command as `nbgrader ...` would run it, in a process of its own that has nbgrader imported already.
NBGRADER = """
import json, os, sys
from nbgrader.apps import NbGraderApp
import nbgrader.apps.autogradeapp, nbgrader.converters
from sqlalchemy import Engine, event
# nbgrader writes its database, and waits for the disk, once for every cell of every student.
event.listen(Engine, "connect", lambda connection, _: connection.execute("pragma synchronous = off"))
for command in json.loads(sys.argv[1]):
    if os.fork() == 0:
        NbGraderApp.launch_instance(command)
        sys.exit(0)
    print("status", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""
LOOP, DELETE, PRINT = "while True: pass", "import shutil\nshutil.rmtree('../..')", "print('x' * 20_000_000)"
FULL = "200001"  # the number of the student with a complete notebook


def nbgrader(course, *commands):
    """Run nbgrader's commands in the course's folder; return what each exited with, and all that they said."""
    command = [sys.executable, "-c", NBGRADER, json.dumps([each.split() for each in commands])]
    done = subprocess.run(
        command, cwd=course, capture_output=True, text=True, errors="replace", timeout=300, check=False
    )
    return [line.split()[1] for line in done.stdout.splitlines() if line.startswith("status")], done.stderr


def written(course):
    """A student's notebook: all solutions, a progress bar, texts, output of their own; and without one locked cell."""
    solved = {cell.metadata.nbgrader.grade_id: cell.source for cell in read(course / "source")["cells"]}
    book = nbformat.read(course.parent / "skeleton.ipynb", as_version=4)
    for cell in book.cells:
        name = cell.metadata.nbgrader.grade_id
        if cell.metadata.nbgrader.solution and cell.cell_type == "code":
            cell.source = solved[name].replace(
                "for batch, target in train_loader:", "for batch, target in tqdm(train_loader):"
            )
        elif cell.metadata.nbgrader.solution:
            cell.source += "\n\nMy answer."
        if name == "predict_train":
            cell.source = f"from tqdm import tqdm\n{cell.source}"
        if name == "cnn_training_comparison":
            cell.outputs = [new_output("stream", name="stdout", text="CNN 81.8%, my own output")]
    book.cells = [cell for cell in book.cells if cell.metadata.nbgrader.grade_id != "q1_labels"]
    book.cells.insert(0, new_code_cell("%env GALAXY10_FILE=/content/drive/Galaxy10.h5"))
    return nbformat.writes(book)


def read(folder):
    return nbformat.read(folder / "galaxies" / "galaxies.ipynb", as_version=4)


def small(source, *more):
    """A notebook of one cell, and more."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    return nbformat.writes(new_notebook(cells=[new_code_cell(source), *more], metadata=kernel))


@pytest.fixture(scope="session")
def marked(tmp_path_factory):
    """A course after marking, and what the commands said."""

    def make(folder):
        make_skeleton(folder)
        make_course(folder)
        course = folder / "course"
        archive = course / "downloaded" / "galaxies" / "archive"
        archive.mkdir(parents=True)
        released = nbformat.read(folder / "skeleton.ipynb", as_version=4).cells
        [layers] = [cell for cell in released if cell.metadata.nbgrader.grade_id == "q2_layers"]
        moodle = "{}_{}_assignsubmission_file"
        files = {
            f"{moodle.format('Ada Lovelace', 100001)}/galaxies.ipynb": small(LOOP),
            f"{moodle.format('Émilie du Châtelet', 100002)}_Copy of galaxies.ipynb": small(DELETE),
            f"{moodle.format('Grace Hopper', 100003)}_/galaxies (1).ipynb": small(PRINT),
            f"{moodle.format('Grace Hopper', 100003)}_/galaxies.ipynb": small("'an older one'"),
            f"{moodle.format('Jean-Luc', 100004)}_/work/work/galaxies.ipynb": small("print('well')", layers),
            f"{moodle.format('Jean-Luc', 100004)}_/work/.ipynb_checkpoints/galaxies-checkpoint.ipynb": "damaged",
            f"__MACOSX/{moodle.format('Jean-Luc', 100004)}_/work/._galaxies.ipynb": "damaged",
            f"{moodle.format('No Notebook', 100005)}_/report.pdf": "a report",
            f"{moodle.format('Max Frisch', FULL)}_/galaxies.ipynb": written(course),
        }
        with zipfile.ZipFile(archive / "PHYS-467-assignment 3.zip", "w") as moodles:
            for name, content in files.items():
                moodles.writestr(name, content)
        said = {"collecting": nbgrader(course, "generate_assignment galaxies", "zip_collect galaxies")}
        submitted = [str(path.relative_to(course)) for path in sorted(course.glob("submitted/**/*.*"))]
        own = course / "submitted" / FULL / "galaxies" / "galaxies.ipynb"
        said["repair"] = run_well("course/repair.py", own, "--release", folder / "skeleton.ipynb")
        said["marking"] = nbgrader(
            course,
            "autograde galaxies --student=1* --ExecutePreprocessor.timeout=5",
            f"autograde galaxies --student={FULL}",
            "generate_feedback galaxies",
            "export --to grades.csv",
        )
        return said | {"submitted": submitted}

    folder, said = made_once(tmp_path_factory, "course", make)
    return folder / "course", said


def test_the_release_is_the_skeleton_and_has_no_solution_and_no_hidden_test(marked):
    course, _ = marked
    release = read(course / "release")
    skeleton = nbformat.read(course.parent / "skeleton.ipynb", as_version=4)
    assert [cell.source for cell in release.cells] == [cell.source for cell in skeleton.cells]
    text = nbformat.writes(release)
    assert "HIDDEN" not in text
    assert "SOLUTION" not in text
    assert sum(cell.source.endswith("# your code here") for cell in release.cells) == 16
    assert sum("Your answer here." in cell.source for cell in release.cells) == 7
    assert next(cell for cell in release.cells if "Your name" in cell.source).metadata.get("editable", True)


def test_moodles_names_in_all_their_forms_are_collected_one_notebook_each(marked):
    course, said = marked
    assert said["submitted"] == [
        *(f"submitted/{number}/galaxies/galaxies.ipynb" for number in range(100001, 100005)),
        f"submitted/{FULL}/galaxies/galaxies.ipynb",
    ]
    codes, messages = said["collecting"]
    assert codes == ["0", "0"]
    assert "of 100003, galaxies (1).ipynb is collected" in messages
    assert "20_000_000" in (course / "submitted" / "100003" / "galaxies" / "galaxies.ipynb").read_text()
    assert "well" in (course / "submitted" / "100004" / "galaxies" / "galaxies.ipynb").read_text()


def test_a_run_that_misbehaves_is_ended_with_a_message_and_the_next_are_marked(marked):
    course, said = marked
    codes, messages = said["marking"]
    for number, reason, line in (
        ("100001", "took longer than 5 seconds", LOOP),
        ("100002", "deleted galaxies.ipynb, Galaxy10.h5", "import shutil"),
        ("100003", "printed more than 10,000,000 bytes", PRINT),
    ):
        sentence = f"The submission of {number} is not marked: a cell {reason}. The cell begins with: {line}"
        assert sentence in messages
        assert f"There was an error processing assignment 'galaxies' for student '{number}'" in messages
        assert not (course / "autograded" / number / "galaxies").exists()
    assert "100004" not in "".join(line for line in messages.splitlines() if "ERROR" in line)
    assert (course / "autograded" / "100004" / "galaxies" / "galaxies.ipynb").exists()
    assert "Undecided, for you to decide in formgrader:\n100004 q2_layers: fcn is missing\n" in messages
    assert codes[0] != "0"
    assert codes[1:] == ["0", "0", "0"]
    assert (course / "marking.h5").exists()


def test_a_repaired_notebook_of_the_solution_gets_all_points_but_those_marked_by_hand(marked):
    course, said = marked
    assert said["repair"].endswith("galaxies.ipynb: put back q1_labels.\n")
    with open(course / "grades.csv") as file:
        grades = {row["student_id"]: (float(row["score"]), float(row["max_score"])) for row in csv.DictReader(file)}
    assert grades.pop(FULL) == (13.5, 20)
    assert grades == dict.fromkeys(("100001", "100002", "100003", "100004"), (0, 20))


def test_the_feedback_shows_the_students_own_output_beside_the_points(marked):
    course, _ = marked
    page = (course / "feedback" / FULL / "galaxies" / "galaxies.html").read_text()
    assert "(Score: 13.5 / 20.0)" in page
    assert "CNN 81.8%, my own output" in page
    assert "My answer." in page
    assert "test accuracy 0." not in page.split("CNN 81.8%")[1].split("Compare the two networks")[0]
