"""nbgrader's first steps with a submission: repair cells that were deleted, split, edited or moved.

Afterwards each cell of the release occurs once, in its place. The student's own text and code are kept, the submitted
file is left untouched, and a line at the end of autograde lists the repairs.
"""

from collections import defaultdict
from pathlib import Path

from course.notes import notes

import nbformat
from nbgrader.preprocessors import NbGraderPreprocessor, OverwriteCells


class Repair(NbGraderPreprocessor):
    """Repair a submission according to the release, in which teachers may change points, language and questions."""

    def preprocess(self, nb, resources):
        """Return the repaired notebook, and the resources unchanged."""
        names, coursedir = resources["nbgrader"], self.parent.parent.coursedir
        folder = coursedir.format_path(coursedir.release_directory, ".", names["assignment"])
        release = nbformat.read(Path(folder) / f"{names['notebook']}.ipynb", as_version=4)
        nb = nbformat.v4.upgrade(nb)  # to a version in which cells have ids
        nb.cells, done = repair(nb.cells, release.cells)
        nb.metadata.pop("widgets", None)  # Colab's have no state, and feedback and formgrader would fail
        for cell in nb.cells:
            if not any(map(cell.metadata.get("nbgrader", {}).get, ("locked", "solution", "grade", "task"))):
                cell.metadata.pop("nbgrader", None)  # such as the student's name, which nbgrader does not record
        if done:
            notes["Repaired"].append(f"{names['student']}: {in_words(done)}")
        return nb, resources


class RestoreTests(OverwriteCells):
    """Restore the hidden tests, without nbgrader's warning for each such cell."""

    def report_change(self, name, attr, old, new):
        """Print nothing: after the repair, cells differ only in hidden tests."""


def grade_id(cell):
    """Return nbgrader's id of a cell, or None."""
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def is_locked(cell):
    """Return whether students must not change a cell."""
    return cell.metadata.get("nbgrader", {}).get("locked", False)


def as_own(cell, **changes):
    """Return a cell without nbgrader's metadata, which belong to another cell."""
    metadata = {key: value for key, value in cell.metadata.items() if key != "nbgrader"}
    return nbformat.from_dict(cell | {"metadata": metadata} | changes)


def sort_cells(book, wanted):
    """Return the submitted cells by their ids in the release, the student's own cells, and the repairs.

    book: the submitted cells; wanted: the release's cells, by id. The student's own cells are lists by the id of the
    cell that they follow, None for the beginning. Repairs are a list of (action, cell id) pairs.
    """
    found, own, done, last = {}, {}, [], None
    by_text = {cell.source.strip(): name for name, cell in wanted.items() if is_locked(cell)}
    for cell in book:
        text, name = cell.source.strip(), grade_id(cell)
        if name not in wanted and text in by_text:
            name = by_text[text]
            done.append(("relabelled", name))
        if name not in wanted:
            before = wanted.get(last)
            was_cut = before and is_locked(before) and found[last].source.strip() != before.source.strip()
            if was_cut and text in before.source:
                done.append(("removed a fragment of", last))
            elif text:
                own.setdefault(last, []).append(as_own(cell))
        elif name not in found:
            found[name], last = cell, name
            original = wanted[name].source.strip()
            if is_locked(wanted[name]) and original in text and original != text:
                own[name] = [as_own(cell, source=text.replace(original, "").strip(), id=f"{name}-added")]
                done.append(("moved to a new cell the additions to", name))
        elif not is_locked(wanted[name]) and text and text != found[name].source.strip():
            found[name].source += f"\n{text}"
            done.append(("joined the pieces of", name))
        else:
            done.append(("removed a duplicate of", name))
    if list(found) != [name for name in wanted if name in found]:
        done.append(("reordered", "the cells"))
    return found, own, done


def repair(book, release):
    """Return a submitted notebook's cells with the release's cells in their places, and a list of the repairs.

    A cell that is not in the release is the student's own and stays after the cell that it follows; if a solution cell
    is missing there, it takes its place. Repairs are a list of (action, cell id) pairs.
    """
    wanted = {grade_id(cell): cell for cell in release if grade_id(cell)}
    found, own, done = sort_cells(book, wanted)
    cells, waiting = [], own.get(None, [])
    for name, cell in wanted.items():
        theirs = found.get(name)
        if theirs is None and not is_locked(cell) and waiting and waiting[0].cell_type == cell.cell_type:
            theirs = waiting.pop(0)
            done.append(("relabelled", name))
        else:
            cells, waiting = cells + waiting, []
            if theirs is None:
                done.append(("restored missing", name))
            elif is_locked(cell) and cell.source.strip() not in theirs.source:
                done.append(("restored edited", name))
        kept = nbformat.from_dict(cell)
        if theirs and not is_locked(cell):
            kept.source = theirs.source
        if theirs and "outputs" in cell and "outputs" in theirs:
            kept.outputs, kept.execution_count = theirs.outputs, theirs.get("execution_count")
        cells.append(kept)
        waiting = waiting + own.get(name, [])
    return cells + waiting, done


def in_words(done):
    """Return the repairs as text: each action with its cells or, for nine or more, their number and the first three."""
    names = defaultdict(list)
    for what, name in done:
        names[what].append(name)
    words = []
    for what, cells in names.items():
        some = f"{len(cells)} cells ({', '.join(cells[:3])}, …)"
        words.append(f"{what} {', '.join(cells) if len(cells) < 9 else some}")
    return "; ".join(words)
