"""Make the submission: one notebook that stands alone, run from top to bottom, and its HTML page.

Runs it in a folder of its own. Writes, under --out, submission.ipynb and submission.html.
"""

import json
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import pooch
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm import tqdm

from common import cli
from common.galaxies import download
from common.galaxies.split import SPLITS
from common.storage import artifacts
from submission.cells import notebook
from submission.discuss import whose_figures
from submission.page import page
from submission.source import ROOT

EXAMPLES = (
    "python -m submission.build",
    "python -m submission.build --data Galaxy10.h5 --epochs 10",
)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add, whole = parser.add_argument, cli.positive_int
    add("--data", metavar="PATH", help="a Galaxy10 HDF5 file; unset: see --source")
    add("--source", choices=("auto", "real", "synthetic"), default="auto", help="auto: real if it can be downloaded")
    add("--dataset", choices=("sdss", "decals"), default="sdss", help="which real dataset to download")
    add("--count", type=whole, metavar="N", help="images in a synthetic set; unset: as many as in Galaxy10 SDSS")
    add("--image-size", type=whole, metavar="PIXELS", help="side that images are resized to; unset: 69")
    add("--main-train", type=whole, metavar="N", help="training images of classes 0-7; unset: the assignment's")
    add("--transfer-train", type=whole, metavar="N", help="training images of 8 and 9; unset: the assignment's")
    add("--split", choices=tuple(SPLITS), default="stratified", help="by class and seed, or the file's order")
    add("--epochs", type=whole, metavar="N", help="of all three trainings; unset: the assignment's 50, 50 and 20")
    add("--precision", choices=("float32", "bf16"), default="float32", help="of the trainings")
    cli.add_out_and_seed(parser)
    cli.add_device(parser)
    args = parser.parse_args(argv)
    if args.data and args.source != "auto":
        parser.error(f"--data {args.data} and --source {args.source} are mutually exclusive")
    return args


def settings_of(args):
    """Return the values of the notebook's settings cell: of the data file its name and checksum, not its path."""
    names = ("source", "dataset", "count", "split", "image_size", "main_train", "transfer_train", "epochs", "seed")
    settings = {name.upper(): getattr(args, name) for name in (*names, "device", "precision")}
    data = {"DATA_FILE": None, "DATA_SHA256": None}
    if args.data:
        data = {"DATA_FILE": Path(args.data).name, "DATA_SHA256": pooch.file_hash(args.data)}
    return data | settings


def execute(book, folder, data=None):
    """Run a notebook's cells in `folder`, with a progress bar; data: the path of its data file, if it lies elsewhere.

    Raises ValueError that names the cell that failed.
    """
    environment = {name: value for name, value in os.environ.items() if name != "GALAXY10_FILE"}
    if data is not None:
        environment["GALAXY10_FILE"] = os.path.abspath(data)  # with links unresolved, it keeps its name
    code_cells = [cell for cell in book.cells if cell.cell_type == "code"]
    bar = tqdm(total=len(code_cells), unit="cell", desc="notebook")
    running = []

    def started(cell, cell_index):
        running.append(cell.metadata["name"])
        bar.set_postfix_str(cell.metadata["name"])

    client = NotebookClient(
        book,
        timeout=None,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
        on_cell_start=lambda cell, cell_index: started(cell, cell_index) if cell.cell_type == "code" else None,
        on_cell_executed=lambda cell, cell_index, execute_reply: bar.update(),
    )
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        raise ValueError(f"the notebook's cell '{running[-1]}' failed: {error.ename}: {error.evalue}") from None
    finally:
        bar.close()


def without_paths(text, folder, data=None):
    """Return text in which no path tells where on this machine the notebook was run.

    The data file keeps its name. Of other paths the part is replaced that leads to the folder of the run, to the data,
    the downloads, the project, Python or the user's home.
    """
    places = {folder: ".", download.default_cache(): "CACHE", ROOT: "PROJECT", sys.prefix: "PYTHON", Path.home(): "~"}
    if data is not None:
        places |= {Path(data).absolute().parent: "DATA", Path(data).absolute(): Path(data).name}
    places |= {Path(place).resolve(): short for place, short in places.items()}
    shorts = {str(place): short for place, short in places.items() if Path(place).name}  # never the root folder
    for place in sorted(shorts, key=len, reverse=True):
        text = re.sub(rf"(?<![\w.]){re.escape(place)}(?![\w-])", lambda match: shorts[match[0]], text)
    return text


def remove_paths(book, folder, data=None):
    """Apply `without_paths` to all text that the cells have printed or shown; pictures are left untouched."""
    for output in (output for cell in book.cells for output in cell.get("outputs", ())):
        if "text" in output:
            output.text = without_paths(output.text, folder, data)
        for kind in [kind for kind in output.get("data", {}) if kind.startswith("text/")]:
            output.data[kind] = without_paths(output.data[kind], folder, data)


def main():
    args = get_args()
    out = Path(args.out)
    book = notebook(settings_of(args))
    with tempfile.TemporaryDirectory(prefix="submission-") as folder:
        execute(book, folder, args.data)
        remove_paths(book, folder, args.data)
        results = Path(folder) / "results"
        records = {
            name: json.loads((results / f"{name}.json").read_text()) for name in ("q2_fcn", "q3_cnn", "q5_transfer")
        }
    book.cells[0].source += f"\n\nAs handed in. {whose_figures(records['q2_fcn'])}"
    artifacts.save_text(nbformat.writes(book), out / "submission.ipynb")
    artifacts.save_text(page(book, records), out / "submission.html")
    print(f"{out / 'submission.ipynb'} and {out / 'submission.html'}")


if __name__ == "__main__":
    cli.run(main)
