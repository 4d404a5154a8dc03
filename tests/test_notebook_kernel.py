"""Notebooks are run by the Python that builds them, whatever kernels Jupyter knows; and what goes wrong is said."""

import ast
import os
import signal
import sys

import pytest

pytest.importorskip("jupytext", reason="pip install -r requirements-teaching.txt")

from common import cli
from common.galaxies.facts import CLASS_NAMES
from course.build import execute, name_classes, new_notebook, read_cells

from forked import CONTEXT
from nbformat.v4 import new_code_cell


def notebook_of(*sources):
    return new_notebook([new_code_cell(source, metadata={"title": f"cell {source[:6]}"}) for source in sources])


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A notebook that was run until a cell failed, while Jupyter knows another `python3`, and the error."""
    folder = tmp_path_factory.mktemp("kernel")
    kernel = folder / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text('{"argv": ["/nowhere/python", "-m", "ipykernel_launcher"], "display_name": "Python 3"}')
    book = notebook_of("import sys\nprint(sys.executable)", "1 + 1", "1 / 0", "2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        with pytest.raises(ValueError, match="failed") as raised:
            execute(book, folder)
    return book, str(raised.value)


def test_the_kernel_is_this_python_whatever_kernel_python3_is(stopped):
    book, _ = stopped
    assert book.cells[0].outputs[0].text == f"{sys.executable}\n"
    assert book.cells[1].outputs[0].data["text/plain"] == "2"
    assert [cell.execution_count for cell in book.cells] == [1, 2, 3, None]
    assert book.metadata.language_info.name == "python"


def test_a_cell_that_fails_is_named(stopped):
    assert stopped[1] == "the cell 'cell 1 / 0' failed: ZeroDivisionError: division by zero"


def test_a_cell_that_is_killed_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^the cell 'cell import' was killed, perhaps for lack of memory$"):
        execute(notebook_of("import os\nos.kill(os.getpid(), 9)"), tmp_path)


def test_a_kernel_that_cannot_start_is_one_sentence(tmp_path, monkeypatch, capfd):
    (tmp_path / "ipykernel_launcher.py").write_text("raise ImportError('no zmq here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    sentence = f"^{sys.executable} -m ipykernel_launcher, to run the notebook, failed: ImportError: no zmq here$"
    with pytest.raises(ValueError, match=sentence):
        execute(notebook_of("1"), tmp_path)
    assert capfd.readouterr().err.count("\n") <= 1  # nbclient's own line


def wait_in_a_cell(folder):
    """In a new process: run a notebook that waits, as the command line would."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stderr = open(folder / "errors", "w")  # noqa: SIM115
    cli.run(lambda: execute(notebook_of("open('begun', 'w').close()\nimport time\ntime.sleep(100)"), folder))


def test_ctrl_c_ends_the_kernel_too_and_is_no_error(tmp_path):
    process = CONTEXT.Process(target=wait_in_a_cell, args=(tmp_path,))
    process.start()
    while not (tmp_path / "begun").exists():
        assert process.is_alive()
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    errors = (tmp_path / "errors").read_text()
    assert errors.startswith("interrupted")
    assert errors.count("\n") == 1


def test_the_notebook_names_the_classes_as_the_file_does():
    names = [f'"{number}" \\ é' for number in range(10)]
    book = new_notebook(read_cells("galaxies.py"))
    name_classes(book, names)
    [cell] = [cell for cell in book.cells if cell.metadata.get("title") == "class names"]
    assert ast.literal_eval(cell.source.removeprefix("CLASS_NAMES = ")) == names
    name_classes(book, CLASS_NAMES)
    assert book == new_notebook(read_cells("galaxies.py"))
