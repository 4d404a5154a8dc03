"""The notebook and its page, on a small synthetic set with two epochs."""

import subprocess
import sys

import nbformat
import pytest
from browser import CHROMIUM, look_at
from conftest import ROOT, error_of, run
from nbformat.v4 import new_notebook

from submission.build import execute
from submission.cells import QUESTIONS, code, notebook, packages
from submission.source import imported, needed

SETTINGS = {"DATA": None, "SOURCE": "synthetic", "COUNT": 500, "MAIN_TRAIN": None, "TRANSFER_TRAIN": None, "EPOCHS": 2,
            "SEED": 0}  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder that `make notebook` writes to, in which something else lies already."""
    out = tmp_path_factory.mktemp("submission")
    (out / "q2_fcn.json").write_text("of another run")
    small = ("--source", "synthetic", "--count", "500", "--epochs", "2")
    command = [sys.executable, "-m", "submission.build", *small, "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    return out


def test_only_the_notebook_and_the_page_are_written(built):
    assert {path.name for path in built.iterdir()} == {"submission.ipynb", "submission.html", "q2_fcn.json"}
    assert (built / "q2_fcn.json").read_text() == "of another run"


def test_every_cell_was_run_and_every_question_is_answered(built):
    book = nbformat.read(built / "submission.ipynb", as_version=4)
    nbformat.validate(book)
    assert "SYNTHETIC" in book.cells[0].source
    cells = {cell.metadata["name"]: cell for cell in book.cells if cell.cell_type == "code"}
    assert all(cell.execution_count for cell in cells.values())
    for script, *_, pictures, _ in QUESTIONS:
        assert cells[f"run {script}"].outputs
        shown = [output for output in cells[f"pictures of {script}"].outputs if "image/png" in output.get("data", {})]
        assert len(shown) == len(pictures)
        discussion = "".join(output["data"]["text/markdown"] for output in cells[f"discussion of {script}"].outputs)
        assert "SYNTHETIC" in discussion
        assert len(discussion) > 100


def test_the_code_in_the_cells_is_the_projects_own():
    cells = [cell for cell in notebook(SETTINGS).cells if cell.source.startswith("%%writefile ")]
    written = {}
    for cell in cells:
        first, _, source = cell.source.partition("\n")
        written[first.split()[1]] = source
    assert set(written) >= {script for script, *_ in QUESTIONS}
    for path, source in written.items():
        assert source == (ROOT / path).read_text().strip()
        position = list(written).index(path)
        assert all(file in list(written)[:position] for file in imported(path))  # what is used comes before


def test_needed_files_come_in_the_order_they_are_needed():
    files = needed("q5_transfer.py")
    assert files.index("common/data.py") < files.index("common/train.py")
    assert len(files) == len(set(files))


def test_packages_are_those_of_requirements():
    assert packages()["sklearn"].startswith("scikit-learn>=")
    assert packages()["torch"].startswith("torch>=")


def test_a_failing_cell_is_named_with_its_error(tmp_path):
    book = new_notebook(cells=[code("x = 1", "first"), code("raise KeyError('no such star')", "second")])
    with pytest.raises(ValueError, match="cell 'second' failed: KeyError: 'no such star'"):
        execute(book, tmp_path)


def test_an_error_leaves_no_half_written_notebook(tmp_path, monkeypatch):
    (tmp_path / "bad.h5").write_text("no galaxies")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    error = error_of(run("submission/build.py", "--data", tmp_path / "bad.h5", "--out", tmp_path / "out"))
    assert "cell 'run q1_data.py' failed" in error
    assert "no HDF5 file" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(built, tmp_path, width):
    page = tmp_path / "submission.html"
    page.write_text((built / "submission.html").read_text())
    seen = look_at(page, width, tmp_path / "profile")
    assert seen["errors"] == []
    assert seen["window"] == width
    assert seen["content"] <= width
    assert seen["images"] == 9
    assert seen["broken"] == seen["unnamed"] == seen["blurred"] == 0
    assert seen["outside"] == []
    assert seen["folded"] > 30
    assert len(seen["headings"]) == 2 + len(QUESTIONS)


def test_the_page_opens_with_the_summary_and_needs_no_network(built):
    html = (built / "submission.html").read_text()
    assert html.index("SYNTHETIC") < html.index("Q1 · The data")
    for word in ("http://", "https://cdn", "<script src"):
        assert word not in html.replace("http://www.w3.org", "")
