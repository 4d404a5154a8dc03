"""The course from end to end by nbgrader's commands: Moodle's zips, runs that misbehave, marks, feedback, export."""

import csv
import json
import os
import socket
import subprocess
import sys
import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

pytest.importorskip("jupytext", reason="pip install -r requirements-teaching.txt")
pytest.importorskip("nbgrader", reason="pip install -r requirements-teaching.txt")

from course.build import main, make_course, make_skeleton
from course.isolation import IsolatedKernel, by_bubblewrap, choose_engine, isolate

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from nbgrader.api import Gradebook

# Runs each command, a line of JSON, as `nbgrader ...` would, in a process that has nbgrader imported already.
NBGRADER = """
import json, os, sys
import matplotlib
from nbgrader.apps import NbGraderApp
import nbgrader.apps.autogradeapp, nbgrader.converters
from sqlalchemy import Engine, event
# nbgrader writes its database, and waits for the disk, once for every cell of every student.
event.listen(Engine, "connect", lambda connection, _: connection.execute("pragma synchronous = off"))
for line in sys.stdin:
    folder, log, command = json.loads(line)
    if os.fork() == 0:
        os.chdir(folder)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        NbGraderApp.launch_instance(command)
        sys.exit(0)
    print("status", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""
ENDED = {  # the student's number, the first line of a cell that ends its run, and the reason
    "100001": ("while True: pass", "took longer than 5 seconds"),
    "100002": ("import shutil\nshutil.rmtree('../..')", "deleted galaxies.ipynb, timestamp.txt, Galaxy10.h5"),
    "100003": ("print('x' * 20_000_000)", "printed more than 10,000,000 bytes"),
    "100004": ("exit()", "ended Python"),
}
# In place of judge.py where no mark matters: only short cells are run, and each test gives its points.
NO_JUDGE = """
from IPython import get_ipython

def start(names, file):
    get_ipython().input_transformers_post.append(lambda lines: lines if len(lines) < 5 else [])
    names["_mark"] = print
"""
ZOE, JEAN_LUC = "200001", "200002"
READS_SECRET = "import os\nprint('well', os.environ.get('SECRET'))"
WARN_IN_EACH_CELL = "import sys\nget_ipython().events.register('post_run_cell', lambda _: sys.stderr.write('slow'))"
WORKSHEET = f"""Identifier,Full name,Email address,Status,Grade,Maximum Grade,Last modified (grade)
Participant {ZOE},"Zoë de la Tour",zoe@epfl.ch,Submitted,,20.00,-
Participant 300001,Not There,not@epfl.ch,No submission,,20.00,-
"""
# Try to open the files that are named, to reach a server, and to start 300 processes; print what succeeded.
ATTACK = """
import os, signal, socket, sys
succeeded, children = [], []
for path in sys.argv[2:]:
    for mode in ("rb", "ab"):
        try:
            open(path, mode)
            succeeded.append(mode)
        except OSError:
            pass
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5)
    succeeded.append("network")
except OSError:
    pass
try:
    while len(children) < 300:
        children.append(os.fork() or signal.pause())
    succeeded.append("processes")
except OSError:
    pass
for child in children:
    os.kill(child, signal.SIGKILL)
print(*succeeded)
"""
needs_bubblewrap = pytest.mark.skipif(not choose_engine(("bwrap",)), reason="bubblewrap is not here, or does not work")


@pytest.fixture(scope="module")
def nbgrader(tmp_path_factory):
    """A function that runs a command of nbgrader in a folder and returns its exit status and what it said."""
    log = tmp_path_factory.mktemp("nbgrader") / "log"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    env = os.environ | {"SECRET": "of the teacher", "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen([sys.executable, "-c", NBGRADER], env=env, **pipes) as server:

        def run(folder, command):
            server.stdin.write(json.dumps([str(folder), str(log), command.split()]) + "\n")
            server.stdin.flush()
            status = next(line for line in server.stdout if line.startswith("status"))
            return int(status.split()[1]), log.read_text(encoding="utf-8", errors="replace")

        yield run


def read(folder):
    return nbformat.read(folder / "galaxies" / "galaxies.ipynb", as_version=4)


def grade_id(cell):
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def change_source(course):
    """As a teacher: more points for a test, a text in another language, a question of a text, a solution and a test."""
    book = read(course / "source")
    [test] = [cell for cell in book.cells if grade_id(cell) == "q1_read"]
    test.metadata.nbgrader.points = 1.0
    book.cells[0].source = "# Reconnaître les galaxies"
    marks = {"schema_version": 3, "task": False}
    solution = marks | {"grade": False, "locked": False, "solution": True, "grade_id": "q6"}
    test = marks | {"grade": True, "locked": True, "solution": False, "grade_id": "q6_test", "points": 1}
    book.cells += [
        new_markdown_cell("## Question 6"),
        new_code_cell("### BEGIN SOLUTION\nanswer = 42\n### END SOLUTION", metadata={"nbgrader": solution}),
        new_code_cell(
            "### BEGIN HIDDEN TESTS\nassert answer == 42, 'not 42'\n### END HIDDEN TESTS", metadata={"nbgrader": test}
        ),
    ]
    nbformat.write(book, course / "source" / "galaxies" / "galaxies.ipynb")


def written(course):
    """A student's notebook: all solutions but for one name, texts, output, a cell too many and one too few."""
    solved = {grade_id(cell): cell.source for cell in read(course / "source").cells}
    book = read(course / "release")
    for cell in book.cells:
        if cell.metadata.get("nbgrader", {}).get("solution"):
            cell.source = solved[grade_id(cell)] if cell.cell_type == "code" else f"{cell.source}\n\nMy answer."
            cell.source = cell.source.replace("train_counts", "my_counts")
        if grade_id(cell) == "cnn_training_comparison":
            cell.outputs = [new_output("stream", name="stdout", text="CNN 81.8%, my own output")]
    book.cells = [cell for cell in book.cells if grade_id(cell) != "q1_labels"]
    book.cells.insert(0, new_code_cell(f"%env GALAXY10_FILE=/content/drive/Galaxy10.h5\n{WARN_IN_EACH_CELL}"))
    book.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {}}  # as Colab writes it
    return nbformat.writes(book)


def small(source):
    """A notebook of one cell."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    return nbformat.writes(new_notebook(cells=[new_code_cell(source, id="own")], metadata=kernel))


def download(course, name, time, files):
    """Write a zip of Moodle's; files: the content by "name_number/path"."""
    archive = course / "downloaded" / "galaxies" / "archive"
    archive.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive / name, "w") as moodle:
        for path, content in files.items():
            moodle.writestr(path.replace("/", "_assignsubmission_file_/", 1), content)
    os.utime(archive / name, (time, time))
    return archive


UNGRADED = "Without grade and feedback, not fully graded"
OUTDATED = "Not in feedback.zip, rerun nbgrader generate_feedback galaxies: no page since the last grading"
JEAN_LUCS_FILE = f"Jean-Luc_{JEAN_LUC}/work/work/Copy of galaxies.ipynb"
FIRST_FILES = {f"Bad Luck_{number}/galaxies.ipynb": small(source) for number, (source, _) in ENDED.items()} | {
    "Bad Luck_100003/galaxies (1).ipynb": small(ENDED["100003"][0]),
    "Bad Luck_100003/galaxies.ipynb": small("'an older one'"),
    JEAN_LUCS_FILE: b"\xef\xbb\xbf" + small(READS_SECRET).encode(),
    f"Jean-Luc_{JEAN_LUC}/work/.ipynb_checkpoints/galaxies-checkpoint.ipynb": "a copy",
    f"__MACOSX/Jean-Luc_{JEAN_LUC}_assignsubmission_file_/work/._galaxies.ipynb": "a copy",
    f"Zoë de la Tour_{ZOE}/galaxies.ipynb": small("answer = 41"),
    "Pdf_300002/report.pdf": "a report",
    "Script_300003/galaxies.py": "print()",
    "Damaged_300004/galaxies.ipynb": "{",
    "unnamed/galaxies.ipynb": small("print()"),
}


@pytest.fixture(scope="module")
def marked(tmp_path_factory, nbgrader):
    """A course at the end of a term, and what the commands said."""
    folder, said = tmp_path_factory.mktemp("term"), {}
    course, judge = folder / "course", folder / "course" / "course" / "judge.py"
    make_skeleton(folder)
    with patch("course.build.MARKING_IMAGES", (150, 12)):
        make_course(folder)
    change_source(course)
    nbgrader(course, "generate_assignment galaxies")

    download(course, "assignment 3.zip", 1_000_000, FIRST_FILES)
    said["first"] = nbgrader(course, "zip_collect galaxies")
    said["times"] = [collected(course)]
    original = judge.read_text()
    judge.write_text(NO_JUDGE)
    said["ended"] = nbgrader(course, "autograde galaxies --student=1* --ExecutePreprocessor.timeout=5")
    said["marked"] = nbgrader(course, "autograde galaxies --student=2*")
    judge.write_text(original)

    second = {f"Zoë de la Tour_{ZOE}/galaxies.ipynb": written(course), JEAN_LUCS_FILE: FIRST_FILES[JEAN_LUCS_FILE]}
    archive = download(course, "assignment 3 (1).zip", 2_000_000, second)
    (archive / "Grades.csv").write_text(f"\ufeff{WORKSHEET}", encoding="utf-8")
    said["second"] = nbgrader(course, "zip_collect galaxies")
    said["times"].append(collected(course))
    said["changed"] = nbgrader(course, "autograde galaxies --student=2*")

    old_page = course / "feedback" / JEAN_LUC / "galaxies" / "galaxies.html"
    old_page.parent.mkdir(parents=True)
    old_page.write_text("of the first submission")
    os.utime(old_page, (1_000_000, 1_000_000))
    said["early export"] = nbgrader(course, "export")
    said["early files"] = zipfile.ZipFile(course / "feedback.zip").namelist(), table(course / "tests.csv")
    with grades(course, ZOE) as all_grades:  # as in formgrader: decide all that waits for the teacher, without points
        for grade in all_grades:
            if grade.needs_manual_grade:
                grade.manual_score, grade.needs_manual_grade = 0, False
    nbgrader(course, "generate_feedback galaxies")
    said["export"] = nbgrader(course, "export")
    return course, said


def collected(course):
    """Return when the notebooks were collected, by student."""
    return {path.parts[-3]: path.read_text() for path in course.glob("submitted/*/galaxies/timestamp.txt")}


@contextmanager
def grades(course, student):
    """The records of a student's tests and texts in nbgrader's database."""
    with Gradebook(f"sqlite:///{course}/gradebook.db") as gradebook:
        yield gradebook.find_submission("galaxies", student).notebooks[0].grades
        gradebook.db.commit()


def notes(said):
    """Return what stands at the end of a command's log, by heading."""
    found, heading = {}, None
    for line in said[1].splitlines():
        if line.endswith(":") and not line.startswith("["):
            heading = found.setdefault(line[:-1], [])
        elif heading is not None:
            heading.append(line)
    return found


def table(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_the_release_is_the_skeleton_with_the_teachers_changes_and_has_no_solution_and_no_hidden_test(marked):
    course, _ = marked
    release = read(course / "release")
    skeleton = nbformat.read(course.parent / "skeleton.ipynb", as_version=4)
    assert [cell.source for cell in release.cells[1:-3]] == [cell.source for cell in skeleton.cells[1:]]
    assert "HIDDEN" not in nbformat.writes(release)
    assert "SOLUTION" not in nbformat.writes(release)
    assert sum(cell.source.endswith("# your code here") for cell in release.cells) == 17
    assert sum("Your answer here." in cell.source for cell in release.cells) == 7
    assert next(cell for cell in release.cells if "Your name" in cell.source).metadata.get("editable", True)


def test_a_course_that_exists_is_kept_without_force(marked, monkeypatch):
    course, _ = marked
    monkeypatch.setattr(sys, "argv", ["build.py", "course", "--out", str(course.parent)])
    with pytest.raises(ValueError, match=f"{course} exists: --force replaces its source"):
        main()
    assert read(course / "source").cells[0].source == "# Reconnaître les galaxies"


def test_one_notebook_of_each_student_is_collected_and_the_others_are_listed(marked):
    course, said = marked
    assert said["first"][0] == 0
    assert "20_000_000" in (course / "submitted" / "100003" / "galaxies" / "galaxies.ipynb").read_text()
    assert "well" in (course / "submitted" / JEAN_LUC / "galaxies" / "galaxies.ipynb").read_text()
    assert notes(said["first"]) == {
        "Not collected": [
            "assignment 3/unnamed_assignsubmission_file_/galaxies.ipynb: no participant's number in its name",
            "Damaged (300004): galaxies.ipynb, damaged",
            "Pdf (300002): report.pdf, no notebook",
            "Script (300003): galaxies.py, no notebook",
        ],
        "Skipped": ["Bad Luck (100003): galaxies.ipynb, because galaxies (1).ipynb is collected"],
    }


def test_a_second_zip_brings_resubmissions_and_a_worksheet_says_who_is_missing(marked):
    course, said = marked
    assert said["second"][0] == 0
    assert "answer = 42" in (course / "submitted" / ZOE / "galaxies" / "galaxies.ipynb").read_text()
    assert notes(said["second"])["Missing"] == ["Not There (300001)"]
    before, after = said["times"]
    assert before[JEAN_LUC] == after[JEAN_LUC]
    assert before[ZOE] < after[ZOE]
    log = said["changed"][1]
    assert f"Updating existing assignment: {course}/autograded/{ZOE}" in log
    assert f"Skipping existing assignment: {course}/autograded/{JEAN_LUC}" in log


def test_a_run_that_misbehaves_is_ended_with_a_reason_and_the_next_are_marked(marked):
    course, said = marked
    assert said["ended"][0] != 0
    assert notes(said["ended"])["Not graded"] == [
        f"{number}: a cell {reason}. The cell begins with: {source.splitlines()[0]}"
        for number, (source, reason) in ENDED.items()
    ]
    assert not list(course.glob("autograded/1*/galaxies"))
    assert said["marked"][0] == said["changed"][0] == 0
    assert (course / "marking.h5").exists()


def test_a_submission_sees_no_variable_of_the_teachers_environment(marked):
    course, _ = marked
    assert read(course / "autograded" / JEAN_LUC).cells[0].outputs[0].text == "well None\n"


def test_the_log_has_no_warnings_that_mean_nothing(marked):
    _, said = marked
    assert [line for line in said["marked"][1].splitlines() if "arning" in line.lower()] == []


@needs_bubblewrap
def test_a_line_says_what_isolated_the_submissions(marked):
    _, said = marked
    assert notes(said["changed"])["Isolation"] == ["student code isolated with bubblewrap"]


def test_points_follow_the_teachers_source_and_a_resubmission(marked):
    course, said = marked
    with grades(course, ZOE) as all_grades:
        points = {grade.name: grade.score for grade in all_grades}
    assert sum(points.values()) == 13.5 + 0.5 + 1 - 0.5
    assert (points["q1_read"], points["q4_counts"], points["q6_test"]) == (1, 0, 1)
    assert notes(said["changed"])["Repaired"] == [f"{ZOE}: restored missing q1_labels"]
    undecided = notes(said["changed"])["Undecided, for you to decide in formgrader"]
    assert undecided == [f"{ZOE} q4_counts: train_counts is missing"]


def test_the_table_for_moodle_has_the_worksheets_rows_and_grades_of_all_that_is_marked(marked):
    course, said = marked
    header, zoe, missing = csv.reader(WORKSHEET.splitlines())
    assert table(course / "grades.csv") == [header, [*zoe[:4], "14.5", *zoe[5:]], missing]
    ended = [f"Bad Luck ({number})" for number in ENDED]
    assert notes(said["early export"])[UNGRADED] == [*ended, f"Zoë de la Tour ({ZOE})"]
    assert notes(said["export"]) == {UNGRADED: ended}


def test_a_table_says_how_many_have_lost_the_points_of_each_test(marked):
    course, said = marked
    _, early = said["early files"]
    rows, early = ({name: counts for name, *counts in each} for each in (table(course / "tests.csv"), early))
    assert rows["test"] == ["submissions", "lost points", "undecided", "most frequent error"]
    assert rows["q6_test"] == ["2", "1", "0", "name 'answer' is not defined"]
    assert early["q4_counts"][:3] == ["2", "0", "1"]
    assert rows["q4_counts"][:3] == ["2", "1", "0"]
    assert "q1_text" not in rows


def test_feedback_goes_to_moodle_in_one_zip_for_all_that_is_marked_and_no_page_is_older_than_the_grades(marked):
    course, said = marked
    early, _ = said["early files"]
    assert early == []
    assert notes(said["early export"])[OUTDATED] == [f"Jean-Luc ({JEAN_LUC})"]
    with zipfile.ZipFile(course / "feedback.zip") as feedback:
        assert sorted(feedback.namelist()) == [
            f"Jean-Luc_{JEAN_LUC}_assignsubmission_file/galaxies.html",
            f"Zoë de la Tour_{ZOE}_assignsubmission_file/galaxies.html",
        ]


def test_the_feedback_shows_the_students_own_output(marked):
    course, _ = marked
    page = (course / "feedback" / ZOE / "galaxies" / "galaxies.html").read_text(encoding="utf-8")
    assert "(Score: 14.5 / 21.5)" in page
    assert "CNN 81.8%, my own output" in page
    assert "My answer." in page
    assert "test accuracy 0." not in page.split("CNN 81.8%")[1].split("Compare the two networks")[0]


def test_a_class_on_jupyterhub_hands_in_by_nbgraders_exchange(marked, nbgrader, tmp_path):
    course, _ = marked
    exchange, student = tmp_path / "exchange", tmp_path / "student"
    exchange.mkdir(mode=0o777)
    exchange.chmod(0o777)
    student.mkdir()
    options = f"--Exchange.root={exchange} --course=phys-467"
    assert nbgrader(course, f"release_assignment galaxies {options}")[0] == 0
    assert nbgrader(student, f"fetch_assignment galaxies {options}")[0] == 0
    assert nbgrader(student, f"submit galaxies {options}")[0] == 0
    assert nbgrader(course, f"collect galaxies {options}")[0] == 0
    [collected] = [path for path in course.glob("submitted/*/galaxies") if not path.parts[-2].isdigit()]
    assert {path.name for path in collected.iterdir()} >= {"galaxies.ipynb", "timestamp.txt"}


@pytest.fixture
def listening():
    """The port of a server on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@needs_bubblewrap
@pytest.mark.parametrize(("engine", "expected"), [("bwrap", ""), (None, "rb ab rb ab network processes")])
def test_isolated_code_reaches_no_file_of_the_course_and_no_network(engine, expected, listening):
    with tempfile.TemporaryDirectory() as course, tempfile.TemporaryDirectory() as folder:
        Path(course).chmod(0o755)
        files = Path(course, "solution.ipynb"), Path(course, "gradebook.db")
        for file in files:
            file.write_text("of the teacher")
            file.chmod(0o666)  # so that isolation alone protects them, not their permissions
        command = [sys.executable, "-c", ATTACK, str(listening), *map(str, files)]
        command = isolate(engine, command, Path(folder), folder, {})
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == f"{expected}\n"


def test_bubblewrap_is_asked_for_no_network_no_other_folder_and_limits():
    limits = f"prlimit --nproc=256 --data={8 * 2**30} python"
    as_user = " ".join(by_bubblewrap(["python"], Path("/tmp/a"), is_root=False))
    assert as_user.startswith("bwrap --die-with-parent --unshare-all ")
    assert as_user.endswith(f" --bind /tmp/a /tmp/a {limits}")
    assert as_user.count("--bind ") == 1
    as_root = " ".join(by_bubblewrap(["python"], Path("/tmp/a"), is_root=True))
    assert " --unshare-net " in as_root
    assert as_root.endswith(f" --reuid=65534 --regid=65534 --clear-groups --bounding-set=-all {limits}")


def test_a_container_runs_the_kernel_without_network_and_is_removed_at_the_end(tmp_path, monkeypatch):
    (tmp_path / "docker").write_text(f"""#!/bin/sh
echo "$@" >> {tmp_path}/log
[ "$1" = rm ] && exit
while [ "$1" != galaxy-marking ]; do shift; done
shift 2
exec {sys.executable} "$@"
""")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert choose_engine(("no such program", "docker")) == "docker"
    with tempfile.TemporaryDirectory() as folder:
        kernel = IsolatedKernel(
            engine="docker", folder=folder, variables={"A": "b", "PATH": os.environ["PATH"]}, transport="ipc",
            connection_file=f"{folder}/kernel.json",
        )  # fmt: skip
        client = NotebookClient(
            new_notebook(cells=[new_code_cell("6 * 7")]), km=kernel, resources={"metadata": {"path": folder}}
        )
        client.execute(cleanup_kc=True)
    assert client.nb.cells[0].outputs[0].data["text/plain"] == "42"
    _, started, *removed = (tmp_path / "log").read_text().splitlines()
    name = Path(folder).name
    assert started.startswith(f"run --rm --name={name} --network=none --pids-limit=256 --memory={8 * 2**30} --user=")
    assert f"--volume={folder}:{folder} --workdir={folder} --env=A=b galaxy-marking python -m ipykernel" in started
    assert set(removed) == {f"rm --force {name}"}


def test_a_warning_says_when_nothing_isolates(caplog):
    assert choose_engine(("no such program",)) is None
    assert "Student code runs as you" in caplog.text
