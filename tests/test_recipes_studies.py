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


def run_in(folder, *command):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def edit(path, before, after):
    """Replace a text in a file of the copy, which may be a link to the project's."""
    text = path.read_text()
    assert before in text
    path.unlink()
    path.write_text(text.replace(before, after))


def test_a_new_study_is_a_copy_and_a_line_of_the_makefile_and_trains_the_network_of_the_script(tmp_path):
    for path in (ROOT / "Makefile", ROOT / "requirements.txt", ROOT / "common", *ROOT.glob("*.py")):
        (tmp_path / path.name).symlink_to(path)
    shutil.copytree(ROOT / "studies", tmp_path / "studies")
    write_synthetic(tmp_path / "galaxies.h5", 300, seed=0)
    run_well("q1_data.py", "--data", tmp_path / "galaxies.h5", "--out", tmp_path / "artifacts")
    # Another network and another learning rate, then a new study.
    edit(tmp_path / "q3_cnn.py", "nn.ReLU()", "nn.Tanh()")
    edit(tmp_path / "q3_cnn.py", "lr=0.002", "lr=0.004")
    study = tmp_path / "studies" / "imbalance.py"
    study.with_name("mine.py").write_text(study.read_text().replace('"balanced sampler"', '"my sampler"'))
    line = next(line for line in (tmp_path / "Makefile").read_text().splitlines() if "-m studies.imbalance" in line)
    edit(tmp_path / "Makefile", line, line + "\n" + line.replace("studies.imbalance", "studies.mine"))
    options = f"PYTHON={sys.executable}", "SEEDS=0", "EPOCHS=1", "DEVICE=cpu"
    commands = run_in(tmp_path, "make", "--dry-run", "studies", *options).splitlines()
    printed = run_in(tmp_path, "bash", "-c", next(each for each in commands if "studies.mine" in each))
    folder = tmp_path / "artifacts" / "studies"
    record = load_json(folder / "mine.json")
    assert printed.splitlines()[:2] == ["studies.mine · SYNTHETIC galaxies", record["answer"]]
    assert {path.name for path in folder.glob("mine.*")} == {"mine.json", "mine.png"}
    run_in(tmp_path, sys.executable, "q3_cnn.py", *TINY)
    expected = load_json(tmp_path / "artifacts" / "q3_cnn.json")
    assert expected["args"]["lr"] == 0.004
    result = load_json(folder / "mine" / "seed-0-method-none.json")["result"]
    assert result["predictions"] == expected["test_predictions"]
    assert record["methods"]["none"]["value"]["accuracy"]["mean"] == pytest.approx(expected["test_accuracy"])
    (tmp_path / "docs" / "studies").mkdir(parents=True)
    shutil.copy(folder / "mine.json", tmp_path / "docs" / "studies")
    run_in(tmp_path, sys.executable, "-m", "studies.methods.page")
    assert "| my sampler |" in (tmp_path / "docs" / "studies.md").read_text()
