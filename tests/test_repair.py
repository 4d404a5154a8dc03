"""The repair of notebooks whose locked cells students have deleted, duplicated, split, edited, moved or unmarked."""

import copy
import json

import pytest

pytest.importorskip("jupytext", reason="pip install -r requirements-teaching.txt")
pytest.importorskip("nbgrader", reason="pip install -r requirements-teaching.txt")

from course.build import make_skeleton
from course.repair import repair

import nbformat
from conftest import error_of, run, run_well


@pytest.fixture(scope="module")
def skeleton(tmp_path_factory):
    """The path of the released notebook."""
    folder = tmp_path_factory.mktemp("release")
    make_skeleton(folder)
    return folder / "skeleton.ipynb"


@pytest.fixture
def release(skeleton):
    """The cells of the released notebook."""
    return json.loads(skeleton.read_text())["cells"]


@pytest.fixture
def book(release):
    """The cells of a notebook in which every solution is written."""
    book = copy.deepcopy(release)
    for cell in book:
        if cell["metadata"]["nbgrader"]["solution"]:
            cell["source"] = f"my answer to {cell['metadata']['nbgrader']['grade_id']}"
    return book


def place(cells, name):
    return next(i for i, cell in enumerate(cells) if cell["metadata"].get("nbgrader", {}).get("grade_id") == name)


def texts(cells):
    return ["".join(cell["source"]) for cell in cells]


def own(text, kind="code"):
    cell = {"cell_type": kind, "metadata": {}, "source": text, "id": "own"}
    return cell | ({"outputs": [], "execution_count": None} if kind == "code" else {})


def delete(cells):
    del cells[place(cells, "q1_labels")]


def duplicate(cells):
    cells.insert(place(cells, "q1_labels") + 3, copy.deepcopy(cells[place(cells, "q1_labels")]))


def split(cells):  # as JupyterLab does: the second part has the marks too
    i = place(cells, "q1_check")
    first, second = copy.deepcopy(cells[i]), copy.deepcopy(cells[i])
    first["source"], second["source"] = cells[i]["source"][:9], cells[i]["source"][9:]
    cells[i : i + 1] = [first, second]


def split_without_marks(cells):  # as Colab does: the second part has none
    split(cells)
    cells[place(cells, "q1_check") + 1]["metadata"] = {}


def edit(cells):
    cells[place(cells, "q1_labels")]["source"] = "# points please"


def move(cells):
    cells.insert(0, cells.pop(place(cells, "q1_labels")))


def unmark(cells):
    for cell in cells:
        cell["metadata"] = {}


DAMAGES = {
    "deleted": (delete, "put back q1_labels"),
    "duplicated": (duplicate, "removed a duplicate of q1_labels"),
    "split": (split, "removed a duplicate of q1_check; restored q1_check"),
    "split, without marks": (split_without_marks, "removed a piece of q1_check; restored q1_check"),
    "edited": (edit, "restored q1_labels"),
    "moved": (move, "put into order the cells"),
    "without any mark": (unmark, "marked again"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_cells_are_as_released_again_and_the_solutions_are_kept(damage, book, release, skeleton, tmp_path):
    expected, (damage, words) = copy.deepcopy(book), DAMAGES[damage]
    damage(book)
    notebook = json.loads(skeleton.read_text())
    path = tmp_path / "galaxies.ipynb"
    path.write_text(json.dumps(notebook | {"cells": book}))
    before = path.read_text()
    printed = run_well("course/repair.py", path, "--release", skeleton)
    assert printed.startswith(f"{path}: {words}")
    repaired = json.loads(path.read_text())
    assert texts(repaired["cells"]) == texts(expected)
    assert [cell["metadata"] for cell in repaired["cells"]] == [cell["metadata"] for cell in release]
    assert path.with_name("galaxies.ipynb.before").read_text() == before
    nbformat.validate(nbformat.from_dict(repaired))


def test_what_students_add_stays_where_it_was_and_is_no_part_of_a_locked_cell(book, release):
    book.insert(place(book, "q1_labels") + 1, own("labels"))  # a word of many a locked cell
    settings = book[place(book, "settings")]
    settings["source"] = [*settings["source"], "\n\nEPOCHS = 3"]
    cells, done = repair(book, release)
    assert texts(cells)[place(cells, "q1_labels") + 1] == "labels"
    assert texts(cells)[place(cells, "settings") + 1] == "EPOCHS = 3"
    assert done == [("moved into a cell of its own what was added to", "settings")]
    nbformat.validate(nbformat.from_dict({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}))


def test_a_solution_in_two_cells_is_joined_and_one_in_a_cell_without_mark_gets_it(book, release):
    name = next(
        cell["metadata"]["nbgrader"]["grade_id"] for cell in book[6:] if cell["metadata"]["nbgrader"]["solution"]
    )
    i = place(book, name)
    second = copy.deepcopy(book[i]) | {"source": "second"}
    joined, _ = repair([*book[: i + 1], second, *book[i + 1 :]], release)
    assert texts(joined)[i] == f"my answer to {name}\nsecond"
    marked, done = repair([*book[:i], own("mine"), *book[i + 1 :]], release)
    assert texts(marked)[i] == "mine"
    assert marked[i]["metadata"] == release[i]["metadata"]
    assert done == [("marked again", name)]
    text = place(book, "q1_text")
    marked, _ = repair([*book[:text], own("my text", "markdown"), *book[text + 1 :]], release)
    assert texts(marked)[text] == "my text"


def test_an_unchanged_notebook_and_one_of_colab_are_left_alone(skeleton, tmp_path):
    notebook = json.loads(skeleton.read_text())
    cells = [{key: value for key, value in cell.items() if key != "id"} for cell in notebook["cells"]]
    colab = tmp_path / "colab.ipynb"
    colab.write_text(json.dumps(notebook | {"cells": cells, "nbformat_minor": 0}))
    before = colab.read_text()
    printed = run_well("course/repair.py", skeleton, colab, "--release", skeleton)
    assert printed == f"{skeleton}: nothing to repair.\n{colab}: nothing to repair.\n"
    assert colab.read_text() == before
    colab.write_text(json.dumps(notebook | {"cells": cells[:20] + cells[21:], "nbformat_minor": 0}))
    run_well("course/repair.py", colab, "--release", skeleton)
    nbformat.validate(nbformat.read(colab, as_version=4))


def test_a_file_that_is_no_notebook_is_named_after_the_others_are_repaired(skeleton, book, tmp_path):
    damaged, good, old = tmp_path / "damaged.ipynb", tmp_path / "good.ipynb", tmp_path / "old.ipynb"
    damaged.write_bytes(b"\xff\x00 no notebook")
    old.write_text('{"nbformat": 3, "worksheets": []}')
    good.write_text(json.dumps(json.loads(skeleton.read_text()) | {"cells": book[1:]}))
    done = run("course/repair.py", damaged, good, old, "--release", skeleton)
    assert error_of(done) == f"error: {damaged}, {old}: not a notebook of nbformat 4; ask for it again"
    assert done.stdout == f"{good}: put back text_0.\n"
    assert damaged.read_bytes() == b"\xff\x00 no notebook"
    missing = run("course/repair.py", good, "--release", tmp_path / "release.ipynb")
    assert error_of(missing) == f"error: {tmp_path / 'release.ipynb'}: No such file or directory"
