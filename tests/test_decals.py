"""Galaxy10 DECaLS: a file of a quarter of its images, streamed in little memory, and the chain behind it."""

import json
import zlib

from benchmarks.measure import peak_memory
from common.galaxies.facts import DECALS_CLASS_NAMES

import h5py
import numpy as np
import pytest
from conftest import run_well

COUNTS = np.array([1081, 1853, 2645, 2027, 334, 2043, 1829, 2628, 1423, 1873]) // 4
CHUNK = 64  # images


@pytest.fixture(scope="module")
def decals(tmp_path_factory):
    """A file in the form of Galaxy10 DECaLS: squares of noise, not galaxies, 0.9 GB of images in 0.1 GB of disk."""
    path = tmp_path_factory.mktemp("decals") / "Galaxy10_DECals.h5"
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), COUNTS))
    squares = rng.integers(0, 256, (CHUNK, 32, 32, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    compressed = zlib.compress(squares.tobytes(), 1)
    with h5py.File(path, "w") as file:
        shape = {"shape": (len(labels), 256, 256, 3), "chunks": squares.shape}
        images = file.create_dataset("images", dtype=np.uint8, compression="gzip", **shape)
        for start in range(0, len(labels), CHUNK):
            images.id.write_direct_chunk((start, 0, 0, 0), compressed)
        file["ans"] = labels
        for key in ("ra", "dec", "redshift", "pxscale"):
            file[key] = np.zeros(len(labels))
    yield path
    path.unlink()


def test_decals_is_streamed_and_the_chain_runs_on_it(decals, tmp_path):
    assert decals.stat().st_size < 0.2e9
    options = ("--data", decals, "--cache", tmp_path / "cache", "--out", tmp_path)
    assert peak_memory("q1_data.py", *options) < 1.6  # GB; the packages alone take up to 0.9
    record = json.loads((tmp_path / "q1_data.json").read_text())
    assert record["class_names"] == list(DECALS_CLASS_NAMES)
    train_counts = record["counts"]["main_train"]
    assert (np.array(train_counts) + record["counts"]["main_test"]).tolist() == COUNTS[:8].tolist()
    assert sum(train_counts) == round(COUNTS[:8].sum() * 18000 / 20360)
    assert sum(record["counts"]["transfer_train"]) == round(COUNTS[8:].sum() * 1000 / 1425)
    run_well("q3_cnn.py", "--epochs", 1, "--out", tmp_path)
    run_well("q5_transfer.py", "--epochs", 1, "--out", tmp_path)
    assert json.loads((tmp_path / "q5_transfer.json").read_text())["class_names"] == list(DECALS_CLASS_NAMES[8:])
