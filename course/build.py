"""Build notebooks from galaxies.py and assignment.py: the submission, the students' skeleton, the nbgrader course.

submission: runs the notebook in a temporary folder, inserts a discussion of its results, and writes submission.ipynb
and submission.html. skeleton: writes skeleton.ipynb, without the solutions. course: writes course/, a course folder for
nbgrader's commands. Needs requirements-teaching.txt.
"""

import json
import os
import re
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from common import cli
from common.galaxies.download import PUBLISHED, fetch
from common.galaxies.facts import CLASS_NAMES, DECALS_SIZE
from common.galaxies.hdf5 import check_galaxy10
from common.galaxies.source import galaxies_file
from common.galaxies.synthetic import write_synthetic
from common.storage.artifacts import load_json, save_text
from course.discussion import discussions

from tqdm import tqdm

EXAMPLES = (
    "python -m course.build submission --data Galaxy10.h5",
    "python -m course.build skeleton",
    "python -m course.build course --out artifacts",
)
HERE = Path(__file__).parent
PACKAGES = ("jupytext", "nbformat", "nbclient", "nbconvert", "ipykernel", "nbgrader")
COLAB = {"accelerator": "GPU", "colab": {"provenance": [], "gpuType": "T4"}}
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
MARKING_MODULES = ("__init__", "isolation", "judge", "marking", "moodle", "notes", "repair", "watch")
MARKING_IMAGES = 1500, 20  # images in the synthetic file for grading, and the minimum per class
# On a phone long lines scroll instead of being cut off, and printed numbers do not break.
NARROW = (
    "<style>.jp-InputArea-editor pre { overflow-x: auto } "
    ".jp-OutputArea-output pre { white-space: pre; word-break: normal; overflow-x: auto }</style>"
)


def check_packages():
    """Raise ValueError, naming them, if packages are missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ValueError(f"notebooks need {', '.join(missing)}: pip install -r requirements-teaching.txt")


def read_cells(name):
    """Return the cells of a text notebook in this folder."""
    import jupytext

    return jupytext.read(HERE / name).cells


def new_notebook(cells):
    """Return a notebook of these cells, which requests a GPU on Colab."""
    import nbformat

    book = nbformat.v4.new_notebook(cells=cells, metadata=KERNEL | COLAB)
    for number, cell in enumerate(book.cells):
        cell["id"] = cell.metadata.get("nbgrader", {}).get("grade_id", f"cell-{number}")
        cell.metadata.pop("lines_to_next_cell", None)
    return book


def execute(book, folder, **environment):
    """Run a notebook's cells in `folder` with this Python and a progress bar.

    Raises ValueError, with the cell that failed or the reason why the kernel died.
    """
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    bar = tqdm(total=sum(cell.cell_type == "code" for cell in book.cells), unit="cell", desc="notebook", disable=None)

    def started(cell, **_):
        if cell.cell_type == "code":
            bar.set_postfix_str(cell.metadata.get("title", ""))

    client = NotebookClient(
        book,
        timeout=None,
        coalesce_streams=True,
        shutdown_kernel="immediate",
        resources={"metadata": {"path": str(folder)}},
        on_cell_start=started,
        on_cell_executed=lambda **_: bar.update(),
    )
    # Without kernel folders, the kernel is ipykernel's: this Python.
    client.km = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    environment |= {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    # Cell by cell, because client.execute catches Ctrl-C and fails with an AssertionError.
    with open(folder / "kernel.log", "w+", encoding="utf-8", errors="replace") as log, bar:
        try:
            with client.setup_kernel(env=os.environ | environment, stderr=log):
                information = client.wait_for_reply(client.kc.kernel_info())["content"]
                book.metadata["language_info"] = information["language_info"]
                for index, cell in enumerate(book.cells):
                    client.execute_cell(cell, index, execution_count=client.code_cells_executed + 1)
        except CellExecutionError as error:
            title = cell.metadata.get("title")
            raise ValueError(f"the cell '{title}' failed: {error.ename}: {error.evalue}") from None
        except DeadKernelError:
            title = cell.metadata.get("title")
            raise ValueError(f"the cell '{title}' was killed, perhaps for lack of memory") from None
        except RuntimeError as error:
            log.seek(0)
            reason = [str(error), *log.read().splitlines()][-1]
            raise ValueError(f"{sys.executable} -m ipykernel_launcher, to run the notebook, failed: {reason}") from None


def insert_discussions(book, results):
    """Insert the discussion of each question before the next heading, and the last ones at the end."""
    from nbformat.v4 import new_markdown_cell

    places = [place for place, cell in enumerate(book.cells) if cell.source.startswith("## Question")]
    places = [*places[1:], len(book.cells), len(book.cells)]
    for number, (place, text) in reversed(list(enumerate(zip(places, discussions(results), strict=True)))):
        book.cells.insert(place, new_markdown_cell(text, id=f"discussion-{number + 1}"))


def to_html(book):
    """Return a notebook as one HTML page without external resources, by nbconvert's default template."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(mathjax_url="", require_js_url="", jquery_url="", mermaid_js_url="")
    return exporter.from_notebook_node(book)[0].replace("</head>", f"{NARROW}</head>", 1)


def find_data(out):
    """Return the path of the data that `make data` used, according to q1_data.json in `out`.

    Galaxy10 is downloaded again if it is no longer in the cache. Raises FileNotFoundError without that record.
    """
    path = Path(out) / "q1_data.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: pass the Galaxy10 HDF5 file with --data (make: DATA=)")
    record = load_json(path)
    if record["source"] == "galaxy10-sdss" and not record["args"]["data"]:
        return fetch(record["args"]["cache"], PUBLISHED["sdss"])
    return galaxies_file(record, out)


def name_classes(book, names):
    """Replace Galaxy10 SDSS's class names in a notebook's cell `class names`."""
    [cell] = [cell for cell in book.cells if cell.metadata.get("title") == "class names"]
    lines = "".join(f"    {json.dumps(name, ensure_ascii=False)},\n" for name in names)
    cell.source = re.sub(r"(?<=CLASS_NAMES = \[\n).*?(?=\])", lambda _: lines, cell.source, count=1, flags=re.DOTALL)


def make_submission(out, data, epochs, seed):
    """Run the notebook on the file `data`; write submission.ipynb and submission.html into `out`.

    Raises OSError or ValueError if `check_galaxy10` refuses the file, it does not have ten classes, or its images have
    the size of Galaxy10 DECaLS.
    """
    import nbformat

    (names, size), book = check_galaxy10(data), new_notebook(read_cells("galaxies.py"))
    if len(names) != len(CLASS_NAMES):
        raise ValueError(f"{data}: has {len(names)} classes, but the notebook needs ten")
    if size == DECALS_SIZE:
        found = f"{data}: has pictures of {size} pixels, as Galaxy10 DECaLS"
        raise ValueError(f"{found}, but the notebook needs Galaxy10 SDSS: pass it with --data (make: DATA=)")
    name_classes(book, names)
    environment = {"GALAXY10_FILE": os.path.abspath(data), "GALAXY10_SEED": str(seed)}
    environment |= {"GALAXY10_EPOCHS": str(epochs)} if epochs else {}
    if plugins := sys.modules.get("hdf5plugin"):  # the file needs its filters
        environment["HDF5_PLUGIN_PATH"] = plugins.PLUGIN_PATH
    with tempfile.TemporaryDirectory() as folder:
        execute(book, Path(folder), **environment)
        results = json.loads((Path(folder) / "results.json").read_text())
    insert_discussions(book, results)
    book.metadata["title"] = f"Recognizing galaxies with deep neural networks · {results['data']}"
    for path, content in (("submission.ipynb", nbformat.writes(book)), ("submission.html", to_html(book))):
        save_text(content, Path(out) / path)
    print(f"{Path(out) / 'submission.ipynb'} and {Path(out) / 'submission.html'}")


def source_cells():
    """Return the cells of the assignment with solutions and tests, and with nbgrader's metadata."""
    solution = {cell.metadata["title"]: cell.source for cell in read_cells("galaxies.py") if "title" in cell.metadata}
    cells = []
    for number, cell in enumerate(read_cells("assignment.py")):
        options = dict(cell.metadata)
        cell.metadata.clear()
        grade = {"schema_version": 3, "task": False, "grade": False, "locked": True, "solution": False}
        name = next((options[key] for key in ("id", "given", "solution") if key in options), f"text {number}")
        grade["grade_id"] = re.sub(r"\W+", "_", name)
        if "open" in options:
            grade["locked"] = False
        elif "given" in options:
            cell.source = "\n".join(filter(None, (solution[options["given"]], cell.source)))
        elif "solution" in options:
            code = "\n\n\n".join(solution[title] for title in options["solution"].split(", "))
            cell.source = f"{cell.source}\n### BEGIN SOLUTION\n{code}\n### END SOLUTION"
            grade |= {"locked": False, "solution": True}
        elif "points" in options:
            text = cell.cell_type == "markdown"
            grade |= {"grade": True, "points": float(options["points"]), "locked": not text, "solution": text}
        cell.metadata["nbgrader"] = grade
        cells.append(cell)
    return cells


def make_skeleton(out):
    """Write skeleton.ipynb, the students' version of the assignment, to `out`."""
    import nbformat
    from nbgrader.preprocessors import ClearHiddenTests, ClearOutput, ClearSolutions, LockCells

    book = new_notebook(source_cells())
    clear = ClearSolutions(code_stub={"python": "# your code here"}, text_stub="Your answer here.")
    for preprocessor in (LockCells(), clear, ClearOutput(), ClearHiddenTests()):
        book, _ = preprocessor.preprocess(book, {})
    save_text(nbformat.writes(book), Path(out) / "skeleton.ipynb")
    print(Path(out) / "skeleton.ipynb")


def make_course(out, force=False):
    """Write course/ to `out`: nbgrader's configuration, the source notebook, and the data file for grading.

    Raises ValueError if the course exists, since a teacher may have changed it, unless `force` is given.
    """
    import nbformat

    course = Path(out) / "course"
    if course.exists() and not force:
        raise ValueError(f"{course} exists: --force replaces its source, settings and marking.h5, but no submissions")
    save_text(nbformat.writes(new_notebook(source_cells())), course / "source" / "galaxies" / "galaxies.ipynb")
    (course / "course").mkdir(exist_ok=True)
    for name in MARKING_MODULES:
        shutil.copy(HERE / f"{name}.py", course / "course")
    shutil.copy(HERE / "nbgrader_config.py", course)
    write_synthetic(course / "marking.h5", MARKING_IMAGES[0], 0, MARKING_IMAGES[1])
    print(f"{course}: next, cd there and run nbgrader generate_assignment galaxies (see docs/teaching.md)")


def main():
    args = get_args()
    check_packages()
    if args.make == "submission":
        make_submission(args.out, args.data or find_data(args.out), args.epochs, args.seed)
    elif args.make == "skeleton":
        make_skeleton(args.out)
    else:
        make_course(args.out, args.force)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    parser.add_argument("make", choices=("submission", "skeleton", "course"), help="what to build")
    help = "Galaxy10 HDF5 file to run the submission on; unset: the file recorded in q1_data.json under --out"
    parser.add_argument("--data", type=cli.path, metavar="PATH", help=help)
    help = "epochs of all three training runs of the submission; unset: the assignment's 50, 50 and 20"
    parser.add_argument("--epochs", type=cli.positive_int, metavar="N", help=help)
    parser.add_argument("--force", action="store_true", help="replace an existing course")
    cli.add_out_and_seed(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
