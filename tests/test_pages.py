"""Every command of docs/use.md and docs/onnx.md runs as it stands, in one folder outside the project.

tests/test_own_galaxies.py, tests/test_dask.py and tests/test_cluster.py do the same for the pages that they name, and
tests/test_export.py for the Python code of docs/onnx.md.
"""

import csv
import re
import shlex
import subprocess
from multiprocessing.forkserver import ensure_running
from pathlib import Path

import pytest
from conftest import ROOT, run
from networks import save_cutouts, save_network, save_pictures

pytest.importorskip("captum")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
SKIPPED = ("pip install ", "hf upload ")  # need the Internet


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with what the pages presuppose: a trained network, pictures in all forms, and a table of classes."""
    ensure_running()  # here, where it finds what it imports: the tests run in the folder
    folder = tmp_path_factory.mktemp("pages")
    (folder / "artifacts").mkdir()
    save_network(folder / "artifacts")
    save_pictures(folder, ["galaxy.jpg", "galaxy.png"])
    save_pictures(folder / "more", ["0.png", "1.png", "2.jpg"])
    save_pictures(folder / "survey", ["3.jpg", "4.jpg"])
    save_cutouts(folder / "cutouts.h5", 100)
    (folder / "table.csv").write_text("objid,class\n0,3\n1,4\n2,0\n")
    return folder


def commands(page):
    """Return the commands of a page, without comments, in order."""
    text = re.sub("^```.*?^```", "", (ROOT / "docs" / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"^ {4}(\S[^\n]*?)(?: +# .*)?$", text, re.MULTILINE)
    return [line for line in found if not line.startswith(SKIPPED)]


def run_command(line):
    """Run `SOURCE | python SCRIPT ... > FILE`, all but the script optional; return what it printed."""
    source, _, program = line.replace("/survey", "survey").rpartition(" | ")
    with open("stdin", "wb") as stdin:
        subprocess.run(["bash", "-ec", source], stdout=stdin, check=True)
    python, script, *arguments = shlex.split(program)
    assert python == "python"
    target = arguments.pop() if ">" in arguments else None
    done = run(script, *(argument for argument in arguments if argument != ">"), stdin="stdin")
    assert done.returncode == 0, (line, done.stderr)
    if target:
        Path(target).write_text(done.stdout)
    return done.stdout


def test_the_commands(folder, monkeypatch):
    monkeypatch.chdir(folder)
    found = {line: run_command(line) for line in commands("use.md")}
    assert len(found) == 10
    [only] = commands("onnx.md")
    assert only in found
    assert sorted(path.name for path in (folder / "why").iterdir()) == ["00000_0.png", "00001_1.png", "00002_2.png"]
    assert {"sheet.html", "features.npz"} < {path.name for path in folder.iterdir()}
    with open("answers.csv") as file:
        assert sorted(row["file"] for row in csv.DictReader(file)) == ["survey/3.jpg", "survey/4.jpg"]
    names = {"config.json", "model.onnx", "model.safetensors", "README.md"}
    assert {path.name for path in (folder / "artifacts" / "model").iterdir()} == names
