"""The notebook and its page, built once from a small file with one epoch."""

import hashlib
import importlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from browser import CHROMIUM, look_at
from conftest import ROOT, error_of, run, write_galaxy10
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from packaging.version import Version

from common.galaxies.download import PUBLISHED
from submission import cells, source
from submission.build import execute, get_args, remove_paths, settings_of, without_paths
from submission.cells import QUESTIONS, code, notebook, requirements, setup
from submission.page import page, printed
from submission.source import imported, needed

SETTINGS = settings_of(get_args(["--source", "synthetic", "--count", "500", "--epochs", "2"]))
SMALL = ("--main-train", "160", "--transfer-train", "40", "--epochs", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def galaxies(tmp_path_factory):
    """A data file in a folder whose name nobody else shall read."""
    return write_galaxy10(tmp_path_factory.mktemp("secret folder") / "galaxies.h5", count=300)


@pytest.fixture(scope="module")
def built(galaxies, tmp_path_factory):
    """The folder that `make notebook` writes to, in which something else lies already."""
    out = tmp_path_factory.mktemp("submission")
    (out / "q2_fcn.json").write_text("of another run")
    command = [sys.executable, "-m", "submission.build", "--data", galaxies, *SMALL, "--out", out]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=900)
    return out


@pytest.fixture(scope="module")
def book(built):
    """The notebook as it is handed in."""
    return nbformat.read(built / "submission.ipynb", as_version=4)


def by_name(book):
    return {cell.metadata["name"]: cell for cell in book.cells if cell.cell_type == "code"}


def test_only_the_notebook_and_the_page_are_written(built):
    assert {path.name for path in built.iterdir()} == {"submission.ipynb", "submission.html", "q2_fcn.json"}
    assert (built / "q2_fcn.json").read_text() == "of another run"


def test_every_cell_was_run_and_every_question_is_answered(book):
    nbformat.validate(book)
    assert "galaxies.h5" in book.cells[0].source
    named = by_name(book)
    assert all(cell.execution_count for cell in named.values())
    for question in QUESTIONS:
        assert named[f"run {question.script}"].outputs
        outputs = named[f"pictures of {question.script}"].outputs
        assert sum("image/png" in output.get("data", {}) for output in outputs) == len(question.pictures)
        shown = "".join(output["data"].get("text/markdown", "") for output in outputs)
        assert all(caption in shown for caption in question.pictures.values())
        outputs = named[f"discussion of {question.script}"].outputs
        assert len("".join(output["data"]["text/markdown"] for output in outputs)) > 100


def test_neither_file_tells_where_it_was_made(built, galaxies):
    places = (galaxies.parent, built, ROOT, sys.prefix, Path.home(), "submission-", "secret folder")
    for name in ("submission.ipynb", "submission.html"):
        text = (built / name).read_text()
        text = re.sub(r'"image/png": "[^"]*"|base64,[^"]*', "", text)  # pixels can spell anything
        assert [str(place) for place in places if str(place) in text] == []
        assert hashlib.sha256(galaxies.read_bytes()).hexdigest() in text


def test_paths_in_printed_text_lose_what_leads_to_them(tmp_path, monkeypatch):
    monkeypatch.setenv("GALAXY10_CACHE", str(tmp_path / "downloads"))
    data, home = tmp_path / "a b" / "galaxies.h5", Path.home()
    printed = {
        f"{data}: damaged": "galaxies.h5: damaged",
        f"[{data.parent}/other.h5]": "[DATA/other.h5]",
        f'File "{tmp_path}/run/q1_data.py", line 3': 'File "./q1_data.py", line 3',
        f"{tmp_path}/downloads/Galaxy10.h5 cannot be written": "CACHE/Galaxy10.h5 cannot be written",
        f"{sys.prefix}/lib/python3/site-packages/x.py:1: Warning": "PYTHON/lib/python3/site-packages/x.py:1: Warning",
        f"{home}/.cache and {home}": "~/.cache and ~",
        f"{home}s and x{home}": f"{home}s and x{home}",
    }
    for text, expected in printed.items():
        assert without_paths(text, tmp_path / "run", data) == expected
    pixels = f"{data}"
    outputs = [
        new_output("stream", text=f"{data}\n"),
        new_output("display_data", data={"text/markdown": f"`{data}`", "image/png": pixels}),
    ]
    book = new_notebook(cells=[new_markdown_cell("text"), new_code_cell("1", outputs=outputs)])
    remove_paths(book, tmp_path / "run", data)
    assert outputs[0].text == "galaxies.h5\n"
    assert outputs[1].data == {"text/markdown": "`galaxies.h5`", "image/png": pixels}


def test_supporting_code_is_one_hidden_section_before_the_questions(book):
    roles = [cell.metadata.get("role") for cell in book.cells]
    first, last = roles.index("support"), len(roles) - 1 - roles[::-1].index("support")
    assert set(roles[first : last + 1]) == {"support"}
    assert book.cells[first - 1].metadata["jp-MarkdownHeadingCollapsed"]
    assert book.cells[last + 1].metadata["section"] == "q1"
    for cell in book.cells[first : last + 1]:
        assert cell.metadata["jupyter"] == {"source_hidden": True, "outputs_hidden": True}
    names = ["{}", "run {}", "pictures of {}", "discussion of {}"]
    after = [cell.metadata["name"] for cell in book.cells[last + 1 :] if cell.cell_type == "code"]
    assert after == [name.format(question.script) for question in QUESTIONS for name in names] + ["in short"]


def written_files(book):
    """The files that a notebook's cells write, with their content, in order."""
    pairs = (cell.source.partition("\n") for cell in book.cells if cell.source.startswith("%%writefile "))
    return {first.split()[1]: text for first, _, text in pairs}


def test_the_code_in_the_cells_is_the_projects_own():
    written = written_files(notebook(SETTINGS))
    assert set(written) >= {question.script for question in QUESTIONS}
    for path, text in written.items():
        assert text == (ROOT / path).read_text().strip()
        position = list(written).index(path)
        assert all(file in list(written)[:position] for file in imported(path))  # what is used comes before


def test_every_option_reaches_the_scripts(galaxies):
    argv = [*SMALL, "--precision", "bf16", "--split", "file", "--image-size", "60", "--seed", "3"]
    settings = settings_of(get_args([*argv, "--data", str(galaxies)]))
    assert settings["DATA_FILE"] == "galaxies.h5"
    calls = {}
    space = {**settings, "find_data": lambda: {"data": "galaxies.h5"}}
    space["run"] = lambda script, **options: calls.update({script: options})
    for question in QUESTIONS:
        exec(question.call, dict(space))
    expected = {"data": "galaxies.h5", "split": "file", "image_size": 60, "main_train": 160, "transfer_train": 40}
    trained = {"epochs": 1, "device": "cpu", "precision": "bf16"}
    expected = {"q1_data.py": expected, "q4_confusion.py": {"device": "cpu"}, "studies/inside.py": {}} | {
        f"{name}.py": trained for name in ("q2_fcn", "q3_cnn", "q5_transfer")
    }
    assert calls == expected
    for script, options in expected.items():  # and the scripts know them
        words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        args = vars(importlib.import_module(script.removesuffix(".py").replace("/", ".")).get_args(words))
        assert {name: args[name] for name in options} == options


def test_a_file_and_a_source_exclude_each_other():
    with pytest.raises(ValueError, match="are mutually exclusive"):
        get_args(["--data", "galaxies.h5", "--source", "synthetic"])


def until_q1(settings):
    """The notebook's cells up to the first question's run, without the check of the packages."""
    book = notebook(settings)
    names = [cell.metadata.get("name") for cell in book.cells]
    book.cells = book.cells[: names.index("run q1_data.py") + 1]
    del book.cells[names.index("packages and device")]
    return book


def test_elsewhere_the_notebook_asks_for_its_file_and_finds_it_beside_itself(tmp_path, galaxies, monkeypatch):
    monkeypatch.setenv("GALAXY10_FILE", str(galaxies))  # the variable of the maker's shell, which readers do not have
    settings = settings_of(get_args(["--data", str(galaxies), *SMALL]))
    book, sha256 = until_q1(settings), settings["DATA_SHA256"]
    sentence = (
        f"this notebook needs the file galaxies.h5 with SHA-256 {sha256}: put it beside the notebook, "
        "or set the environment variable GALAXY10_FILE to its path"
    )
    with pytest.raises(ValueError, match=re.escape(f"cell 'run q1_data.py' failed: Stop: {sentence}")):
        execute(book, tmp_path)
    assert book.cells[-1].outputs[-1].traceback == [f"error: {sentence}"]  # in place of Python's traceback

    shutil.copy(galaxies, tmp_path)
    book = until_q1(settings)
    execute(book, tmp_path)
    assert "galaxies.h5: images per class" in book.cells[-1].outputs[0].text
    assert json.loads((tmp_path / "results" / "q1_data.json").read_text())["source"] == "file:galaxies.h5"


@pytest.fixture
def find(tmp_path, monkeypatch):
    """A function that calls the notebook's find_data in an empty folder, for a file's name and checksum."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.delenv("GALAXY10_FILE", raising=False)
    space = {}
    exec(next(cell.source for cell in notebook(SETTINGS).cells if cell.metadata.get("name") == "helpers"), space)

    def find(name, content=b"", sha256=None):
        values = {"DATA_FILE": name, "DATA_SHA256": sha256 or hashlib.sha256(content).hexdigest()}
        space.update(SOURCE="auto", DATASET="decals", COUNT=7, **values)
        return space["find_data"]()

    return find


def test_the_file_beside_the_notebook_comes_first_then_the_variables_then_a_download(
    find, tmp_path, monkeypatch, capsys
):
    (tmp_path / "elsewhere").mkdir()
    other = tmp_path / "elsewhere" / "mine.h5"
    other.write_bytes(b"galaxies")
    monkeypatch.setenv("GALAXY10_FILE", str(other))
    assert find("x.h5", b"galaxies") == {"data": str(other)}
    Path("x.h5").write_bytes(b"galaxies")
    assert find("x.h5", b"galaxies") == {"data": "x.h5"}
    assert capsys.readouterr().out == ""
    Path("x.h5").write_bytes(b"quasars")
    assert find("x.h5", b"galaxies") == {"data": str(other)}
    skipped = "is skipped: it is another file than the one named above (its SHA-256 differs).\n"
    assert capsys.readouterr().out == f"x.h5 {skipped}"
    for name, published in PUBLISHED.items():
        assert find("x.h5", sha256=published.sha256) == {"source": "real", "dataset": name}
    assert capsys.readouterr().out == f"x.h5 {skipped}{other} {skipped}" * len(PUBLISHED)
    with pytest.raises(Exception, match=r"^this notebook needs the file x\.h5 with SHA-256 "):
        find("x.h5", b"stars")


def test_without_a_file_the_source_decides(find):
    assert find(None) == {"source": "auto", "dataset": "decals", "count": 7}


def test_packages_too_old_or_missing_are_installed(monkeypatch):
    installed = {
        "torch": "2.14.1+cpu", "numpy": "1.26", "scipy": "1.9.3", "h5py": "3.10.0rc1", "tqdm": "4.7", "pooch": "1.8.0"
    }  # fmt: skip

    def version(name):
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    commands = []
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command[1:]))
    lines = ["torch>=2.6", "numpy>=1.26.0", "scipy>=1.11", "h5py>=3.10", "tqdm>=4.66", "pooch>=1.8", "filelock>=3.12"]
    space = {}
    exec(setup(lines), space)
    assert commands == [["-m", "pip", "install", "--quiet", "scipy>=1.11", "tqdm>=4.66", "filelock>=3.12"]]
    versions = ["2", "2.6", "2.6.0", "2.10.1", "10", "2.6.1+cu130", "2.5.9", "1.99", "2.6.0.1", "2.6.0.post1"]
    for one in versions:  # the order is packaging's
        for other in versions:
            if "post" not in one + other:
                assert (space["release"](one) >= space["release"](other)) == (
                    Version(Version(one).base_version) >= Version(Version(other).base_version)
                )


def test_requirements_are_of_what_the_notebook_imports():
    files = needed("q1_data.py", "q5_transfer.py")
    lines = requirements([*files, "q1_data.py", "q5_transfer.py"])
    assert {line.partition(">=")[0] for line in lines} >= {"torch", "torchvision", "scikit-learn", "h5py", "pooch"}
    assert set(lines) <= set((ROOT / "requirements.txt").read_text().split("\n"))
    assert not any(line.startswith(("nbconvert", "ipykernel")) for line in lines)  # only the build needs them


def test_needed_files_come_in_the_order_they_are_needed():
    files = needed("q5_transfer.py")
    assert files[0] == "common/__init__.py"
    assert len(files) == len(set(files))
    for path in files:
        assert all(files.index(file) < files.index(path) for file in imported(path))


# A project with sub-packages, every way to import from them, and packages that import their own modules.
TREE = {
    "common/__init__.py": "",
    "common/storage/__init__.py": '"""Files."""\nfrom common.storage import artifacts\n',
    "common/storage/artifacts.py": "import common.storage.atomic as atomic\nSAVED = atomic.atomic_write()\n",
    "common/storage/atomic.py": "import os, json\ndef atomic_write():\n    return 'atomic'\n",
    "common/hardware/device.py": "import numpy.linalg\nNAME = 'device'\n",
    "common/unused.py": "",
    "submission/__init__.py": "",
    "q1_data.py": "from common.hardware import device as d\nfrom common.storage import artifacts\n"
    "from common.storage.atomic import atomic_write\nimport common.hardware.device\n"
    "print(d.NAME, artifacts.SAVED, atomic_write())\n",
    "requirements.txt": "numpy>=1.26  # for arrays\n\nnbconvert>=7.14\n",
}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """The project TREE in place of this one, with stubs for the other scripts and the discussion."""
    root = tmp_path / "tree"
    files = dict.fromkeys((question.script for question in QUESTIONS), "from common.storage import atomic\n")
    discussions = {question.discuss.__module__ for question in QUESTIONS}
    files |= {f"{module.replace('.', '/')}.py": "X = 1\n" for module in discussions} | TREE
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    monkeypatch.setattr(source, "ROOT", root)
    monkeypatch.setattr(cells, "ROOT", root)
    return root


def test_all_forms_of_import_from_sub_packages_are_followed(tree):
    assert set(needed("q1_data.py")) == {path for path in TREE if path.startswith("common/")} - {"common/unused.py"}
    assert requirements(["q1_data.py", *needed("q1_data.py")]) == ["numpy>=1.26"]


def test_a_notebook_with_sub_packages_runs(tree, tmp_path):
    book = until_q1({**SETTINGS, "SPLIT": None})
    assert "common/unused.py" not in by_name(book)
    (tmp_path / "elsewhere").mkdir()
    execute(book, tmp_path / "elsewhere")
    assert book.cells[-1].outputs[0].text == "device atomic atomic\n"
    written = {path for path in TREE if path.startswith(("common/", "q1"))} - {"common/unused.py"}
    for path in written:
        assert (tmp_path / "elsewhere" / path).read_text().strip() == TREE[path].strip()


def test_a_failing_cell_is_named_with_its_error(tmp_path):
    book = new_notebook(cells=[code("x = 1", "first"), code("raise KeyError('no such star')", "second")])
    with pytest.raises(ValueError, match="cell 'second' failed: KeyError: 'no such star'"):
        execute(book, tmp_path)


def test_an_error_leaves_no_half_written_notebook(tmp_path, monkeypatch):
    (tmp_path / "bad.h5").write_text("no galaxies")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    error = error_of(run("submission/build.py", "--data", tmp_path / "bad.h5", "--out", tmp_path / "out"))
    assert "cell 'run q1_data.py' failed" in error
    assert "is not an HDF5 file" in error
    assert not (tmp_path / "out").exists()
    error = error_of(run("submission/build.py", "--data", tmp_path / "none.h5", "--out", tmp_path / "out"))
    assert error == f"error: {tmp_path / 'none.h5'}: No such file or directory"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_in_a_browser(built, tmp_path, width, dark):
    shutil.copy(built / "submission.html", tmp_path)
    seen = look_at(tmp_path / "submission.html", width, tmp_path / "profile", dark)
    assert seen["errors"] == []
    assert seen["window"] == width
    assert seen["content"] <= width
    assert seen["images"] == seen["captions"] == 9
    assert seen["broken"] == seen["unnamed"] == seen["blurred"] == 0
    assert seen["outside"] == []
    assert seen["open"] == ["settings", *(name for q in QUESTIONS for name in (q.script, f"run {q.script}"))]
    assert "common/__init__.py" in seen["folded"]
    assert len(seen["headings"]) == 4 + len(QUESTIONS)
    assert len(seen["links"]) == 3 + len(QUESTIONS)
    assert all(leads_somewhere for _, leads_somewhere in seen["links"])
    assert seen["scrolled"] > 2000
    assert seen["nav"][0] == 0 < seen["nav"][1]  # in view, however far the page is scrolled
    assert seen["smallest"] >= 11
    assert seen["contrast"][0] >= 4.5, seen["contrast"]  # WCAG AA
    assert (max(seen["ground"]) < 60) == dark
    if width == 1280:
        assert seen["clipped"] == []
        assert seen["main"] > 0.8 * width


def test_the_page_opens_with_the_summary_and_says_synthetic_of_synthetic_data():
    record = {"source": "synthetic", "test_accuracy": 0.5, "test_accuracy_interval": [0.4, 0.6], "test_loss": 1.0}
    records = dict.fromkeys(("q2_fcn", "q3_cnn", "q5_transfer"), record | {"majority_accuracy": 0.3})
    html = page(notebook(SETTINGS), records)
    assert html.index("SYNTHETIC") < html.index('<a id="settings">')


def test_the_page_needs_no_network(built):
    html = (built / "submission.html").read_text()
    for word in ("http://", "https://cdn", "<script", "<link", "@import", "url("):
        assert word not in html.replace("http://www.w3.org", "")


def test_printed_sentences_wrap_and_tables_keep_their_columns():
    html = printed("a <b>  1\nbb    22   \nA sentence of some length.\n")
    assert "--columns: 8" in html
    assert (
        '<pre class="table">a &lt;b&gt;  1\nbb    22</pre><pre class="sentences">A sentence of some length.</pre>'
        in html
    )
    log = "".join(f"epoch  {number}\n" for number in range(1, 51))
    assert "<summary>50 lines, the last of them:" in printed(log)
    assert "epoch  25\n" in printed(log)
    assert "<details>" not in printed("epoch  1\n")
