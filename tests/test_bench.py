"""That the benchmarks run and report; how long anything takes is not tested."""

import json
import re
import sys

from benchmarks import baseline, bench, pieces, scale
from benchmarks.measure import run_measured
from common.data import Normalize, RandomCrop

import pytest
import torch
from conftest import random_data, run_well


def test_the_benchmark_writes_what_it_prints(tmp_path, monkeypatch, capsys):
    def run_once(*command):
        """Run what is to be measured, without a process of its own; a process is measured below."""
        if command[0] == "-m":
            monkeypatch.setattr(sys, "argv", list(map(str, command[1:])))
            baseline.main()
        elif command[0] != "-c":
            run_well(*command)
        return 1.25

    monkeypatch.setattr(bench, "peak_memory", run_once)
    monkeypatch.setattr(sys, "argv", ["bench", "--count", "400", "--rounds", "1", "--out", str(tmp_path)])
    bench.main()
    results = json.loads((tmp_path / "benchmarks" / "results.json").read_text())
    printed = capsys.readouterr().out
    epochs, whole = results["epochs"], results["whole_assignment"]
    assert set(epochs) == {"loading alone", "FCN", "CNN", "CNN, busy", "transfer"}
    for name, timing in epochs.items():
        assert timing["ratio"] == timing["baseline_seconds"] / timing["seconds"]
        assert timing["notebook_ratio"] == timing["notebook_seconds"] / timing["seconds"]
        assert f"{name:16}" in printed
    for key in ("seconds", "baseline_seconds", "notebook_seconds"):
        projected = 50 * epochs["FCN"][key] + 50 * epochs["CNN"][key] + 20 * epochs["transfer"][key]
        assert whole[key] == pytest.approx(projected)
    assert "peak memory: Q1 1.25 GB, training 1.25 GB, baseline 1.25 GB" in printed
    assert "SYNTHETIC" in printed


def test_each_piece_is_measured_with_both_networks(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pieces", "--count", "150", "--rounds", "1"])
    pieces.main()
    printed = capsys.readouterr().out
    assert "SYNTHETIC" in printed
    for piece in pieces.PIECES:
        ratios = re.search(rf"^{piece} +([0-9.]+)x +([0-9.]+)x$", printed, re.MULTILINE)
        assert all(float(ratio) > 0 for ratio in ratios.groups())


def test_the_plain_code_of_a_piece_gives_the_same_crops():
    images, _ = random_data(50)
    crop, normalize = RandomCrop(48), Normalize(torch.tensor([40.0, 50.0, 60.0]), torch.tensor([30.0, 20.0, 10.0]))
    where = torch.randperm(50)[:20].numpy(), *crop.get_params(69, 69, 20)
    crops = crop.crop_batch(images, *where)
    assert torch.equal(pieces.crop_by_indexing(crop, images, *where), crops)
    torch.testing.assert_close(pieces.normalize_as_torchvision(normalize, crops), normalize(crops.clone()))


def test_the_growth_with_the_number_of_images_is_measured_and_drawn(tmp_path, monkeypatch, capsys):
    def measure(count, folder, device):
        folder.mkdir(parents=True)
        times = {name: (0.001 * count) ** power for power, name in enumerate(scale.SCRIPTS)}
        return {name: {"seconds": value, "peak_memory_gb": 0.5 + count / 1000} for name, value in times.items()}

    monkeypatch.setattr(scale, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["scale", "--counts", "100,1000,4000", "--out", str(tmp_path)])
    scale.main()
    record = json.loads((tmp_path / "benchmarks" / "scale.json").read_text())
    assert list(record["time_exponent"].values()) == pytest.approx([0, 1, 2, 3, 4])
    printed = capsys.readouterr().out
    assert f"{0.5 + 4 - 4000 * 69 * 69 * 3 / 1e9:.2f} GB above the pictures' own 0.06 GB" in printed
    assert "Q1 0.00, Q2 1.00, Q3 2.00" in printed
    assert {path.name for path in (tmp_path / "benchmarks").glob("[!.]*")} == {"scale.json", "scale.png"}


def test_a_script_is_measured_by_the_system(tmp_path):
    seconds, memory = run_measured("-c", "import time; held = b'x' * 300_000_000; time.sleep(0.5)")
    assert seconds > 0.5
    assert 0.3 < memory < 0.5  # not what this process, with torch, needs
