"""predict.py on many pictures: rows are kept as they come, and an interrupted run resumes to the same bytes."""

import json
import os
import re
import shlex
import shutil
import signal
import time
from contextlib import suppress
from copy import deepcopy

from common.storage.artifacts import load_json
from q3_cnn import make_cnn
from use import output
from use.journal import Journal
from use.output import JsonFile, Sheet

import numpy as np
import pytest
import torch
from conftest import ROOT, error_of, float32_tolerance, products_of, run
from forked import start
from networks import galaxies, plain_logits, save_cutouts, save_network, save_pictures

OUTPUTS = {"--csv": "a.csv", "--json": "a.json", "--html": "a.html"}
ROWS = 2600  # more than are in one piece


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network with random weights, pictures in files and in an HDF5 file, and in whole/ what a run writes."""
    folder = tmp_path_factory.mktemp("resume")
    save_network(folder)
    save_pictures(folder, [f"{number}.png" for number in range(70)])
    save_cutouts(folder / "cutouts.h5", ROWS)
    (folder / "truth.csv").write_text("".join(f"cutouts[{row}],{row % 8}\n" for row in range(ROWS - 10)))
    shutil.copytree(folder, folder / "whole", ignore=lambda *_: ["whole"])
    done = run("predict.py", *arguments(folder, folder / "whole"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "1 of 72 files could not be read."
    assert "Accuracy" in done.stdout
    (folder / "whole.txt").write_text(done.stdout[done.stdout.index("Accuracy") :])
    return folder


def arguments(folder, out, *more):
    """The arguments of a run that writes into `out`; one file is missing."""
    pictures = [*(folder / f"{number}.png" for number in range(70)), folder / "none.png", folder / "cutouts.h5"]
    outputs = [part for option, name in OUTPUTS.items() for part in (option, out / name)]
    options = ("--model", folder / "q3_cnn.pt", "--truth", folder / "truth.csv", "--quiet")
    return list(map(str, (*pictures, *options, *outputs, *more)))


def interrupted(folder, out, ending, more=()):
    """Start a run and end it by a signal when some pictures are done; return its status and what is on stderr."""
    errors, part, journal = out / "stderr", out / "a.csv.part", out / "a.csv.resume"
    before = part.stat().st_size if part.exists() else 0
    process = start("predict.py", *arguments(folder, out, *more), log="/dev/null", errors=errors)
    while process.is_alive() and not (
        part.exists() and part.stat().st_size > before + 5000 and load_json(journal)["progress"]["done"]
    ):
        time.sleep(0.02)
    os.kill(process.pid, ending)
    process.join()
    text = errors.read_text()
    errors.unlink()
    return process.exitcode, text


def same_as_whole(folder, out):
    for name in OUTPUTS.values():
        assert (out / name).read_bytes() == (folder / "whole" / name).read_bytes()
    assert sorted(path.name for path in out.iterdir()) == sorted(OUTPUTS.values())


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_keeps_its_rows_and_resumes_to_the_same_bytes(folder, tmp_path, ending):
    (tmp_path / "a.csv").write_text("old")
    status, errors = interrupted(folder, tmp_path, ending)
    assert status == {signal.SIGINT: 130, signal.SIGKILL: -9}[ending]
    assert (tmp_path / "a.csv").read_text() == "old"
    rows = (tmp_path / "a.csv.part").read_text().splitlines()
    assert (folder / "whole" / "a.csv").read_text().splitlines()[: len(rows) - 1] == rows[:-1]
    assert len(rows) > 60
    if ending != signal.SIGKILL:
        parts = ", ".join(str(tmp_path / f"{name}.part") for name in OUTPUTS.values())
        assert f"{parts}: the {len(rows) - 1:,} pictures so far are kept there.\n" in errors
    if ending == signal.SIGINT:
        command = re.search(r"interrupted; to resume: python (\S*predict.py .* --resume)(?: \(or .*)?\n$", errors)[1]
        done = run(*shlex.split(command.removeprefix(f"{ROOT}/")))
    else:
        done = run("predict.py", *arguments(folder, tmp_path, "--resume"))
    resumed = re.search(r"^Resuming .*a.csv.part: ([\d,]+) pictures are done.$", done.stdout, re.MULTILINE)
    assert 0 < int(resumed[1].replace(",", "")) < 2670
    assert done.stderr.splitlines()[-1] == "1 of 72 files could not be read."  # also if it was before
    assert done.stdout.endswith((folder / "whole.txt").read_text())  # accuracy, log loss, calibration error and so on
    same_as_whole(folder, tmp_path)


def test_files_that_are_written_as_a_whole_resume_to_the_same_bytes(folder, tmp_path):
    pytest.importorskip("astropy.table")
    given = [folder / "cutouts.h5", "--model", folder / "q3_cnn.pt", "--quiet", "--crops", 1]
    outputs = ("--csv", tmp_path / "whole.fits", "--features", tmp_path / "whole.npz")
    assert run("predict.py", *given, *outputs).returncode == 0
    table = tmp_path / "new" / "a.fits"
    others = ("--features", table.with_suffix(".npz"), "--json", table.with_suffix(".json"))
    arguments = [*given, "--csv", table, *others]
    process = start("predict.py", *arguments, log="/dev/null", errors=tmp_path / "stderr")
    part = table.with_name(f"{table.name}.part")
    while process.is_alive() and not (part.exists() and part.stat().st_size > 50_000):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 143
    assert not table.exists()
    assert run("predict.py", *arguments, "--resume").returncode == 0
    assert table.read_bytes() == (tmp_path / "whole.fits").read_bytes()
    assert table.with_suffix(".npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert len(json.loads(table.with_suffix(".json").read_text())) == ROWS
    assert sorted(path.name for path in table.parent.iterdir()) == sorted(["a.fits", "a.json", "a.npz"])


def test_what_was_torn_is_written_anew_and_a_run_may_be_interrupted_again(folder, tmp_path):
    interrupted(folder, tmp_path, signal.SIGKILL)
    with open(tmp_path / "a.csv.part", "ab") as file:
        file.write(b"cutouts.h5[2000],cutouts[20")
    assert interrupted(folder, tmp_path, signal.SIGTERM, ["--resume"])[0] == 143
    assert run("predict.py", *arguments(folder, tmp_path, "--resume")).returncode == 2
    same_as_whole(folder, tmp_path)


def test_what_an_interrupted_run_has_written_is_neither_overwritten_nor_continued_by_another(folder, tmp_path):
    interrupted(folder, tmp_path, signal.SIGTERM)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    error = error_of(run("predict.py", *arguments(folder, tmp_path)))
    assert f"{tmp_path}/a.csv.part holds what an interrupted run has written: add --resume to continue it" in error
    (tmp_path.parent / "other").mkdir()
    error = error_of(run("predict.py", *arguments(folder, tmp_path, "--resume")[1:]))
    assert "a.csv.resume belongs to a run with different pictures: delete it" in error
    for more, difference in (
        (["--crops", "4"], "--crops 9, not 4"),
        (["--symmetries"], "--symmetries False, not True"),
        (["--field", "0.5"], "--field 1.0, not 0.5"),
        (["--truth", str(folder / "other.csv")], "different true classes"),
        (["--model", str(save_network(tmp_path.parent / "other", "q2_fcn"))], "different network"),
        (["--json", str(tmp_path / "b.json")], "different files to write"),
    ):
        (folder / "other.csv").write_text("cutouts[0],0\n")
        error = error_of(run("predict.py", *arguments(folder, tmp_path, "--resume", *more)))
        assert f"a.csv.resume belongs to a run with {difference}: delete it" in error
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def interrupted_in_a_batch(path):
    """Classify a picture, if none is yet, and be interrupted with another; return what was counted before."""
    journal = Journal([JsonFile(path)], {}, classes=2)
    with suppress(KeyboardInterrupt), journal.writing(resume=True) as progress:
        before = deepcopy(progress)
        if not progress.rows:
            progress.count([0.3, 0.7], 1, 0)
            journal.files[0].write({"file": "a"}, None)
            journal.mark()
        progress.count([0.3, 0.7], 1, 0)
        raise KeyboardInterrupt
    return before.predicted, before.confusion, before.log_loss


def test_a_part_that_is_shorter_than_it_was_is_begun_again(tmp_path):
    path, part = tmp_path / "a.json", tmp_path / "a.json.part"
    interrupted_in_a_batch(path)
    part.write_bytes(part.read_bytes()[:-1])
    assert interrupted_in_a_batch(path)[0] == [0, 0]


def test_the_journal_stays_as_small_as_its_record(tmp_path):
    journal, sizes = Journal([JsonFile(tmp_path / "a.json")], {}, classes=2), set()
    with journal.writing(resume=False) as progress:
        for _ in range(9):
            journal.last_saved = float("-inf")
            progress.count([0.3, 0.7], 1, None)
            journal.mark()
            sizes.add(journal.path.stat().st_size)
    assert len(sizes) == 1


def test_what_is_counted_after_the_last_mark_is_not_kept(tmp_path):
    counts = [interrupted_in_a_batch(tmp_path / "a.json") for _ in range(3)]
    assert counts[0] == ([0, 0], [[0, 0], [0, 0]], 0)
    assert counts[1] == counts[2] == ([0, 1], [[0, 1], [0, 0]], -np.log(0.3))


def test_of_two_runs_at_once_the_second_is_refused(folder, tmp_path):
    process = start("predict.py", *arguments(folder, tmp_path), log="/dev/null")
    try:
        while process.is_alive() and not (tmp_path / "a.csv.part").exists():
            time.sleep(0.02)
        errors = [error_of(run("predict.py", *arguments(folder, tmp_path, *more))) for more in ((), ("--resume",))]
    finally:
        process.kill()
        process.join()
    error = f"error: {tmp_path}: another run is writing a.csv.resume there: wait for it, or write elsewhere"
    assert errors == [error, error]
    assert run("predict.py", *arguments(folder, tmp_path, "--resume")).returncode == 2
    same_as_whole(folder, tmp_path)


def test_with_nothing_to_resume_it_starts_from_the_beginning_and_without_rows_nothing_stays(folder, tmp_path):
    picture, model = folder / "0.png", ("--model", folder / "q3_cnn.pt")
    done = run("predict.py", picture, *model, "--csv", tmp_path / "a.csv", "--resume")
    assert f"{tmp_path}/a.csv.part not found, so nothing to resume: starting from the beginning." in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    error = error_of(run("predict.py", picture, *model, "--csv", tmp_path / "b.csv", "--json", "/dev/full"))
    assert "/dev/full: No space left on device" in error
    error = error_of(run("predict.py", picture, *model, "--csv", "/dev/null", "--resume"))
    assert "--resume: what is written to a device or a pipe cannot be continued" in error
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_quiet_prints_no_table(folder):
    done = run("predict.py", folder / "0.png", "--model", folder / "q3_cnn.pt", "--quiet")
    assert len(done.stdout.splitlines()) == 1
    assert "It knows 8 classes" in done.stdout
    assert done.stderr == ""


def test_a_contact_sheet_shows_the_least_certain_of_many(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "SHEET_CARDS", 3)
    names = ["spiral", "round"]
    sheet = Sheet(tmp_path / "a.html", names, 9, "about")
    sheet.open()
    probabilities = [0.9, 0.6, 0.8, 0.7, 0.6, 0.95]
    for number, probability in enumerate(probabilities):
        record = {"class": 0, "class_name": "spiral", "probability": probability, "probabilities": [probability, 0.1]}
        record |= {"second": 1, "second_name": "round", "disagreement": 0, "out_of_range": [], "file": f"{number}.png"}
        sheet.write(record, "data:")
    sheet.summarise([6, 0], "")
    sheet.complete()
    sheet.rename()
    page = (tmp_path / "a.html").read_text()
    assert re.findall(r">(\d.png)</p>", page) == ["1.png", "4.png", "3.png"]
    assert "spiral <span>· 6, of which the 3 least certain" in page
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


def test_in_pieces_each_row_of_an_hdf5_file_has_its_own_picture(folder):
    found = {record["file"]: record["probabilities"] for record in json.loads((folder / "whole/a.json").read_text())}
    path = folder / "cutouts.h5"
    rows = [f"{path}[{row}]" for row in range(ROWS)]
    assert list(found) == [*(str(folder / f"{number}.png") for number in range(70)), *rows]
    logits = plain_logits(folder / "q3_cnn.pt", torch.from_numpy(galaxies(100)).permute(0, 3, 1, 2))
    limit = float32_tolerance(products_of(make_cnn()), logits)  # the last bits depend on which pictures share a batch
    for row in (0, 99, 2047, 2048, 2599):  # images repeat after a hundred
        assert found[f"{path}[{row}]"] == pytest.approx(found[f"{path}[{row % 100}]"], abs=limit)
