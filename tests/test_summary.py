import importlib
import json

import summary
from common.galaxies.facts import CLASS_NAMES

import pytest
from conftest import error_of, run, run_well

DEFAULTS = {name: vars(importlib.import_module(name).get_args([])) for name in ("q1_data", *summary.TITLES)}
RECORD = {"test_accuracy": 0.8123, "test_accuracy_interval": [0.8, 0.825], "test_loss": 0.5, "majority_accuracy": 0.343}


def records_of(source, **changed):
    """The records of the questions that ran on `source`, with their options as far as they were changed, by name."""
    return {
        name: RECORD | {"source": source, "args": defaults | changed.get(name, {}), "defaults": defaults}
        for name, defaults in DEFAULTS.items()
    }


def table(source, **changed):
    return summary.summary(records_of(source, **changed), "artifacts")


def test_figures_and_paths_are_in_the_table():
    text = table("file:efigi10.h5")
    assert text.count("81.23%") == 3
    assert text.count("34.30%") == 3
    for name in summary.FIGURES:
        assert f"artifacts/{name}.png" in text


@pytest.mark.parametrize(("source", "compared"), [
    ("galaxy10-sdss", True), ("synthetic", False), ("file:efigi10.h5", False), ("galaxy10-decals", False)])  # fmt: skip
def test_the_courses_figures_stand_only_beside_galaxy10_sdss(source, compared):
    text = table(source)
    for figures in ("64.6%  0.924", "81.8%  0.493", "80.9%  0.468"):
        assert (figures in text) == compared
    assert ("SYNTHETIC" in text) == (source == "synthetic")


def test_all_ten_classes_are_not_compared_with_the_courses_eight():
    records = records_of("galaxy10-sdss")
    for count, compared in ((8, True), (10, False)):
        records["q2_fcn"]["class_names"] = list(CLASS_NAMES[:count])
        assert ("course" in summary.summary(records, "artifacts")) == compared


def test_without_classes_held_back_the_table_has_no_transfer():
    records = records_of("file:own")
    del records["q5_transfer"]
    records["q1_data"] |= {"class_names": ["smooth", "spiral"]}
    text = summary.summary(records, "artifacts")
    assert "Q5 transfer          none: no classes are held back (--hold-back)\n" in text
    assert "q5_transfer.png" not in text
    assert "Changed settings" not in text


def test_changed_options_are_listed_beside_their_defaults():
    assert "Changed settings" not in table("galaxy10-sdss", q1_data={"seed": 5}, q2_fcn={"seed": 5, "device": "cpu"})
    text = table(
        "galaxy10-sdss",
        q1_data={"main_train": 200, "stats_images": 10},
        q2_fcn={"epochs": 1},
        q3_cnn={"batch_size": 32, "lr": 0.1, "symmetries": True},
        q5_transfer={"backbone": "ckpt.pt", "force": True},
    )
    assert (
        "Changed settings: Q1 --main-train 200, Q1 --stats-images 10 (default: 1000), Q2 --epochs 1 (default: 50), "
        "Q3 --batch-size 32 (default: 64), Q3 --lr 0.1 (default: 0.002), Q3 --symmetries, "
        "Q5 --backbone ckpt.pt, Q5 --force\n"
    ) in text


def test_answers_on_different_data_make_no_table(synthetic_run, tmp_path):
    for name in ("q1_data", *summary.TITLES):
        (tmp_path / f"{name}.json").write_text((synthetic_run[0] / f"{name}.json").read_text())
    printed = run_well("summary.py", "--out", tmp_path)
    assert "SYNTHETIC" in printed
    assert "Q5 --epochs 2 (default: 20)" in printed
    before = (tmp_path / "summary.txt").read_text()
    record = json.loads((tmp_path / "q5_transfer.json").read_text())
    (tmp_path / "q5_transfer.json").write_text(json.dumps(record | {"fingerprint": "of other data"}))
    assert "run on different data or splits" in error_of(run("summary.py", "--out", tmp_path))
    del record["test_loss"]
    (tmp_path / "q5_transfer.json").write_text(json.dumps(record))
    assert "lacks 'test_loss'" in error_of(run("summary.py", "--out", tmp_path))
    assert (tmp_path / "summary.txt").read_text() == before
