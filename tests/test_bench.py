"""That the benchmarks run and report; how long anything takes is not tested."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

from benchmarks import baseline, bench, epochs, gpu, pictures
from benchmarks.measure import compare, peak_memory
from common.storage.artifacts import load_json

import conftest
import pytest
from conftest import run_well

TIMING = {"seconds": 2.0, "baseline_seconds": 3.0, "ratio": 1.5}


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """The results of the benchmark on few galaxies. Only the memory is a stand-in; processes are threads or forked."""
    out = tmp_path_factory.mktemp("bench")

    def run_once(script, *args, stdin=None):
        if script.endswith(".py"):
            run_well(script, *args, stdin=stdin.name if stdin else "/dev/null")
        elif script == "-m":
            patch.setattr(sys, "argv", list(map(str, args)))
            baseline.main()
        return 1.25

    with pytest.MonkeyPatch.context() as patch:
        for module in (bench, pictures):
            patch.setattr(module, "peak_memory", run_once)
        patch.setattr(epochs, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
        sizes = ("--count", "200", "--pictures", "40", "--many", "50", "--rounds", "1")
        patch.setattr(sys, "argv", ["bench", *sizes, "--out", str(out)])
        bench.main()
    return json.loads((out / "benchmarks" / "results.json").read_text())


def test_the_table_has_a_row_for_each_measurement_and_fits_a_screen(benchmark):
    timings = benchmark["timings"]
    *tasks, projected, jpegs = timings
    assert tasks == ["loading alone", "FCN", "CNN", "CNN, busy", "transfer"]
    for key in ("seconds", "baseline_seconds"):
        expected = 50 * timings["FCN"][key] + 50 * timings["CNN"][key] + 20 * timings["transfer"][key]
        assert timings[projected][key] == pytest.approx(expected)
    lines = bench.table(benchmark).splitlines()
    assert "SYNTHETIC" in lines[0]
    assert len(lines) <= 24
    for name, timing in timings.items():
        assert any(line.startswith(name) and f"{timing['ratio']:.1f}x" in line for line in lines)
    memory = ["Q1", "training", "baseline", "packages", jpegs.replace("JPEGs", "pictures"), "50 pictures"]
    assert [line.split(": ")[1].split("  ")[0] for line in lines if "1.25 GB" in line] == memory


def test_predict_agrees_with_a_plain_loop_of_pil_and_torchvision(benchmark):
    difference = benchmark["timings"]["40 JPEGs"]["difference"]
    assert difference < 0.003  # JPEGs decoded at a lower scale, and resized by area and not linearly


def test_both_ways_take_turns_and_the_ratio_is_the_median_of_the_rounds():
    ours, baselines = iter([1, 4, 2]), iter([3, 4, 20])
    timing = compare(lambda: next(ours), lambda: next(baselines), 3)
    assert timing == {"seconds": 2, "baseline_seconds": 4, "ratio": 3}


def test_the_memory_of_a_script_is_measured_by_the_system():
    memory = peak_memory("-c", "held = b'x' * 300_000_000")
    assert 0.3 < memory < 0.5  # without this process, which has imported torch


def test_the_dry_run_on_the_cpu_passes_every_check(tmp_path, monkeypatch, capsys):
    def run(command, stdout, **options):
        script, *args = command[1:]
        return conftest.run(script, *args)

    monkeypatch.setattr(gpu.subprocess, "run", run)
    monkeypatch.setattr(gpu, "time_epochs", lambda *_: {"CNN": TIMING})
    options = ["--device", "cpu", "--count", "200", "--epochs", "2"]
    monkeypatch.setattr(sys, "argv", ["gpu", *options, "--out", str(tmp_path)])
    gpu.main()
    rows = {row["name"]: row for row in load_json(tmp_path / "gpu" / "gpu.json")["rows"]}
    checked = {"chain", *(f"{run}, GPU and CPU" for run in ("q2_fcn, epoch 1", "q3_cnn, epoch 1"))}
    assert {name for name, row in rows.items() if row["passed"]} == checked | {"q3_cnn_resumed, epoch 2, GPU and CPU"}
    assert "SYNTHETIC" in rows["machine"]["value"]
    printed = capsys.readouterr().out
    assert all(f"{name}: {row['value']}" in printed for name, row in rows.items())


def test_a_failed_check_is_named_and_ends_with_status_1(tmp_path, monkeypatch, capsys):
    for part in ("load_data", "time_parts", "compare_devices"):
        monkeypatch.setattr(gpu, part, lambda *_: None)
    monkeypatch.setattr(gpu, "time_epochs", lambda *_: {})
    monkeypatch.setattr(gpu, "run_chain", lambda checks, *_: checks.note("chain", "exit status [2]", False))
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="1"):
        gpu.main()
    assert "Failed, 1 of 2: chain\n" in capsys.readouterr().out
