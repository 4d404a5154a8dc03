"""That the benchmarks run and report; how long anything takes is not tested."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

from benchmarks import baseline, bench, epochs
from benchmarks.measure import alternate, run_measured

import pytest
from conftest import run_well


def test_the_benchmark_writes_what_it_prints(tmp_path, monkeypatch, capsys):
    def run_once(script, *args):
        """Run a script that is to be measured as the other tests do; the baseline in this process, imports not."""
        if script.endswith(".py"):
            run_well(script, *args)
        elif script == "-m":
            monkeypatch.setattr(sys, "argv", list(map(str, args)))
            baseline.main()
        return 1.25

    monkeypatch.setattr(bench, "peak_memory", run_once)
    monkeypatch.setattr(epochs, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))  # a process starts in seconds
    monkeypatch.setattr(sys, "argv", ["bench", "--count", "200", "--rounds", "1", "--out", str(tmp_path)])
    bench.main()
    results = json.loads((tmp_path / "benchmarks" / "results.json").read_text())
    printed = capsys.readouterr().out
    timings = results["epochs"]
    assert list(timings) == ["loading alone", "FCN", "CNN", "CNN, busy", "transfer"]
    assert all(f"{name:16}" in printed for name in timings)
    for key in ("seconds", "baseline_seconds", "notebook_seconds"):
        projected = 50 * timings["FCN"][key] + 50 * timings["CNN"][key] + 20 * timings["transfer"][key]
        assert results["whole_assignment"][key] == pytest.approx(projected)
    assert "peak memory: Q1 1.25 GB, training 1.25 GB, baseline 1.25 GB" in printed
    assert "SYNTHETIC" in printed


def test_the_ways_take_turns_and_ratios_are_the_medians_of_the_rounds():
    ours, baselines = iter([1, 4, 2]), iter([3, 4, 20])
    timing = alternate({"seconds": lambda: next(ours), "baseline_seconds": lambda: next(baselines)}, 3)
    assert timing == {"seconds": 2, "baseline_seconds": 4, "ratio": 3}


def test_a_script_is_measured_by_the_system(tmp_path):
    seconds, memory = run_measured("-c", "import time; held = b'x' * 300_000_000; time.sleep(0.5)")
    assert seconds > 0.5
    assert 0.3 < memory < 0.5  # not what this process, with torch, needs
