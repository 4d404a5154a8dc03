"""predict.py on many pictures: rows are kept as they come, and an interrupted run resumes to the same bytes."""

import json
import os
import signal
import time

from q3_cnn import make_cnn
from use.rows import Rows

import numpy as np
import pytest
import torch
from conftest import error_of, float32_tolerance, products_of, run
from forked import start
from networks import galaxies, plain_logits, save_cutouts, save_network, save_pictures

OUTPUTS = {"--csv": "a.csv", "--json": "a.json", "--html": "a.html", "--features": "a.npz"}
ROWS = 2600  # more than are in one piece


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network with random weights, pictures in files and in an HDF5 file, and in whole/ what a run writes."""
    folder = tmp_path_factory.mktemp("resume")
    save_network(folder)
    save_pictures(folder, [f"{number}.png" for number in range(70)])
    save_cutouts(folder / "cutouts.h5", ROWS)
    (folder / "truth.csv").write_text(
        "name,class\n" + "".join(f"cutouts[{row}],{row % 8}\n" for row in range(ROWS - 10))
    )
    done = run("predict.py", *arguments(folder, folder / "whole"))
    assert done.returncode == 2
    (folder / "whole.txt").write_text(after_table(done.stdout))
    (folder / "whole.err").write_text(done.stderr)
    return folder


def arguments(folder, out, *more):
    """The arguments of a run that writes into `out`; one file is missing."""
    pictures = [*(folder / f"{n}.png" for n in range(70)), folder / "none.png", folder / "cutouts.h5"]
    outputs = [part for option, name in OUTPUTS.items() for part in (option, out / name)]
    options = ("--model", folder / "q3_cnn.pt", "--truth", folder / "truth.csv", "--quiet")
    return list(map(str, (*pictures, *options, *outputs, *more)))


def after_table(printed):
    return printed[printed.index("mean probability") :]


def interrupted(folder, out, ending, more=()):
    """Start a run and end it by a signal when some rows are written; return its status and what is on stderr."""
    errors, part = out / "stderr", out / "a.csv.part"
    before = part.stat().st_size if part.exists() else 0
    process = start("predict.py", *arguments(folder, out, *more), log="/dev/null", errors=errors)
    while process.is_alive() and not (part.exists() and part.stat().st_size > before + 5000):
        time.sleep(0.02)
    os.kill(process.pid, ending)
    process.join()
    text = errors.read_text()
    errors.unlink()
    return process.exitcode, text


def test_a_run_that_is_killed_twice_resumes_to_the_same_bytes_and_is_not_done_again(folder, tmp_path):
    (tmp_path / "a.csv").write_text("old")
    assert interrupted(folder, tmp_path, signal.SIGKILL)[0] == -9
    with open(tmp_path / "a.csv.part", "ab") as file:
        file.write(b"cutouts.h5[2000],cutouts[20")  # torn
    assert interrupted(folder, tmp_path, signal.SIGKILL, ["--resume"])[0] == -9
    assert (tmp_path / "a.csv").read_text() == "old"
    done = run("predict.py", *arguments(folder, tmp_path, "--resume"))
    assert after_table(done.stdout) == (folder / "whole.txt").read_text()
    assert done.stderr == (folder / "whole.err").read_text()  # which names what could not be read before, too
    done = run("predict.py", *arguments(folder, tmp_path, "--resume"))
    assert (done.returncode, done.stdout.splitlines()[-1].endswith("complete, nothing to do.")) == (0, True)
    for name in OUTPUTS.values():
        assert (tmp_path / name).read_bytes() == (folder / "whole" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*OUTPUTS.values(), "a.csv.resume"])


@pytest.mark.parametrize(("ending", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_keeps_its_rows_and_says_so(folder, tmp_path, ending, status):
    slow = ["--crops", "121"]
    found, errors = interrupted(folder, tmp_path, ending, slow)
    rows = (tmp_path / "a.csv.part").read_text().splitlines()
    assert found == status
    assert f"{tmp_path}/a.csv.part: contains the {len(rows) - 1:,} pictures classified so far.\n" in errors
    if ending == signal.SIGTERM:  # what refuses to continue is the same
        return
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path.parent / "other.csv").write_text("cutouts[0],0\n")
    resumed = arguments(folder, tmp_path, *slow, "--resume")
    for command, sentence in (
        (resumed[:-1], "a.csv.part holds the rows of an interrupted run: add --resume to continue it, or delete it"),
        (resumed[1:], "a.csv.resume belongs to a run with different pictures: delete"),
        ([*resumed, "--temperature", 2], "belongs to a run with --temperature 1.0, not 2.0"),
        ([*resumed, "--truth", tmp_path.parent / "other.csv"], "belongs to a run with different true classes"),
        ([*resumed, "--json", tmp_path / "b.json"], "belongs to a run with different files to write"),
    ):
        assert sentence in error_of(run("predict.py", *command))
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_run_interrupted_before_the_first_rows_says_that_nothing_is_kept(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        write_rows(tmp_path / "a.csv", 0, ending=KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []
    sentence = "interrupted before the first pictures were classified: nothing was saved\n"
    assert capsys.readouterr().err == sentence
    with pytest.raises(ValueError, match="no"):
        write_rows(tmp_path / "a.csv", 0, ending=ValueError("no"))
    assert capsys.readouterr().err == ""


def test_of_two_runs_at_once_the_second_is_refused(tmp_path):
    first, second = Rows(tmp_path / "a.csv"), Rows(tmp_path / "a.csv")
    with first.writing({}, b"name\n", resume=False):
        first.append({"csv": b"0\n"}, 1, 0, 1)
        with pytest.raises(BlockingIOError, match=r"another run is writing a\.csv\.resume there: wait for it"):
            second.writing({}, b"name\n", resume=True).__enter__()
        first.end(is_output=True)
    assert (tmp_path / "a.csv").read_text() == "name\n0\n"


def write_rows(path, count, resume=False, ending=None, full=False):
    """Write rows of CSV and features, one in a batch, then fill the disk, raise `ending` or complete them."""
    rows = Rows(path, ["features"])
    with rows.writing({"--crops": 9}, b"name\n", resume):
        for number in range(rows.count, rows.count + count):
            contents = {"csv": b"%d\n" % number, "features": bytes([number] * 4)}
            rows.append(contents, 1, 0, number + 1, [f"{number}?"], [number])
        if full:
            rows.files[0] = open("/dev/full", "ab")  # noqa: SIM115
            rows.append({"csv": b"row"}, 1, 0, count + 1)
        if ending:
            raise ending
        rows.end(is_output=True)
    return rows


def test_a_row_counts_when_all_that_belongs_to_it_is_there(tmp_path):
    for torn in ("a.csv.part", "a.csv.part.features", "a.csv.resume"):
        for resume in (False, True):
            with pytest.raises(KeyboardInterrupt):
                write_rows(tmp_path / "a.csv", 3, resume, ending=KeyboardInterrupt())
            os.truncate(tmp_path / torn, (tmp_path / torn).stat().st_size - 1)
        rows = write_rows(tmp_path / "a.csv", 1, resume=True)
        assert (rows.count, rows.done) == (5, 5)
        assert (rows.errors, rows.trained) == ([f"{number}?" for number in range(5)], set(range(5)))
        assert (tmp_path / "a.csv").read_text() == "name\n0\n1\n2\n3\n4\n"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.csv.resume"]


def test_rows_are_never_removed_and_without_rows_nothing_stays(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no"):
        write_rows(tmp_path / "new" / "a.csv", 0, ending=ValueError("no"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt):
        write_rows(tmp_path / "a.csv", 5, ending=KeyboardInterrupt())
    (tmp_path / "a.csv.resume").unlink()
    with pytest.raises(ValueError, match=r"a\.csv\.resume is missing or damaged: delete"):
        write_rows(tmp_path / "a.csv", 1, resume=True)
    assert (tmp_path / "a.csv.part").read_text() == "name\n0\n1\n2\n3\n4\n"
    (tmp_path / "b.csv").write_text("old")
    monkeypatch.setattr(os, "chmod", lambda *_, **__: (_ for _ in ()).throw(PermissionError(1, "no")))  # as of CIFS
    write_rows(tmp_path / "b.csv", 2)
    assert (tmp_path / "b.csv").read_text() == "name\n0\n1\n"


def test_a_full_disk_keeps_the_rows_so_far(tmp_path, capsys):
    with pytest.raises(OSError, match="No space left on device"):
        write_rows(tmp_path / "a.csv", 2, full=True)
    assert (tmp_path / "a.csv.part").read_text() == "name\n0\n1\n"
    assert capsys.readouterr().err == f"{tmp_path}/a.csv.part: contains the 2 pictures classified so far.\n"


def test_with_nothing_to_resume_it_starts_from_the_beginning(folder, tmp_path):
    arguments = (folder / "0.png", "--model", folder / "q3_cnn.pt", "--resume", "--csv")
    done = run("predict.py", *arguments, tmp_path / "a.csv")
    assert f"{tmp_path}/a.csv.part not found, so nothing to resume: starting from the beginning." in done.stdout
    assert "--resume needs an output file: name one" in error_of(run("predict.py", *arguments, "-"))


def test_in_pieces_each_row_of_an_hdf5_file_has_its_own_picture(folder):
    found = {record["file"]: record["probabilities"] for record in json.loads((folder / "whole/a.json").read_text())}
    path = folder / "cutouts.h5"
    assert list(found)[70:] == [f"{path}[{row}]" for row in range(ROWS)]
    logits = plain_logits(folder / "q3_cnn.pt", torch.from_numpy(galaxies(100)).permute(0, 3, 1, 2))
    limit = float32_tolerance(products_of(make_cnn()), logits)  # the last bits depend on which pictures share a batch
    for row in (99, 2047, 2048, 2599):  # images repeat after a hundred
        np.testing.assert_allclose(found[f"{path}[{row}]"], logits.softmax(2).mean(0)[row % 100], atol=limit, rtol=0)
