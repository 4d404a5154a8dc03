"""Notebooks are run by the Python that builds them, whatever kernels Jupyter knows; and what goes wrong is said."""

import ast
import json
import os
import signal
import sys

import pytest

pytest.importorskip("jupytext", reason="pip install -r requirements-teaching.txt")

from common import cli
from common.galaxies.facts import CLASS_NAMES, DECALS_CLASS_NAMES
from course.build import execute, name_classes, new_notebook, read_cells

from forked import CONTEXT
from nbformat.v4 import new_code_cell


@pytest.fixture
def other_python(tmp_path, monkeypatch):
    """A kernel `python3`, as of another Python, that cannot start."""
    kernel = tmp_path / "share" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    arguments = ["/nowhere/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": arguments, "display_name": "Python 3"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))


def notebook_of(*sources):
    return new_notebook([new_code_cell(source, metadata={"title": f"cell {source[:6]}"}) for source in sources])


def test_the_kernel_is_this_python_whatever_kernel_python3_is(other_python, tmp_path):
    book = notebook_of("import sys\nprint(sys.executable)", "1 + 1")
    execute(book, tmp_path)
    first, second = book.cells
    assert first.outputs[0].text == f"{sys.executable}\n"
    assert second.outputs[0].data["text/plain"] == "2"
    assert [cell.execution_count for cell in book.cells] == [1, 2]
    assert book.metadata.language_info.name == "python"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("wrong = 1 / 0", "the cell 'cell wrong ' failed: ZeroDivisionError: division by zero"),
        ("import os\nos.kill(os.getpid(), 9)", "the cell 'cell import' was killed, perhaps for lack of memory"),
    ],
)
def test_a_cell_that_fails_is_named(source, sentence, tmp_path):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        execute(notebook_of("x = 1", source, "y = 1"), tmp_path)


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


@pytest.mark.parametrize("names", [CLASS_NAMES, DECALS_CLASS_NAMES, [f'"{n}" \\ é' for n in range(10)]])
def test_the_notebook_names_the_classes_as_the_file_does(names):
    book = new_notebook(read_cells("galaxies.py"))
    name_classes(book, names)
    [cell] = [cell for cell in book.cells if cell.metadata.get("title") == "class names"]
    assignment = ast.parse(cell.source).body[0]
    assert (assignment.targets[0].id, ast.literal_eval(assignment.value)) == ("CLASS_NAMES", list(names))
    if names is CLASS_NAMES:
        assert book == new_notebook(read_cells("galaxies.py"))
