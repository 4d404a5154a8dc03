"""predict.py on many pictures: rows are kept as they come, and an interrupted run resumes to the same bytes."""

import hashlib
import json
import os
import signal
import stat
import time

import predict
from common.storage.atomic import exclusive_lock
from q3_cnn import make_cnn
from use.pieces import Classifier
from use.rows import Rows

import numpy as np
import pytest
import torch
from conftest import float32_tolerance, products_of, run
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
    options = ("--model", folder / "q3_cnn.pt", "--truth", folder / "truth.csv", "--quiet", "--crops", 1)
    return list(map(str, (*pictures, *options, *outputs, *more)))


def after_table(printed):
    return printed[printed.index("mean probability") :]


def interrupted(folder, out, ending):
    """Start or resume a run and end it by a signal when more rows are written; return its status and its stderr."""
    errors, part = out / "stderr", out / "a.csv.part"
    before = part.stat().st_size if part.exists() else 0
    process = start("predict.py", *arguments(folder, out, "--resume"), log="/dev/null", errors=errors)
    while process.is_alive() and not (part.exists() and part.stat().st_size > before + 5000):
        time.sleep(0.02)
    os.kill(process.pid, ending)
    process.join()
    text = errors.read_text()
    errors.unlink()
    return process.exitcode, text


def test_a_run_ended_by_signals_resumes_to_the_same_bytes_and_is_not_repeated(folder, tmp_path):
    (tmp_path / "a.csv").write_text("old")
    for ending, expected in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        status, errors = interrupted(folder, tmp_path, ending)
        count = len((tmp_path / "a.csv.part").read_text().splitlines()) - 1
        sentence = f"{tmp_path}/a.csv.part: contains the {count:,} pictures classified so far.\n"
        assert (status, sentence in errors) == (expected, ending != signal.SIGKILL)
    with open(tmp_path / "a.csv.part", "ab") as file:
        file.write(b"cutouts.h5[2000],cutouts[20")  # torn
    assert (tmp_path / "a.csv").read_text() == "old"
    done = run("predict.py", *arguments(folder, tmp_path, "--resume"))
    assert after_table(done.stdout) == (folder / "whole.txt").read_text()
    assert done.stderr == (folder / "whole.err").read_text()  # which names what could not be read before, too
    done = run("predict.py", *arguments(folder, tmp_path, "--resume"))
    assert (done.returncode, done.stdout.splitlines()[-1].endswith("complete, nothing to do.")) == (0, True)
    for name in OUTPUTS.values():
        assert (tmp_path / name).read_bytes() == (folder / "whole" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*OUTPUTS.values(), "a.csv.resume"])


def write_rows(path, count, resume=False, ending=None, full=False, crops=9):
    """Write rows of CSV and features, one in a batch, then fill the disk, raise `ending` or complete them."""
    rows = Rows(path, ["features"])
    with rows.writing({"--crops": crops}, b"name\n", resume):
        for number in range(rows.count, rows.count + count):
            contents = {"csv": b"%d\n" % number, "features": bytes([number] * 4)}
            rows.append(contents, 1, 0, number + 1, [f"{number}?"], [number])
        if full:
            rows.files[1] = open("/dev/full", "ab")  # noqa: SIM115
            rows.append({"csv": b"row\n", "features": b"1234"}, 1, 0, count + 1)
        if ending:
            raise ending
        rows.end(is_output=True)
    return rows


def interrupted_rows(path, count, **options):
    with pytest.raises(KeyboardInterrupt):
        write_rows(path, count, ending=KeyboardInterrupt(), **options)


def test_rows_of_a_run_with_other_settings_are_not_continued(tmp_path):
    interrupted_rows(tmp_path / "a.csv", 3)
    sentence = r"a\.csv\.part holds the rows of an interrupted run: add --resume to continue it, or delete it"
    with pytest.raises(ValueError, match=sentence):
        write_rows(tmp_path / "a.csv", 1)
    with pytest.raises(ValueError, match=r"a\.csv\.resume belongs to a run with --crops 9, not 4: delete"):
        write_rows(tmp_path / "a.csv", 1, resume=True, crops=4)
    assert (tmp_path / "a.csv.part").read_text() == "name\n0\n1\n2\n"


def test_the_settings_hold_everything_that_determines_the_outputs(tmp_path):
    (tmp_path / "truth.csv").write_bytes(b"a,0\n")
    classifier = Classifier("q3_cnn.pt", "its hash", 9, False, "cpu", 1.0, False)
    given = classifier, tmp_path / "truth.csv", ["a.png", "b.png"], {"--csv": tmp_path / "a.csv"}
    assert predict.settings_of(*given) == {
        "--crops": 9, "--symmetries": False, "--field": 1.0, "--temperature": 1.0, "network": "its hash",
        "pictures": hashlib.sha256(b"a.png\0b.png").hexdigest(), "true classes": hashlib.sha256(b"a,0\n").hexdigest(),
        "files to write": {"--csv": str(tmp_path / "a.csv")}}  # fmt: skip


def test_with_nothing_to_resume_it_starts_from_the_beginning(tmp_path, capsys):
    write_rows(tmp_path / "a.csv", 1, resume=True)
    sentence = f"{tmp_path}/a.csv.part not found, so nothing to resume: starting from the beginning.\n"
    assert capsys.readouterr().out == sentence


def test_a_run_interrupted_before_the_first_rows_keeps_nothing_and_says_so(tmp_path, capsys):
    interrupted_rows(tmp_path / "new" / "a.csv", 0)
    sentence = "interrupted before the first pictures were classified: nothing was saved\n"
    assert capsys.readouterr().err == sentence
    with pytest.raises(ValueError, match="no"):
        write_rows(tmp_path / "a.csv", 0, ending=ValueError("no"))
    assert capsys.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


def test_of_two_runs_at_once_the_second_is_refused(tmp_path):
    sentence = r"another run is writing a\.csv\.resume there: wait for it"
    with exclusive_lock(tmp_path, "a.csv.resume"), pytest.raises(BlockingIOError, match=sentence):
        write_rows(tmp_path / "a.csv", 1)
    write_rows(tmp_path / "a.csv", 1)


def test_incomplete_rows_are_dropped_on_resume(tmp_path):
    for torn in ("a.csv.part", "a.csv.part.features", "a.csv.resume"):
        for resume in (False, True):
            interrupted_rows(tmp_path / "a.csv", 3, resume=resume)
            os.truncate(tmp_path / torn, (tmp_path / torn).stat().st_size - 1)
        rows = write_rows(tmp_path / "a.csv", 1, resume=True)
        assert (rows.count, rows.done) == (5, 5)
        assert (rows.errors, rows.trained) == ([f"{number}?" for number in range(5)], set(range(5)))
        assert (tmp_path / "a.csv").read_text() == "name\n0\n1\n2\n3\n4\n"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.csv.resume"]


def test_rows_without_their_journal_are_kept(tmp_path):
    interrupted_rows(tmp_path / "a.csv", 5)
    (tmp_path / "a.csv.resume").unlink()
    with pytest.raises(ValueError, match=r"a\.csv\.resume is missing or damaged: delete"):
        write_rows(tmp_path / "a.csv", 1, resume=True)
    assert (tmp_path / "a.csv.part").read_text() == "name\n0\n1\n2\n3\n4\n"


def test_a_link_stays_and_its_target_is_replaced_with_its_mode(tmp_path):
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "real.csv").chmod(0o640)
    (tmp_path / "link.csv").symlink_to("real.csv")
    write_rows(tmp_path / "link.csv", 2)
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text() == "name\n0\n1\n"
    assert stat.S_IMODE((tmp_path / "real.csv").stat().st_mode) == 0o640


def test_a_full_disk_keeps_the_rows_so_far(tmp_path, capsys):
    with pytest.raises(OSError, match="No space left on device"):
        write_rows(tmp_path / "a.csv", 2, full=True)
    assert (tmp_path / "a.csv.part").read_text() == "name\n0\n1\n"
    assert capsys.readouterr().err == f"{tmp_path}/a.csv.part: contains the 2 pictures classified so far.\n"


def test_each_row_of_an_hdf5_file_has_the_prediction_of_its_picture(folder):
    found = {record["file"]: record["probabilities"] for record in json.loads((folder / "whole/a.json").read_text())}
    path = folder / "cutouts.h5"
    assert list(found)[70:] == [f"{path}[{row}]" for row in range(ROWS)]
    rows = (99, 2047, 2048, 2599)
    images = torch.from_numpy(galaxies(100)[[row % 100 for row in rows]])  # which repeat after a hundred
    logits = plain_logits(folder / "q3_cnn.pt", images.permute(0, 3, 1, 2), [(10, 10)])
    limit = float32_tolerance(products_of(make_cnn()), logits)  # the last bits depend on which pictures share a batch
    for row, expected in zip(rows, logits[0].softmax(1), strict=True):
        np.testing.assert_allclose(found[f"{path}[{row}]"], expected, atol=limit, rtol=0)
