"""Repair submitted notebooks whose locked cells were deleted, duplicated, split or lost their marks.

Reads the notebooks that students submitted and the released one. Puts each given and marked cell of the release back,
once and in its place, and keeps what the student has written; prints what it did to which notebook. The notebook as
it was stays beside, with the ending .before.
"""

import json
from pathlib import Path

from common import cli
from common.storage.artifacts import save_text

EXAMPLES = (
    "python -m notebook.repair artifacts/course/submitted/*/galaxies/*.ipynb --release artifacts/skeleton.ipynb",
)


def grade_id(cell):
    """Return the name by which nbgrader knows a cell, or None."""
    return cell.get("metadata", {}).get("nbgrader", {}).get("grade_id")


def is_locked(cell):
    """Return whether a cell is one that students must not change."""
    return cell.get("metadata", {}).get("nbgrader", {}).get("locked", False)


def text_of(cell):
    """Return the source of a cell as one text."""
    return "".join(cell["source"])


def repair(book, release):
    """Return the cells of a submitted notebook with those of the release in their places, and what was done, in words.

    Cells that are not of the release are the student's own and stay behind the cell that they follow, but for pieces
    of locked cells.
    """
    done, wanted = [], {grade_id(cell): cell for cell in release if grade_id(cell)}
    locked_text = "\n".join(text_of(cell) for cell in release if is_locked(cell))
    found, extras, last = {}, {}, None
    for cell in book:
        name = grade_id(cell)
        if name in wanted and name not in found:
            found[name] = cell
            last = name
        elif name in wanted and not is_locked(cell) and text_of(cell).strip() != text_of(found[name]).strip():
            found[name] = found[name] | {"source": f"{text_of(found[name])}\n{text_of(cell)}"}
            done.append(f"joined two cells {name}")
        elif name in wanted:
            done.append(f"removed a duplicate of {name}")
        elif text_of(cell).strip() and text_of(cell).strip() in locked_text:
            done.append(f"removed a piece of a locked cell behind {last or 'the beginning'}")
        else:
            extras.setdefault(last, []).append({**cell, "metadata": without_marks(cell["metadata"])})
    cells = list(extras.get(None, []))
    for cell in release:
        name = grade_id(cell)
        if name is None:
            cells.append(cell)
            continue
        if name not in found:
            done.append(f"put back {name}" + ("" if is_locked(cell) else ", empty"))
        elif is_locked(cell) and text_of(found[name]) != text_of(cell):
            done.append(f"restored {name}")
        theirs = found.get(name, cell)
        keep = cell if is_locked(cell) else cell | {"source": theirs["source"]}
        if "outputs" in theirs and "outputs" in keep:
            keep = keep | {"outputs": theirs["outputs"], "execution_count": theirs.get("execution_count")}
        cells += [keep, *extras.get(name, [])]
    return cells, done


def without_marks(metadata):
    """Return a cell's metadata without nbgrader's, which belong to another cell."""
    return {key: value for key, value in metadata.items() if key != "nbgrader"}


def main():
    args = get_args()
    release = json.loads(Path(args.release).read_text(encoding="utf-8"))["cells"]
    for path in map(Path, args.notebooks):
        text = path.read_text(encoding="utf-8")
        try:
            book = json.loads(text)
            cells, done = repair(book["cells"], release)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a notebook ({error}): ask for it again") from None
        if done:
            save_text(text, path.with_name(path.name + ".before"))
            save_text(json.dumps(book | {"cells": cells}, indent=1), path)
        print(f"{path}: {'; '.join(done) or 'nothing to repair'}.")


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    parser.add_argument("notebooks", nargs="+", metavar="IPYNB", help="submitted notebooks")
    parser.add_argument("--release", default="artifacts/skeleton.ipynb", metavar="IPYNB", help="the released notebook")
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
