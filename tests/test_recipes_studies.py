"""The README's recipes for studies, followed in a copy of the project."""

import os
import shutil
import subprocess
import sys

from common.galaxies.synthetic import write_synthetic
from common.storage.artifacts import load_json

import pytest
from conftest import ROOT, run_well

TINY = ("--epochs", "1", "--device", "cpu", "--out", "artifacts")
STUDY = ("-m", "studies.imbalance", "--seeds", "0", *TINY)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """A folder with Q1's data of a small synthetic set."""
    folder = tmp_path_factory.mktemp("data")
    write_synthetic(folder / "galaxies.h5", 500, seed=0)
    run_well("q1_data.py", "--data", folder / "galaxies.h5", "--out", folder / "artifacts")
    return folder / "artifacts"


@pytest.fixture
def project(artifacts, tmp_path):
    """A copy of the project's code, with these artifacts."""
    for path in (ROOT / "Makefile", ROOT / "requirements.txt", ROOT / "common", *ROOT.glob("*.py")):
        (tmp_path / path.name).symlink_to(path)
    shutil.copytree(ROOT / "studies", tmp_path / "studies")
    shutil.copytree(artifacts, tmp_path / "artifacts")
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
    folder, weights = project / "artifacts" / "studies", set()
    python(project, *STUDY)
    for before, after in (("nn.ReLU()", "nn.Tanh()"), ("lr=0.002", "lr=0.004")):
        edit(project / "q3_cnn.py", before, after)
        printed = python(project, *STUDY)
        python(project, "q3_cnn.py", *TINY)
        expected = load_json(project / "artifacts" / "q3_cnn.json")
        result = load_json(folder / "imbalance" / "seed-0-method-none.json")["result"]
        assert result["predictions"] == expected["test_predictions"]
        record = load_json(folder / "imbalance.json")
        assert record["methods"]["none"]["value"]["accuracy"]["mean"] == pytest.approx(expected["test_accuracy"])
        assert record["answer"] in printed
        weights.add(expected["weights_sha256"])
    assert len(weights) == 2


def test_a_new_study_is_a_copy_and_a_line_of_the_makefile(project):
    study = project / "studies" / "imbalance.py"
    study.with_name("mine.py").write_text(study.read_text().replace('"balanced sampler"', '"my sampler"'))
    line = next(line for line in (project / "Makefile").read_text().splitlines() if "-m studies.imbalance" in line)
    edit(project / "Makefile", line, line + "\n" + line.replace("studies.imbalance", "studies.mine"))
    options = f"PYTHON={sys.executable}", "SEEDS=0", "EPOCHS=1", "DEVICE=cpu"
    commands = run_in(project, "make", "--dry-run", "studies", *options).splitlines()
    printed = run_in(project, "bash", "-c", next(each for each in commands if "studies.mine" in each))
    assert printed.startswith("studies.mine · SYNTHETIC galaxies")
    folder = project / "artifacts" / "studies"
    assert {path.name for path in folder.glob("*")} >= {"mine.json", "mine.png", "mine"}
    assert not list(folder.glob("imbalance*"))
    (project / "docs" / "studies").mkdir(parents=True)
    shutil.copy(folder / "mine.json", project / "docs" / "studies")
    python(project, "-m", "studies.methods.page")
    assert "| my sampler |" in (project / "docs" / "studies.md").read_text()
