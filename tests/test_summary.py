import json

import pytest
from conftest import error_of, run, run_well

import summary

RECORD = {"test_accuracy": 0.8123, "test_accuracy_interval": [0.8, 0.825], "test_loss": 0.5, "majority_accuracy": 0.343}


def table(source):
    return summary.summary({name: RECORD | {"source": source} for name in summary.TITLES}, "artifacts")


def test_figures_and_paths_are_in_the_table():
    text = table("file:efigi10.h5")
    assert text.count("81.23%") == 3
    assert text.count("34.30%") == 3
    for name in summary.PICTURES:
        assert f"artifacts/{name}.png" in text


@pytest.mark.parametrize(("source", "compared"), [
    ("galaxy10-sdss", True), ("synthetic", False), ("file:efigi10.h5", False), ("galaxy10-decals", False)])  # fmt: skip
def test_the_courses_figures_stand_only_beside_galaxy10_sdss(source, compared):
    text = table(source)
    for figures in ("64.6%  0.924", "81.8%  0.493", "80.9%  0.468"):
        assert (figures in text) == compared
    assert ("SYNTHETIC" in text) == (source == "synthetic")


def test_answers_on_different_data_make_no_table(synthetic_run, tmp_path):
    for name in summary.TITLES:
        (tmp_path / f"{name}.json").write_text((synthetic_run[0] / f"{name}.json").read_text())
    assert "SYNTHETIC" in run_well("summary.py", "--out", tmp_path)
    before = (tmp_path / "summary.txt").read_text()
    record = json.loads((tmp_path / "q5_transfer.json").read_text())
    (tmp_path / "q5_transfer.json").write_text(json.dumps(record | {"fingerprint": "of other data"}))
    assert "answered on different data or splits" in error_of(run("summary.py", "--out", tmp_path))
    del record["test_loss"]
    (tmp_path / "q5_transfer.json").write_text(json.dumps(record))
    assert "lacks 'test_loss'" in error_of(run("summary.py", "--out", tmp_path))
    assert (tmp_path / "summary.txt").read_text() == before
