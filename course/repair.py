"""Repair submitted notebooks whose locked cells were deleted, duplicated, split, edited, moved or lost their marks.

Reads the submitted notebooks and the released one. Restores each cell of the release, once and in its place, keeps what
the student has written, and prints what it changed in which notebook. The original stays beside it, as .before.
"""

import json
from pathlib import Path

from common import cli
from common.storage.artifacts import save_text

EXAMPLES = (
    "python -m course.repair artifacts/course/submitted/*/galaxies/*.ipynb",
    "python -m course.repair galaxies.ipynb --release artifacts/course/release/galaxies/galaxies.ipynb",
)


def grade_id(cell):
    """Return the name by which nbgrader knows a cell, or None."""
    return cell["metadata"].get("nbgrader", {}).get("grade_id")


def is_locked(cell):
    """Return whether a cell is one that students must not change."""
    return cell["metadata"].get("nbgrader", {}).get("locked", False)


def text_of(cell):
    """Return the source of a cell as one text."""
    return "".join(cell["source"]).strip()


def is_added_to(cell, original):
    """Return whether a cell has all the text of a locked one, and more."""
    return text_of(original) in text_of(cell) and text_of(cell) != text_of(original)


def as_own(cell, **changes):
    """Return a cell without nbgrader's marks, which belong to another one."""
    metadata = {key: value for key, value in cell["metadata"].items() if key != "nbgrader"}
    return cell | {"metadata": metadata} | changes


def sort_cells(book, wanted):
    """Return the submitted cells by their names in the release, the student's own ones, and what was done.

    book: the submitted cells; wanted: those of the release, by name. The own cells are in lists by the name of the cell
    that they follow, None for the beginning. What was done is a list of pairs, of what and with which cell.
    """
    found, own, done, last = {}, {}, [], None
    by_text = {text_of(cell): name for name, cell in wanted.items() if is_locked(cell)}
    for cell in book:
        text, name = text_of(cell), grade_id(cell)
        if name not in wanted and text in by_text:
            name = by_text[text]
            done.append(("marked again", name))
        if name not in wanted:
            before = wanted.get(last)
            if before and is_locked(before) and text_of(found[last]) != text_of(before) and text in text_of(before):
                done.append(("removed a piece of", last))
            elif text:
                own.setdefault(last, []).append(as_own(cell))
        elif name not in found:
            found[name], last = cell, name
            if is_locked(wanted[name]) and is_added_to(cell, wanted[name]):
                rest = text.replace(text_of(wanted[name]), "").strip()
                own[name] = [as_own(cell, source=rest, id=f"{name}-added")]
                done.append(("moved into a cell of its own what was added to", name))
        elif not is_locked(wanted[name]) and text and text != text_of(found[name]):
            found[name] = found[name] | {"source": f"{text_of(found[name])}\n{text}"}
            done.append(("joined the pieces of", name))
        else:
            done.append(("removed a duplicate of", name))
    if list(found) != [name for name in wanted if name in found]:
        done.append(("put into order", "the cells"))
    return found, own, done


def repair(book, release):
    """Return the cells of a submitted notebook with those of the release in their places, and what was done.

    A cell that is not of the release is the student's own and stays behind the cell that it follows; it becomes the
    cell of a solution that is missing there. What was done is a list of pairs, of what and with which cell.
    """
    wanted = {grade_id(cell): cell for cell in release}
    found, own, done = sort_cells(book, wanted)
    cells, waiting = [], own.get(None, [])
    for name, cell in wanted.items():
        theirs = found.get(name)
        if theirs is None and not is_locked(cell) and waiting and waiting[0]["cell_type"] == cell["cell_type"]:
            theirs = waiting.pop(0)
            done.append(("marked again", name))
        else:
            cells, waiting = cells + waiting, []
            if theirs is None:
                done.append(("put back", name))
            elif is_locked(cell) and text_of(cell) not in text_of(theirs):
                done.append(("restored", name))
        kept = cell if is_locked(cell) or theirs is None else cell | {"source": theirs["source"]}
        if theirs and "outputs" in cell and "outputs" in theirs:
            kept = kept | {"outputs": theirs["outputs"], "execution_count": theirs.get("execution_count")}
        cells.append(kept)
        waiting = waiting + own.get(name, [])
    return cells + waiting, done


def in_words(done):
    """Return what was done as text, each kind once with its cells."""
    kinds = dict.fromkeys(what for what, _ in done)
    return "; ".join(f"{kind} {', '.join(name for what, name in done if what == kind)}" for kind in kinds)


def main():
    args = get_args()
    release = json.loads(Path(args.release).read_text(encoding="utf-8"))["cells"]
    unreadable = []
    for path in map(Path, args.notebooks):
        try:
            text = path.read_text(encoding="utf-8")
            book = json.loads(text)
            cells, done = repair(book["cells"], release)
        except (ValueError, KeyError, TypeError, AttributeError):
            unreadable.append(str(path))
            continue
        if book.get("nbformat_minor", 0) < 5:  # ids of cells came with nbformat 4.5
            cells = [{key: value for key, value in cell.items() if key != "id"} for cell in cells]
        if done:
            save_text(text, path.with_name(path.name + ".before"))
            save_text(json.dumps(book | {"cells": cells}, indent=1, ensure_ascii=False) + "\n", path)
        print(f"{path}: {in_words(done) or 'nothing to repair'}.")
    if unreadable:
        raise ValueError(f"{', '.join(unreadable)}: not a notebook of nbformat 4; ask for it again")


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    parser.add_argument("notebooks", nargs="+", metavar="IPYNB", help="submitted notebooks")
    parser.add_argument("--release", default="artifacts/skeleton.ipynb", metavar="IPYNB", help="the released notebook")
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
