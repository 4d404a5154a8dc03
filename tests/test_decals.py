"""Galaxy10 DECaLS: a file of its full shape, streamed in little memory, and the chain behind it."""

import json
import shutil

import h5py
import numpy as np
import pytest
from conftest import run_well

from benchmarks.memory import peak_memory
from common.galaxies.facts import DECALS_CLASS_NAMES

COUNTS = np.array([1081, 1853, 2645, 2027, 334, 2043, 1829, 2628, 1423, 1873])


@pytest.fixture(scope="module")
def decals(tmp_path_factory):
    """A file in the form of Galaxy10 DECaLS, of 2.7 GB where the disk allows, else of a tenth: noise, not galaxies."""
    folder = tmp_path_factory.mktemp("decals")
    counts = COUNTS if shutil.disk_usage(folder).free > 10e9 else COUNTS // 10
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), counts))
    noise = rng.integers(0, 256, (64, 256, 256, 3), dtype=np.uint8)
    with h5py.File(folder / "Galaxy10_DECals.h5", "w") as file:
        images = file.create_dataset("images", (len(labels), 256, 256, 3), np.uint8)
        for start in range(0, len(labels), 64):
            images[start : start + 64] = noise[: len(labels) - start]
        file["ans"] = labels
        for key in ("ra", "dec", "redshift", "pxscale"):
            file[key] = np.zeros(len(labels))
    yield folder / "Galaxy10_DECals.h5", counts
    (folder / "Galaxy10_DECals.h5").unlink()


def test_decals_is_streamed_and_the_chain_runs_on_it(decals, tmp_path):
    path, counts = decals
    assert peak_memory("q1_data.py", "--data", path, "--out", tmp_path) < 1.6  # GB
    record = json.loads((tmp_path / "q1_data.json").read_text())
    assert record["class_names"] == list(DECALS_CLASS_NAMES)
    train_counts = record["counts"]["main_train"]
    assert (np.array(train_counts) + record["counts"]["main_test"]).tolist() == counts[:8].tolist()
    assert sum(train_counts) == round(counts[:8].sum() * 18000 / 20360)
    assert sum(record["counts"]["transfer_train"]) == round(counts[8:].sum() * 1000 / 1425)
    run_well("q3_cnn.py", "--epochs", 1, "--out", tmp_path)
    run_well("q5_transfer.py", "--epochs", 1, "--out", tmp_path)
    assert json.loads((tmp_path / "q5_transfer.json").read_text())["class_names"] == list(DECALS_CLASS_NAMES[8:])
