"""The README's recipes for studies, followed in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys

from common.galaxies.synthetic import write_synthetic
from common.storage.artifacts import load_json

import pytest
from conftest import ROOT

TINY = ("--epochs", "1", "--device", "cpu", "--out", "artifacts")
STUDY = ("-m", "studies.imbalance", "--seeds", "0", *TINY)


@pytest.fixture
def project(tmp_path):
    """A copy of the project's code, with Q1's data of a small synthetic set."""
    for path in (ROOT / "Makefile", ROOT / "requirements.txt", ROOT / "common", *ROOT.glob("*.py")):
        (tmp_path / path.name).symlink_to(path)
    shutil.copytree(ROOT / "studies", tmp_path / "studies")
    write_synthetic(tmp_path / "galaxies.h5", 500, seed=0)
    python(tmp_path, "q1_data.py", "--data", "galaxies.h5", "--out", "artifacts")
    return tmp_path


def run_in(folder, *command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def python(folder, *args):
    return run_in(folder, sys.executable, *args)


def edit(path, before, after):
    """Replace a text in a file of the copy, which may be a link to the project's."""
    text = path.read_text()
    assert before in text
    path.unlink()
    path.write_text(text.replace(before, after))


def test_another_network_or_learning_rate_then_a_study(project):
    found = []
    edits = (("# cnn_backbone", "# cnn_backbone"),) if False else ((None, None), ("nn.ReLU()", "nn.Tanh()"), ("lr=0.002", "lr=0.004"))
    for before, after in edits:
        if before:
            edit(project / "q3_cnn.py", before, after)
        printed = python(project, *STUDY)
        python(project, "q3_cnn.py", *TINY)
        expected = load_json(project / "artifacts" / "q3_cnn.json")
        result = load_json(project / "artifacts" / "studies" / "imbalance" / "seed-0-method-none.json")["result"]
        assert result["predictions"] == expected["test_predictions"]
        record = load_json(project / "artifacts" / "studies" / "imbalance.json")
        assert record["answer"] in printed
        assert record["methods"]["none"]["value"]["accuracy"]["mean"] == pytest.approx(expected["test_accuracy"])
        found.append(expected["weights_sha256"])
    assert len(set(found)) == 3
