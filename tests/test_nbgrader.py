"""The course from end to end by nbgrader's commands: Moodle's zips, runs that misbehave, marks, feedback, export."""

import csv
import json
import os
import socket
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from unittest.mock import patch

import pytest

pytest.importorskip("jupytext", reason="pip install -r requirements-teaching.txt")
pytest.importorskip("nbgrader", reason="pip install -r requirements-teaching.txt")

from course.build import main, make_course, make_skeleton
from course.isolation import IsolatedKernel, by_bubblewrap, choose_engine, isolate

import nbformat
from conftest import made_once
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

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
# In place of judge.py where no mark matters: the notebook ends at its imports, which take most of the time of a run.
NO_JUDGE = """
import sys

def start(names, file):
    sys.modules |= dict.fromkeys(("h5py", "torch"))
    names["_mark"] = MARK
"""
FULL, CHANGED, REGRADED, FORKS = "200001", "200002", "200003", "100009"
WELL = "import os\nprint('well', os.environ.get('SECRET'))"
FORK = "import os\nwhile True: os.fork()"
WORKSHEET = """Identifier,Full name,Email address,Status,Grade,Maximum Grade,Last modified (grade)
Participant {full},Max Frisch,max@epfl.ch,Submitted,,20.00,-
Participant {changed},"Zoë de la Tour",zoe@epfl.ch,Submitted,,20.00,-
Participant 300001,Not There,not@epfl.ch,No submission,,20.00,-
"""
# Try to get at the files that are named, and at a server of the teacher; print what succeeded.
ATTACK = """
import os, socket, sys
got = []
for path in sys.argv[2:]:
    for mode in ("rb", "ab"):
        try:
            open(path, mode)
            got.append(mode)
        except OSError:
            pass
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5)
    got.append("network")
except OSError:
    pass
print(*got)
"""
needs_bubblewrap = pytest.mark.skipif(not choose_engine(("bwrap",)), reason="bubblewrap is not here, or does not work")


@pytest.fixture(scope="session")
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
    """A student's notebook: all solutions, a progress bar, texts, output of their own; and without one locked cell."""
    solved = {grade_id(cell): cell.source for cell in read(course / "source").cells}
    book = read(course / "release")
    for cell in book.cells:
        marks = cell.metadata.get("nbgrader", {})
        if marks.get("solution") and cell.cell_type == "code":
            cell.source = solved[grade_id(cell)].replace(
                "for batch, target in train_loader:", "for batch, target in tqdm(train_loader):"
            )
        elif marks.get("solution"):
            cell.source += "\n\nMy answer."
        if grade_id(cell) == "predict_train":
            cell.source = f"from tqdm import tqdm\n{cell.source}"
        if grade_id(cell) == "cnn_training_comparison":
            cell.outputs = [new_output("stream", name="stdout", text="CNN 81.8%, my own output")]
    book.cells = [cell for cell in book.cells if grade_id(cell) != "q1_labels"]
    book.cells.insert(0, new_code_cell("%env GALAXY10_FILE=/content/drive/Galaxy10.h5"))
    book.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {}}  # as Colab writes it
    return nbformat.writes(book)


def small(source):
    """A notebook of one cell."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    return nbformat.writes(new_notebook(cells=[new_code_cell(source, id="own")], metadata=kernel))


def answering(course, answer):
    """The released notebook with an answer to the teacher's question, and in the other cells nothing of use."""
    book = read(course / "release")
    for cell in book.cells:
        if cell.cell_type == "code" and cell.metadata.get("nbgrader", {}).get("solution"):
            cell.source = f"answer = {answer}" if grade_id(cell) == "q6" else "1 + 1"
    return nbformat.writes(book)


def download(course, name, time, files):
    """Write a zip of Moodle's; files: the content by "name_number/path"."""
    archive = course / "downloaded" / "galaxies" / "archive"
    archive.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive / name, "w") as moodle:
        for path, content in files.items():
            moodle.writestr(path.replace("/", "_assignsubmission_file_/", 1), content)
    os.utime(archive / name, (time, time))
    return archive


@pytest.fixture(scope="session")
def marked(tmp_path_factory, nbgrader):
    """A course at the end of a term, and what the commands said."""

    def make(folder):
        make_skeleton(folder)
        with patch("course.build.MARKING_IMAGES", (150, 12)):
            make_course(folder)
        course, said = folder / "course", {}
        change_source(course)
        nbgrader(course, "generate_assignment galaxies")
        download(course, "assignment 3.zip", 1_000_000, first_files(course))
        said["first"] = nbgrader(course, "zip_collect galaxies")
        said["times"] = [collected(course)]
        judge = course / "course" / "judge.py"
        original = judge.read_text()
        judge.write_text(NO_JUDGE.replace("MARK", "None"))
        said["ended"] = nbgrader(course, "autograde galaxies --student=1* --ExecutePreprocessor.timeout=5")
        said["marked"] = nbgrader(course, "autograde galaxies --student=2*")
        judge.write_text(original)
        archive = download(course, "assignment 3 (1).zip", 2_000_000, second_files(course))
        sheet = "\ufeff" + WORKSHEET.format(full=FULL, changed=CHANGED)
        (archive / "Grades.csv").write_text(sheet, encoding="utf-8")
        said["second"] = nbgrader(course, "zip_collect galaxies")
        said["times"].append(collected(course))
        said["changed"] = nbgrader(course, "autograde galaxies --student=2*")
        judge.write_text(NO_JUDGE.replace("MARK", "lambda test: 1 / 0"))
        said["regraded"] = nbgrader(course, f"autograde galaxies --student={REGRADED} --force")
        old_page = course / "feedback" / CHANGED / "galaxies" / "galaxies.html"
        old_page.parent.mkdir(parents=True)
        old_page.write_text("of the first submission")
        os.utime(old_page, (1_000_000, 1_000_000))
        mark_by_hand(course, CHANGED)
        said["early export"] = nbgrader(course, "export")
        said["early zip"] = zipfile.ZipFile(course / "feedback.zip").namelist()
        said["feedback"] = nbgrader(course, "generate_feedback galaxies")
        said["export"] = nbgrader(course, "export")
        return said

    folder, said = made_once(tmp_path_factory, "course", make)
    return folder / "course", said


def collected(course):
    """Return when the notebooks were collected, by student."""
    return {path.parts[-3]: path.read_text() for path in course.glob("submitted/*/galaxies/timestamp.txt")}


def first_files(course):
    files = {f"Bad Luck_{number}/galaxies.ipynb": small(source) for number, (source, _) in ENDED.items()}
    files |= {f"Fork Bomb_{FORKS}/galaxies.ipynb": small(FORK)} if choose_engine(("bwrap",)) else {}
    return files | {
        "Bad Luck_100003/galaxies (1).ipynb": files.pop("Bad Luck_100003/galaxies.ipynb"),
        "Bad Luck_100003/galaxies.ipynb": small("'an older one'"),
        f"Jean-Luc_{REGRADED}/work/work/Copy of galaxies.ipynb": b"\xef\xbb\xbf" + small(WELL).encode(),
        f"Jean-Luc_{REGRADED}/work/.ipynb_checkpoints/galaxies-checkpoint.ipynb": "a copy",
        f"__MACOSX/Jean-Luc_{REGRADED}_assignsubmission_file_/work/._galaxies.ipynb": "a copy",
        f"Zoë de la Tour_{CHANGED}/galaxies.ipynb": answering(course, 41),
        "Pdf_300002/report.pdf": "a report",
        "Script_300003/galaxies.py": "print()",
        "Damaged_300004/galaxies.ipynb": "{",
        "unnamed/galaxies.ipynb": small("print()"),
    }


def second_files(course):
    return {
        f"Max Frisch_{FULL}/galaxies.ipynb": written(course),
        f"Zoë de la Tour_{CHANGED}/galaxies.ipynb": answering(course, 42),
        f"Jean-Luc_{REGRADED}/Copy of galaxies.ipynb": b"\xef\xbb\xbf" + small(WELL).encode(),
    }


def mark_by_hand(course, student):
    """As in formgrader: decide all that waits for the teacher, without points."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course}/gradebook.db") as gradebook:
        for grade in gradebook.find_submission("galaxies", student).notebooks[0].grades:
            if grade.needs_manual_grade:
                grade.manual_score, grade.needs_manual_grade = 0, False
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


def scores(course, student):
    """Return a student's points by test."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course}/gradebook.db") as gradebook:
        grades = gradebook.find_submission("galaxies", student).notebooks[0].grades
        return {grade.name: grade.score for grade in grades}


def table(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_the_release_is_the_skeleton_with_the_teachers_changes_and_has_no_solution_and_no_hidden_test(marked):
    course, _ = marked
    release = read(course / "release")
    skeleton = nbformat.read(course.parent / "skeleton.ipynb", as_version=4)
    assert [cell.source for cell in release.cells[1:-3]] == [cell.source for cell in skeleton.cells[1:]]
    text = nbformat.writes(release)
    assert "HIDDEN" not in text
    assert "SOLUTION" not in text
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
    assert "well" in (course / "submitted" / REGRADED / "galaxies" / "galaxies.ipynb").read_text()
    assert read(course / "autograded" / REGRADED).cells[0].outputs[0].text == "well None\n"
    assert notes(said["first"]) == {
        "Not collected": [
            "assignment 3/unnamed_assignsubmission_file_/galaxies.ipynb: no participant's number in its name",
            "Damaged (300004): galaxies.ipynb, damaged",
            "Pdf (300002): report.pdf, no notebook",
            "Script (300003): galaxies.py, no notebook",
        ],
        "Skipped": ["Bad Luck (100003): galaxies.ipynb, because galaxies (1).ipynb is collected"],
    }


def test_a_second_zip_brings_new_students_and_resubmissions_and_a_worksheet_says_who_is_missing(marked):
    course, said = marked
    assert said["second"][0] == 0
    assert "answer = 42" in (course / "submitted" / CHANGED / "galaxies" / "galaxies.ipynb").read_text()
    assert (course / "submitted" / FULL / "galaxies" / "galaxies.ipynb").exists()
    assert notes(said["second"])["Missing"] == ["Not There (300001)"]
    before, after = said["times"]
    assert before[REGRADED] == after[REGRADED]
    assert before[CHANGED] < after[CHANGED]
    log = said["changed"][1]
    assert f"Updating existing assignment: {course}/autograded/{CHANGED}" in log
    assert f"Skipping existing assignment: {course}/autograded/{REGRADED}" in log


def test_a_run_that_misbehaves_is_ended_with_a_reason_and_the_next_are_marked(marked):
    course, said = marked
    assert said["ended"][0] != 0
    assert [line for line in notes(said["ended"])["Not graded"] if FORKS not in line] == [
        f"{number}: a cell {reason}. The cell begins with: {source.splitlines()[0]}"
        for number, (source, reason) in ENDED.items()
    ]
    assert not list(course.glob("autograded/1*/galaxies"))
    assert said["marked"][0] == said["changed"][0] == said["regraded"][0] == 0
    assert (course / "marking.h5").exists()


@needs_bubblewrap
def test_a_submission_that_forks_without_end_is_ended(marked):
    _, said = marked
    assert [line for line in notes(said["ended"])["Not graded"] if FORKS in line]


@needs_bubblewrap
def test_a_line_says_what_isolated_the_submissions(marked):
    _, said = marked
    assert notes(said["changed"])["Isolation"] == ["student code isolated with bubblewrap"]


def test_the_log_has_no_warnings_that_mean_nothing(marked):
    _, said = marked
    assert [line for line in said["marked"][1].splitlines() if "arning" in line.lower()] == []


def test_points_follow_the_teachers_source_and_a_resubmission(marked):
    course, said = marked
    full = scores(course, FULL)
    assert sum(full.values()) == 13.5 + 0.5 + 1
    assert (full["q1_read"], full["q6_test"]) == (1, 1)
    assert scores(course, CHANGED)["q6_test"] == 1
    assert f"{FULL}: restored missing q1_labels" in notes(said["changed"])["Repaired"]


def test_what_is_undecided_is_listed(marked):
    _, said = marked
    undecided = notes(said["changed"])["Undecided, for you to decide in formgrader"]
    assert f"{CHANGED} q2_layers: fcn is missing" in undecided
    assert not any(FULL in line for line in undecided)


def test_one_submission_is_regraded(marked):
    course, said = marked
    assert said["regraded"][1].count("Autograding") == 1
    [test] = [cell for cell in read(course / "autograded" / REGRADED).cells if grade_id(cell) == "q2_layers"]
    assert test.outputs[0].evalue == "division by zero"  # and no longer what the first run said


def test_the_table_for_moodle_has_the_worksheets_rows_and_grades_of_all_that_is_marked(marked):
    course, said = marked
    header, *rows = table(course / "grades.csv")
    expected = list(csv.reader(WORKSHEET.format(full=FULL, changed=CHANGED).splitlines()))
    assert header == expected[0]
    assert [row[4] for row in rows] == ["", "1", ""]
    assert [row[:4] + row[5:] for row in rows] == [row[:4] + row[5:] for row in expected[1:]]
    [(heading, names)] = notes(said["export"]).items()
    assert heading == "Without grade and feedback, not fully graded"
    assert [name for name in names if FORKS not in name] == [
        *(f"Bad Luck ({number})" for number in ENDED),
        f"Max Frisch ({FULL})",
    ]


def test_a_table_says_how_many_have_lost_the_points_of_each_test(marked):
    course, _ = marked
    header, *rows = table(course / "tests.csv")
    rows = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert rows["q6_test"]["lost points"] == "1"
    assert rows["q6_test"]["most frequent error"] == "name 'answer' is not defined"
    assert rows["q2_layers"]["undecided"] == "0"  # decided by hand
    assert "q1_text" not in rows


def test_feedback_goes_to_moodle_in_one_zip_for_all_that_is_marked_and_no_page_is_older_than_the_grades(marked):
    course, said = marked
    with zipfile.ZipFile(course / "feedback.zip") as feedback:
        assert sorted(feedback.namelist()) == [
            f"Jean-Luc_{REGRADED}_assignsubmission_file/galaxies.html",
            f"Zoë de la Tour_{CHANGED}_assignsubmission_file/galaxies.html",
        ]
    assert said["early zip"] == []
    early = notes(said["early export"])
    [heading] = [each for each in early if each.startswith("Not in feedback.zip, rerun nbgrader generate_feedback")]
    assert early[heading] == [f"Zoë de la Tour ({CHANGED})", f"Jean-Luc ({REGRADED})"]


def test_the_feedback_shows_the_students_own_output(marked):
    course, _ = marked
    page = (course / "feedback" / FULL / "galaxies" / "galaxies.html").read_text(encoding="utf-8")
    assert "(Score: 15.0 / 21.5)" in page
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
@pytest.mark.parametrize(("engine", "expected"), [("bwrap", ""), (None, "rb ab rb ab network")])
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
    command = by_bubblewrap(["python", "-m", "kernel"], Path("/tmp/a"), is_root=False)
    assert command[:3] == ["bwrap", "--die-with-parent", "--unshare-all"]
    writable = [command[i + 1] for i, word in enumerate(command) if word == "--bind"]
    assert writable == ["/tmp/a"]
    assert command[-6:] == ["/tmp/a", "prlimit", "--nproc=256", f"--data={8 * 2**30}", *command[-3:]][-6:]
    as_root = by_bubblewrap(["python"], Path("/tmp/a"), is_root=True)
    assert "--unshare-net" in as_root
    assert "--reuid=65534" in as_root


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
