"""The dry run of benchmarks.gpu: its checks hold on the CPU, and one that fails is not passed over."""

import sys
from concurrent.futures import ThreadPoolExecutor

from benchmarks import gpu
from common.storage.artifacts import load_json

import conftest
import pytest

DRY_RUN = ["gpu", "--device", "cpu", "--count", "200", "--epochs", "2"]


def test_the_dry_run_passes_every_check(tmp_path, monkeypatch, capsys):
    def run(checks, folder, script, *args):
        """Run the scripts from a process that has everything imported."""
        data = checks.prepare(folder)
        return conftest.run(f"{script}.py", *args, "--out", data).returncode

    monkeypatch.setattr(gpu.Checks, "run", run)
    monkeypatch.setattr(gpu, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))  # a process starts in seconds
    monkeypatch.setattr(sys, "argv", [*DRY_RUN, "--out", str(tmp_path)])
    gpu.main()
    rows = {row["name"]: row for row in load_json(tmp_path / "gpu" / "gpu.json")["rows"]}
    assert [name for name, row in rows.items() if row["passed"] is False] == []
    assert {name for name, row in rows.items() if row["passed"]} >= {
        "chain",
        "replayed and plain steps, deterministic",
        "q3_cnn_resumed, epoch 2, card and CPU",
        "killed and resumed, deterministic",
    }
    assert "SYNTHETIC" in rows["machine"]["value"]
    printed = capsys.readouterr().out
    assert all(f"{name}: {row['value']}" in printed for name, row in rows.items())


def test_a_failed_check_is_named_and_ends_with_status_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setattr(gpu, "compare_steps", lambda *_: ("replayed and plain steps", "same bits False", False))
    for part in ("run_chain", "load_data", "time_parts", "compare_devices", "compare_resumed"):
        monkeypatch.setattr(gpu, part, lambda *_: None)
    monkeypatch.setattr(sys, "argv", [*DRY_RUN, "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="1"):
        gpu.main()
    assert "Failed, 1 of 2: replayed and plain steps\n" in capsys.readouterr().out
