"""That the benchmark runs and reports; how long anything takes is not tested."""

import json
import subprocess
import sys

from conftest import ROOT


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
