"""The job scripts of docs/cluster.md: their bodies, with bash and SLURM's variables set by hand."""

import csv
import os
import re
import subprocess
import sys

from common.storage.artifacts import load_json
from q3_cnn import make_cnn

import pytest
import torch
from conftest import ROOT, float32_tolerance, products_of, run_well
from networks import galaxies, plain_logits
from PIL import Image

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the scripts need GNU split")


@pytest.fixture
def submit(tmp_path):
    """A function that runs a job's script in a copy of the project; it returns what the job's command printed."""
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    for code, name in re.findall(r"```bash\n(#!/bin/bash\n#SBATCH --job-name=(\w+) .*?)```", page, re.DOTALL):
        (tmp_path / f"{name}.sh").write_text(code)
    for path in ROOT.iterdir():
        if path.suffix == ".py" or path.name in ("common", "studies", "use"):
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    # The command is run by the tests, which starts it faster.
    stand_in = 'python() { printf "%s\\n" "$@" > arguments; cat > stdin; }\n'
    (tmp_path / ".venv" / "bin" / "activate").write_text(stand_in)

    def run_job(name, *args, **variables):
        environment = {**os.environ, "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_CPUS_PER_TASK": "1", **variables}
        job = ["bash", tmp_path / f"{name}.sh", *args]
        subprocess.run(job, cwd="/", env=environment, stdin=subprocess.DEVNULL, check=True)
        command = (tmp_path / "arguments").read_text().removeprefix("-m\n").splitlines()
        return run_well(*command, stdin=tmp_path / "stdin", project=tmp_path)

    return run_job


def link_chain(chain, folder):
    folder.mkdir()
    for path in chain.glob("q[1-3]*"):
        (folder / path.name).symlink_to(path)


def test_the_training_job(submit, synthetic_run, tmp_path):
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "q1_data.pt").symlink_to(synthetic_run[0] / "q1_data.pt")
    assert "nothing to resume" in submit("train", "--symmetries", "--epochs", "1", DEVICE="cpu")
    assert load_json(tmp_path / "artifacts" / "q3_cnn.json")["args"]["symmetries"] is True


def test_the_array_of_studies_and_the_job_that_collects(submit, synthetic_run, tmp_path):
    link_chain(synthetic_run[0], tmp_path / "artifacts")
    submit("studies", "--epochs", "1", STUDIES="calibration", SLURM_ARRAY_TASK_ID="3")
    studies = tmp_path / "artifacts" / "studies"
    before = {path: path.stat().st_mtime_ns for path in (studies / "calibration").glob("seed-3-*.json")}
    assert before
    (studies / "calibration.json").unlink()
    submit("studies", "--epochs", "1", STUDIES="calibration", SLURM_ARRAY_TASK_ID="0", SEEDS="3")
    assert {path: path.stat().st_mtime_ns for path in (studies / "calibration").glob("*.json")} == before
    assert load_json(studies / "calibration.json")["args"]["seeds"] == [3]


def test_the_shards_of_predictions_joined_are_the_table_of_one_run(submit, synthetic_run, tmp_path):
    (tmp_path / "my pictures").mkdir()
    for number, pixels in enumerate(galaxies(5)):
        Image.fromarray(pixels).save(tmp_path / "my pictures" / f"{number}.png")
    link_chain(synthetic_run[0], tmp_path / "artifacts")
    paths = sorted(map(str, (tmp_path / "my pictures").iterdir()))
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in paths))
    for task in ("0", "1"):
        submit("predict", SLURM_ARRAY_TASK_ID=task, PARTS="2")
    assert len(list((tmp_path / "answers").glob("part-*.csv"))) == 2
    [join] = re.findall("^    (awk .*)$", (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8"), re.MULTILINE)
    subprocess.run(["bash", "-c", join], cwd=tmp_path, check=True)
    whole = "--model", tmp_path / "artifacts" / "q3_cnn.pt", "--csv", tmp_path / "whole.csv", "--device", "cpu"
    run_well("predict.py", *paths, *whole)
    joined, expected = (
        list(csv.DictReader((tmp_path / name).open(encoding="utf-8"))) for name in ("answers.csv", "whole.csv")
    )
    assert [row["file"] for row in joined] == paths
    images = torch.from_numpy(galaxies(5)).permute(0, 3, 1, 2)
    limit = float32_tolerance(products_of(make_cnn()), plain_logits(tmp_path / "artifacts" / "q3_cnn.pt", images))
    for row, other in zip(joined, expected, strict=True):
        assert row.keys() == other.keys()
        assert (row["id"], row["class_name"]) == (other["id"], other["class_name"])
        # The last bits depend on how many pictures a batch has.
        assert float(row["probability"]) == pytest.approx(float(other["probability"]), abs=limit)
