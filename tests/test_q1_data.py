"""Q1's command line: how many images train, and files that cannot be split."""

import json

import numpy as np
import pytest
from conftest import error_of, run, run_well, write_galaxy10


@pytest.mark.parametrize("count", [40, 90])
def test_the_smallest_synthetic_sets_can_be_split(tmp_path, count):
    run_well("q1_data.py", "--source", "synthetic", "--count", count, "--out", tmp_path)
    record = json.loads((tmp_path / "q1_data.json").read_text())
    assert sum(map(sum, record["counts"].values())) == count
    assert all(min(counts) >= 1 for counts in record["counts"].values())
    assert record["args"]["main_train"] is None  # as given: make compares with it


def test_a_file_sorted_by_class_is_refused_before_anything_is_written(tmp_path):
    path = write_galaxy10(tmp_path / "sorted.h5", count=200, ans=np.sort(np.arange(200, dtype=np.uint8) % 10))
    options = ("--data", path, "--main-train", 150, "--transfer-train", 30, "--out", tmp_path / "out")
    error = error_of(run("q1_data.py", *options, "--split", "file"))
    assert error == (
        "error: all 10 images of main_test are of class 7: if the file is sorted by class, use --split stratified"
    )
    assert not (tmp_path / "out").exists()
    run_well("q1_data.py", *options)
