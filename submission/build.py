"""Make the submission: one notebook that stands alone, run from top to bottom, and its HTML page.

Runs it in a folder of its own. Writes, under --out, submission.ipynb and submission.html.
"""

import json
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm import tqdm

from common import cli
from common.storage import artifacts
from submission.cells import notebook
from submission.discuss import whose_figures
from submission.page import page

EXAMPLES = (
    "python -m submission.build",
    "python -m submission.build --data Galaxy10.h5 --epochs 10",
)


def get_args(argv=None):
    parser = cli.Parser(__doc__, EXAMPLES)
    add, whole = parser.add_argument, cli.positive_int
    add("--data", metavar="PATH", help="a Galaxy10 HDF5 file; unset: see --source")
    add("--source", choices=("auto", "real", "synthetic"), default="auto", help="as q1_data.py takes it")
    add("--count", type=whole, metavar="N", help="images in a synthetic set; unset: as many as in Galaxy10 SDSS")
    add("--main-train", type=whole, metavar="N", help="training images of classes 0-7; unset: the assignment's")
    add("--transfer-train", type=whole, metavar="N", help="training images of 8 and 9; unset: the assignment's")
    add("--epochs", type=whole, metavar="N", help="of all three trainings; unset: the assignment's 50, 50 and 20")
    cli.add_out_and_seed(parser)
    return parser.parse_args(argv)


def execute(book, folder):
    """Run a notebook's cells in `folder`, with a progress bar. Raises ValueError that names the cell that failed."""
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
        client.execute()
    except CellExecutionError as error:
        raise ValueError(f"the notebook's cell '{running[-1]}' failed: {error.ename}: {error.evalue}") from None
    finally:
        bar.close()


def main():
    args = get_args()
    out = Path(args.out)
    data = None if args.data is None else str(Path(args.data).resolve())
    settings = {
        "DATA": data,
        "SOURCE": args.source,
        "COUNT": args.count,
        "MAIN_TRAIN": args.main_train,
        "TRANSFER_TRAIN": args.transfer_train,
        "EPOCHS": args.epochs,
        "SEED": args.seed,
    }
    book = notebook(settings)
    with tempfile.TemporaryDirectory(prefix="submission-") as folder:
        execute(book, folder)
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
