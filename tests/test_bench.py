"""That the benchmark runs and reports; how long anything takes is not tested."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

import benchmarks.scale


def test_the_benchmark_writes_what_it_prints(tmp_path):
    command = [sys.executable, "-m", "benchmarks.bench", "--count", "400", "--rounds", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    results = json.loads((tmp_path / "benchmarks" / "results.json").read_text())
    assert set(results["epochs"]) == {"loading alone", "FCN", "CNN", "CNN, bf16", "transfer"}
    for name, timing in results["epochs"].items():
        assert timing["ratio"] == timing["baseline_seconds"] / timing["seconds"]
        assert f"{name:16}" in done.stdout
    assert 0 < results["cnn_share_of_matmul"] < 1
    assert results["peak_memory_gb"]["imports"] > 0.1
    assert "SYNTHETIC" in done.stdout


def test_the_growth_with_the_number_of_images_is_measured_and_drawn(tmp_path, monkeypatch, capsys):
    def measure(count, folder, device):
        folder.mkdir(parents=True)
        times = {name: (0.001 * count) ** power for power, name in enumerate(benchmarks.scale.SCRIPTS)}
        return {name: {"seconds": value, "peak_memory_gb": 0.5 + count / 1000} for name, value in times.items()}

    monkeypatch.setattr(benchmarks.scale, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["scale", "--counts", "100,1000,4000", "--out", str(tmp_path)])
    benchmarks.scale.main()
    record = json.loads((tmp_path / "benchmarks" / "scale.json").read_text())
    assert list(record["time_exponent"].values()) == pytest.approx([0, 1, 2, 3, 4])
    printed = capsys.readouterr().out
    assert f"{0.5 + 4 - 4000 * 69 * 69 * 3 / 1e9:.2f} GB above the pictures' own 0.06 GB" in printed
    assert "Q1 0.00, Q2 1.00, Q3 2.00" in printed
    assert {path.name for path in (tmp_path / "benchmarks").glob("[!.]*")} == {"scale.json", "scale.png"}


def test_a_script_is_measured_by_the_system(tmp_path):
    seconds, memory = benchmarks.scale.run_measured("-c", "import time; held = b'x' * 300_000_000; time.sleep(0.5)")
    assert seconds > 0.5
    assert 0.3 < memory < 0.5  # not what this process, with torch, needs
