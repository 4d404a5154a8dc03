import functools
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, heed_ctrl_c, run_well, write_galaxy10

from common.galaxies.facts import SUBSETS
from common.storage.artifacts import load_data
from studies.runs import collect, draw_split, number_list


def square(key, fail=None):
    """Compute a result, as collect calls it in another process."""
    if key == fail:
        raise ValueError(f"no square\nof {key}")
    number = int(key.removeprefix("seed-"))
    print("not to be seen")
    return {"square": number**2, "process": os.getpid(), "threads": torch.get_num_threads(), "undefined": float("nan")}


def killed(key):
    os.kill(os.getpid(), signal.SIGKILL)


KEYS = [f"seed-{seed}" for seed in (3, 0, 1)]


def test_results_come_in_order_and_from_processes_with_one_thread(tmp_path, capfd):
    results = collect(tmp_path, "squares", KEYS, square, {"epochs": 2}, "data")
    assert list(results) == KEYS
    assert [result["square"] for result in results.values()] == [9, 0, 1]
    assert {result["threads"] for result in results.values()} == {1} or os.cpu_count() == 1
    assert os.getpid() not in {result["process"] for result in results.values()} or os.cpu_count() == 1
    assert "seen" not in capfd.readouterr().out
    written = json.loads((tmp_path / "studies/squares/seed-3.json").read_text())
    assert written == results["seed-3"]
    assert written["undefined"] is None
    assert (written["fingerprint"], written["args"]) == ("data", {"epochs": 2})


def test_only_missing_results_and_those_of_other_data_or_settings_are_computed(tmp_path):
    first = collect(tmp_path, "squares", KEYS[:2], square, {"sizes": (1, 2)}, "data")
    (tmp_path / "studies/squares/seed-1.json").write_text("{half")
    again = collect(tmp_path, "squares", KEYS, square, {"sizes": (1, 2)}, "data")
    assert {key: again[key] for key in first} == first
    other = collect(tmp_path, "squares", KEYS, square, {"sizes": (1, 3)}, "data")
    assert all(other[key]["args"] == {"sizes": [1, 3]} for key in KEYS)
    assert all(collect(tmp_path, "squares", KEYS, square, {"sizes": (1, 3)}, "new")[key]["fingerprint"] == "new"
               for key in KEYS)  # fmt: skip


def test_an_error_ends_the_study_in_one_sentence_that_names_the_key_and_keeps_what_is_done(tmp_path):
    compute = functools.partial(square, fail="seed-1")
    with pytest.raises(ValueError, match=r"^squares, seed-1: no square of seed-1$"):
        collect(tmp_path, "squares", ["seed-5", "seed-6", "seed-1"], compute, {}, "data")
    assert not (tmp_path / "studies/squares/seed-1.json").exists()
    assert collect(tmp_path, "squares", ["seed-1"], square, {}, "data")["seed-1"]["square"] == 1


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core computes in the process itself")
def test_a_killed_process_is_reported(tmp_path):
    with pytest.raises(MemoryError, match="was killed"):
        collect(tmp_path, "squares", KEYS, killed, {}, "data")


def sleeping(key):
    (open(f"{os.environ['STARTED']}-{os.getpid()}", "w")).close()
    time.sleep(100)


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core computes in the process itself")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_study(tmp_path, sent):
    code = f"""if __name__ == "__main__":
        import test_studies_runs
        test_studies_runs.collect({str(tmp_path)!r}, "s", ["a", "b"], test_studies_runs.sleeping, {{}}, "data")"""
    script = tmp_path / "script.py"
    script.write_text(code)
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    environment = {**os.environ, "PYTHONPATH": path, "STARTED": str(tmp_path / "started")}
    study = subprocess.Popen(
        [sys.executable, script], env=environment, stderr=subprocess.DEVNULL, preexec_fn=heed_ctrl_c
    )
    wait_until(lambda: len(list(tmp_path.glob("started-*"))) == 2)
    study.send_signal(sent)
    study.wait(60)  # not the 100 s that the processes sleep
    workers = [int(path.name.split("-")[1]) for path in tmp_path.glob("started-*")]
    wait_until(lambda: not any(is_running(worker) for worker in workers))
    assert len(workers) == 2


def is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_lists_of_seeds():
    assert number_list("0-4") == [0, 1, 2, 3, 4]
    assert number_list("7,0,3,3") == [0, 3, 7]
    assert number_list("0-2,8") == [0, 1, 2, 8]
    for text in ("", "4-2", "1,", "a", "-1", "1.5"):
        with pytest.raises(Exception, match="no list of whole numbers"):
            number_list(text)


@pytest.fixture(scope="module")
def seed_eight(tmp_path_factory):
    """The folder that Q1 makes of a file with seed 8, and its other options."""
    folder = tmp_path_factory.mktemp("eight")
    options = "--data", write_galaxy10(folder / "noise.h5", 1300), "--main-train", 1010, "--transfer-train", 30
    run_well("q1_data.py", *options, "--seed", 8, "--out", folder)
    return folder, options


@pytest.mark.parametrize(("seed", "split"), [(0, "stratified"), (3, "stratified"), (1, "file")])
def test_a_split_drawn_again_is_what_q1_makes_of_the_file(seed_eight, tmp_path, seed, split):
    folder, options = seed_eight
    run_well("q1_data.py", *options, "--seed", seed, "--split", split, "--out", tmp_path)
    drawn, expected = draw_split(load_data(folder), seed, split), load_data(tmp_path)
    assert set(drawn) == set(expected)
    for subset in SUBSETS:
        for kind in ("images", "labels", "indices"):
            assert torch.equal(drawn[f"{subset}_{kind}"], expected[f"{subset}_{kind}"])
            assert drawn[f"{subset}_{kind}"].dtype == expected[f"{subset}_{kind}"].dtype
    assert torch.equal(drawn["mean"], expected["mean"])
    assert torch.equal(drawn["std"], expected["std"])
    assert drawn["fingerprint"] == expected["fingerprint"]


def test_a_file_without_indices_is_refused():
    with pytest.raises(ValueError, match=r"rerun q1_data\.py"):
        draw_split({"fingerprint": ""}, 0)


def test_statistics_of_another_number_of_images_are_refused(tmp_path):
    path = write_galaxy10(tmp_path / "noise.h5", 200)
    sizes = "--data", path, "--main-train", 100, "--transfer-train", 30
    run_well("q1_data.py", *sizes, "--stats-images", 20, "--out", tmp_path)
    with pytest.raises(ValueError, match=r"other --stats-images than 1000: rerun q1_data\.py"):
        draw_split(load_data(tmp_path), 0)
