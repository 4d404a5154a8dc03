import json
import os
import signal
from argparse import Namespace

from common.data import load_data
from studies.methods.runs import collect, number_list, resplit, save_study
from studies.methods.training import DEFAULTS, training_settings

import matplotlib.pyplot as plt
import pytest
import torch
from conftest import run_well, write_galaxy10

SEEDS = [{"seed": seed} for seed in (3, 0, 1)]


def square(out, device, seed, fail=None, **settings):
    """A result, as `collect` calls it in another process."""
    if seed == fail:
        raise ValueError(f"no square\nof {seed}")
    return {"square": seed**2, "process": os.getpid(), "threads": torch.get_num_threads(), "undefined": float("nan")}


def killed(out, device, seed):
    os.kill(os.getpid(), signal.SIGKILL)


def squares(out, runs, fingerprint="data", measure=square, **settings):
    args = Namespace(out=out, device="cpu", dask=None)
    return collect("squares", measure, runs, args, {"fingerprint": fingerprint}, **settings)


@pytest.fixture
def two_processes(monkeypatch):
    """Let others compute, one for each core."""
    if os.cpu_count() == 1:
        pytest.skip("one core computes in the process itself")
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")


def test_results_come_in_order_and_from_one_thread_each_and_are_files(tmp_path, two_processes):
    results = squares(tmp_path, SEEDS, epochs=2)
    assert [(result["seed"], result["square"]) for result in results] == [(3, 9), (0, 0), (1, 1)]
    assert {result["threads"] for result in results} == {1}
    assert os.getpid() not in {result["process"] for result in results}
    assert all(result["undefined"] is None for result in results)  # JSON has no NaN
    written = json.loads((tmp_path / "studies/squares/seed-3.json").read_text())
    assert SEEDS[0] | written["result"] == results[0]
    assert (written["fingerprint"], written["args"]) == ("data", {"epochs": 2})
    assert written["networks"] == training_settings()
    assert [each["lr"] for each in written["networks"].values()] == [0.001, 0.002, 0.005]


def test_only_missing_results_and_those_of_other_data_settings_or_networks_are_computed(tmp_path, monkeypatch):
    def times():
        return {path.stem: path.stat().st_mtime_ns for path in (tmp_path / "studies/squares").glob("*.json")}

    squares(tmp_path, SEEDS[:2], sizes=(1, 2))
    before = times()
    (tmp_path / "studies/squares/seed-1.json").write_text("{half")
    assert squares(tmp_path, SEEDS, sizes=(1, 2))[2]["square"] == 1
    assert before.items() <= times().items()
    other = {"sizes": (1, 3)}
    for changes in (other, other | {"fingerprint": "new"}, other | {"fingerprint": "new", "lr": 0.003}):
        monkeypatch.setattr(DEFAULTS["transfer"], "lr", changes.pop("lr", 0.005))
        before = times()
        squares(tmp_path, SEEDS, **changes)
        assert not before.items() & times().items()


def test_an_error_ends_the_study_in_one_sentence_that_names_the_run_and_keeps_what_is_done(tmp_path):
    squares(tmp_path, SEEDS[:1], fail=1)
    with pytest.raises(ValueError, match=r"^squares, seed-1: no square of 1$"):
        squares(tmp_path, SEEDS, fail=1)
    assert not (tmp_path / "studies/squares/seed-1.json").exists()
    assert (tmp_path / "studies/squares/seed-3.json").exists()


def test_a_killed_process_is_reported_with_what_to_do(tmp_path, two_processes):
    with pytest.raises(MemoryError, match=r"^a process was killed: rerun with fewer cores \(taskset\)$"):
        squares(tmp_path, SEEDS, measure=killed)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system allots no cores")
def test_with_one_core_allotted_no_other_process_computes(tmp_path, two_processes):
    allotted = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allotted)})
    try:
        results = squares(tmp_path, SEEDS)
    finally:
        os.sched_setaffinity(0, allotted)
    assert {result["process"] for result in results} == {os.getpid()}


def test_all_figures_of_a_study_name_the_data_in_their_titles(tmp_path):
    figures = [plt.figure() for _ in range(2)]
    for figure in figures:
        figure.suptitle("Title")
    args, data = Namespace(out=str(tmp_path), dask="tcp://a:1"), {"source": "synthetic", "fingerprint": "data"}
    save_study("mine.py", args, data, figures[0], ["Answer.", "Note."], {"other": figures[1]}, entry=1)
    assert {figure.get_suptitle() for figure in figures} == {"Title · SYNTHETIC galaxies"}
    assert {path.name for path in (tmp_path / "studies").glob("mine*")} == {"mine.json", "mine.png", "mine_other.png"}
    record = json.loads((tmp_path / "studies" / "mine.json").read_text())
    assert (record["answer"], record["notes"], record["entry"]) == ("Answer.", ["Note."], 1)
    assert record["args"] == {"out": str(tmp_path)}


def test_lists_of_seeds():
    for text, numbers in (("0-4", [0, 1, 2, 3, 4]), ("7,0,3,3", [0, 3, 7]), ("0-2,8", [0, 1, 2, 8])):
        assert number_list(text) == numbers
    for text in ("", "4-2", "1,", "a", "-1", "1.5"):
        with pytest.raises(ValueError):  # noqa: PT011 (argparse writes the sentence)
            number_list(text)


@pytest.fixture(scope="module")
def by_q1(tmp_path_factory):
    """Q1's dicts of one file: stratified with seed 8, and in the file's order."""
    folder = tmp_path_factory.mktemp("q1")
    options = "--data", write_galaxy10(folder / "noise.h5", 1300), "--main-train", 1010, "--transfer-train", 30
    run_well("q1_data.py", *options, "--seed", 8, "--out", folder / "stratified")
    run_well("q1_data.py", *options, "--split", "file", "--out", folder / "file")
    return {split: load_data(folder / split) for split in ("stratified", "file")}


@pytest.mark.parametrize(("first", "split"), [("file", "stratified"), ("stratified", "file")])
def test_a_new_split_is_what_q1_makes_of_the_file(by_q1, first, split):
    found, expected = resplit(by_q1[first], 8, split), dict(by_q1[split])
    del expected["appearance"]  # which no study needs
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if torch.is_tensor(value):
            assert torch.equal(found[key], value)
            assert found[key].dtype == value.dtype
        else:
            assert found[key] == value


def test_statistics_of_another_number_of_images_are_refused(by_q1):
    with pytest.raises(ValueError, match=r"--stats-images other than 1000: rerun q1_data\.py"):
        resplit(by_q1["file"] | {"mean": by_q1["file"]["mean"] + 0.1}, 0)
