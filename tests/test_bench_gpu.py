"""The dry run of benchmarks.gpu: its checks hold on the CPU, and one that fails is not passed over."""

import sys
from concurrent.futures import ThreadPoolExecutor

from benchmarks import gpu
from common.storage.artifacts import load_json

import conftest
import pytest

DRY_RUN = ["gpu", "--device", "cpu", "--count", "200", "--epochs", "2", "--no-tests"]


def test_the_dry_run_passes_every_check(tmp_path, monkeypatch, capsys):
    as_it_is = gpu.Checks.run

    def run(checks, name, script, *args, **options):
        """Run the project's scripts from a process that has everything imported; anything else as it is."""
        if not script.startswith("q"):
            return as_it_is(checks, name, script, *args, **options)
        done = conftest.run(script, *args)
        (checks.folder / f"{name}.log").write_text(done.stdout + done.stderr)
        return done.returncode, done.stdout + done.stderr

    monkeypatch.setattr(gpu.Checks, "run", run)
    monkeypatch.setattr(gpu, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))  # a process starts in seconds
    monkeypatch.setattr(sys, "argv", [*DRY_RUN, "--out", str(tmp_path)])
    gpu.main()
    rows = {row["name"]: row for row in load_json(tmp_path / "gpu" / "gpu.json")["rows"]}
    assert [name for name, row in rows.items() if row["passed"] is False] == []
    assert {"chain", "killed and resumed, deterministic", "bf16 minus float32, training loss"} <= {
        name for name, row in rows.items() if row["passed"]
    }
    assert "SYNTHETIC" in rows["machine"]["value"]
    printed = capsys.readouterr().out
    assert all(f"{name}: {row['value']}" in printed for name, row in rows.items())


def test_a_failed_check_is_named_and_ends_with_status_1(tmp_path, monkeypatch, capsys):
    rows = [("replayed and plain steps", "same bits False", False), ("a capture", "captured True", True)]
    monkeypatch.setattr(gpu, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setattr(gpu, "check_steps", lambda *_: rows)
    for part in ("run_chain", "load_data", "time_parts", "run_side_by_side", "check_runs"):
        monkeypatch.setattr(gpu, part, lambda *_: None)
    monkeypatch.setattr(sys, "argv", [*DRY_RUN, "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="1"):
        gpu.main()
    assert "Failed, 1 of 4: replayed and plain steps\n" in capsys.readouterr().out
