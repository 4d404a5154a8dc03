"""That the benchmarks run and report; how long anything takes is not tested."""

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor

from benchmarks import baseline, bench, epochs, pieces, scale
from benchmarks.measure import alternate, run_measured
from common.data import Normalize, RandomCrop

import pytest
import torch
from conftest import float32_tolerance, random_data, run_well


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
    limit = float32_tolerance(4, 255 / 10)  # four roundings each, of values up to 255 / 10
    plain = pieces.normalize_as_torchvision(normalize, crops)
    torch.testing.assert_close(plain, normalize(crops.clone()), atol=limit, rtol=0)


def test_the_growth_with_the_number_of_images_is_measured_and_drawn(tmp_path, monkeypatch, capsys):
    def measure(count, folder, device):
        folder.mkdir(parents=True)
        return {name: {"seconds": 3 * count**1.5, "peak_memory_gb": 0.5 + count / 1000} for name in scale.SCRIPTS}

    monkeypatch.setattr(scale, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["scale", "--counts", "1000,4000", "--out", str(tmp_path)])
    scale.main()
    record = json.loads((tmp_path / "benchmarks" / "scale.json").read_text())
    assert record["time_exponent"] == pytest.approx(dict.fromkeys(scale.SCRIPTS, 1.5))
    printed = capsys.readouterr().out
    assert f"{0.5 + 4 - 4000 * 69 * 69 * 3 / 1e9:.2f} GB above the pictures' own 0.06 GB" in printed
    assert {path.name for path in (tmp_path / "benchmarks").glob("[!.]*")} == {"scale.json", "scale.png"}


def test_a_script_is_measured_by_the_system(tmp_path):
    seconds, memory = run_measured("-c", "import time; held = b'x' * 300_000_000; time.sleep(0.5)")
    assert seconds > 0.5
    assert 0.3 < memory < 0.5  # not what this process, with torch, needs
