"""The repair of notebooks whose locked cells students have deleted, duplicated, split, edited, moved or unmarked."""

import copy

import pytest

pytest.importorskip("jupytext", reason="pip install -r requirements-teaching.txt")
pytest.importorskip("nbgrader", reason="pip install -r requirements-teaching.txt")

from course.build import make_skeleton
from course.repair import in_words, repair

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell


@pytest.fixture(scope="module")
def skeleton(tmp_path_factory):
    """The cells of the released notebook."""
    folder = tmp_path_factory.mktemp("release")
    make_skeleton(folder)
    return nbformat.read(folder / "skeleton.ipynb", as_version=4).cells


@pytest.fixture
def release(skeleton):
    """A copy of them, with a cell that a teacher has added."""
    return [*copy.deepcopy(skeleton), new_markdown_cell("## Question 6")]


@pytest.fixture
def book(release):
    """The cells of a notebook in which every solution is written."""
    book = copy.deepcopy(release)
    for cell in book[:-1]:
        if cell.metadata.nbgrader.solution:
            cell.source = f"my answer to {cell.metadata.nbgrader.grade_id}"
    return book


def place(cells, name):
    return next(i for i, cell in enumerate(cells) if cell.metadata.get("nbgrader", {}).get("grade_id") == name)


def texts(cells):
    return [cell.source for cell in cells]


def split(cells, i):  # as JupyterLab does: the second part has the marks too
    cells.insert(i + 1, copy.deepcopy(cells[i]))
    cells[i].source, cells[i + 1].source = cells[i].source[:40], cells[i].source[40:]


def split_without_marks(cells, i):  # as Colab does: the second part has none
    split(cells, i)
    cells[i + 1].metadata = {}


def unmark(cells, i):
    for cell in cells:
        cell.metadata = {}


# What is done to the notebook's cells, and to one of them; and what the repair says.
DAMAGES = {
    "deleted": (lambda cells, i: cells.pop(i), "restored missing q1_labels"),
    "duplicated": (lambda cells, i: cells.insert(i + 3, copy.deepcopy(cells[i])), "removed a duplicate of q1_labels"),
    "split": (split, "removed a duplicate of q1_labels; restored edited q1_labels"),
    "split, without marks": (split_without_marks, "removed a fragment of q1_labels; restored edited q1_labels"),
    "edited": (lambda cells, i: cells[i].update(source="# points please"), "restored edited q1_labels"),
    "moved": (lambda cells, i: cells.insert(0, cells.pop(i)), "reordered the cells"),
    "without any mark": (unmark, "relabelled"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_cells_are_as_released_again_and_the_solutions_are_kept(name, book, release):
    expected, (damage, words) = copy.deepcopy(book), DAMAGES[name]
    damage(book, place(book, "q1_labels"))
    cells, done = repair(book, release)
    assert in_words(done).startswith(words)
    assert texts(cells) == texts(expected)
    assert [cell.metadata for cell in cells] == [cell.metadata for cell in release]


def test_cells_are_named_or_of_many_three_and_their_number():
    done = [("restored edited", name) for name in "abcdefghi"]
    assert in_words(done[:3]) == "restored edited a, b, c"
    assert in_words([*done, ("relabelled", "z")]) == "restored edited 9 cells (a, b, c, …); relabelled z"


def test_an_unchanged_notebook_is_left_alone(book, release):
    cells, done = repair(copy.deepcopy(book), release)
    assert cells == book
    assert done == []


def test_a_teachers_points_match_the_release(book, release):
    release[place(release, "q1_labels")].metadata.nbgrader.points = 2.0
    cells, _ = repair(book, release)
    assert cells[place(cells, "q1_labels")].metadata.nbgrader.points == 2


def test_what_students_add_stays_where_it_was_and_is_no_part_of_a_locked_cell(book, release):
    book.insert(place(book, "q1_labels") + 1, new_code_cell("labels"))  # a word of many a locked cell
    book[place(book, "settings")].source += "\n\nEPOCHS = 3"
    cells, done = repair(book, release)
    assert texts(cells)[place(cells, "q1_labels") + 1] == "labels"
    assert texts(cells)[place(cells, "settings") + 1] == "EPOCHS = 3"
    assert done == [("moved to a new cell the additions to", "settings")]


def test_a_solution_in_two_cells_is_joined_and_one_in_a_cell_without_mark_gets_it(book, release):
    i = place(book, "download_read")
    second = nbformat.from_dict(book[i] | {"source": "second"})
    joined, _ = repair([*book[: i + 1], second, *book[i + 1 :]], release)
    assert texts(joined)[i] == "my answer to download_read\nsecond"
    marked, done = repair([*book[:i], new_code_cell("mine"), *book[i + 1 :]], release)
    assert texts(marked)[i] == "mine"
    assert marked[i].metadata == release[i].metadata
    assert done == [("relabelled", "download_read")]
    text = place(book, "q1_text")
    marked, _ = repair([*book[:text], new_markdown_cell("my text"), *book[text + 1 :]], release)
    assert texts(marked)[text] == "my text"
